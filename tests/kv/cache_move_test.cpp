// SPDX-License-Identifier: Apache-2.0
// A cache's spans and views go where it goes, and name the cache they belong to.
#include <gtest/gtest.h>

#include <optional>
#include <type_traits>
#include <vector>

#include "gqa/kv/cache.hpp"
#include "gqa/kv/kv_list.hpp"
#include "kv/cache_reader.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

using test::message_of;

using Cache = KVCache<bfloat16>;

static_assert(!std::is_copy_constructible_v<Cache> && !std::is_copy_assignable_v<Cache>);
static_assert(std::is_nothrow_move_constructible_v<Cache> && std::is_nothrow_move_assignable_v<Cache>);

template <class F>
std::string invalid(F&& f) {
  return message_of<std::invalid_argument>(f);
}

const std::vector<bfloat16> memory = test::random_values<bfloat16>(1, 4000);

TensorView<const bfloat16> tokens(Index n, Index first = 0) { return {memory.data() + 4 * first, n, 2, 2}; }

Cache cache_of(Index n, Index max_tokens = 600) {
  Cache cache({.max_tokens = max_tokens, .num_kv_heads = 2, .head_dim = 2});
  cache.append(tokens(n), tokens(n));
  return cache;
}

/// The first n tokens of a view are those of the memory from `first` on.
template <class View>
void expect_tokens(const View& view, Index n, Index first = 0) {
  ASSERT_EQ(view.retained(0), (Range{0, n}));
  for (Index t = 0; t < n; ++t) {
    for (Index head : {0, 1}) {
      const test::Token token(view, 0, head, t);
      for (Index d : {0, 1}) {
        ASSERT_EQ(token.k(d), tokens(1, first + t).at(0, 0, head)[d]);
        ASSERT_EQ(token.v(d), tokens(1, first + t).at(0, 0, head)[d]);
      }
    }
  }
}

TEST(CacheMove, ViewsAndSpansFollow) {
  Cache cache = cache_of(5);
  const auto view = cache.layer(0);
  const Span span = cache.extend(3);
  Cache moved = std::move(cache);
  expect_tokens(view, 5);
  moved.write(0, span, tokens(3, 5), tokens(3, 5));
  expect_tokens(view, 8);
  Cache assigned({.max_tokens = 1, .num_kv_heads = 1, .head_dim = 1});
  assigned = std::move(moved);
  EXPECT_EQ(assigned.capacity(), 600);
  expect_tokens(view, 8);
  assigned.clear();
  EXPECT_EQ(invalid([&] { view.retained(0); }),
            "view: the cache was cleared after the view of layer 0 was taken");
}

TEST(CacheMove, AGrowingVectorKeepsItsViews) {
  std::vector<Cache> caches;
  std::vector<Cache::View> views;
  for (Index i = 0; i < 20; ++i) {
    caches.push_back(cache_of(5 + i));
    views.push_back(caches.back().layer(0));
  }
  for (Index i = 0; i < 20; ++i) expect_tokens(views[static_cast<std::size_t>(i)], 5 + i);
  const KVList<Cache::View> list(views);
  caches.erase(caches.begin());  // moves each into the place of the one before
  for (Index i = 1; i < 20; ++i) expect_tokens(views[static_cast<std::size_t>(i)], 5 + i);
  EXPECT_EQ(list.retained(19), (Range{0, 24}));
  EXPECT_THROW(list.retained(0), std::invalid_argument);
}

TEST(CacheMove, TheCacheMovedFromIsEmptyAndRefuses) {
  Cache cache = cache_of(5);
  const Span span = cache.extend(0);
  const Cache moved = std::move(cache);
  EXPECT_EQ(moved.size(), 5);
  EXPECT_EQ(cache.size(), 0);
  EXPECT_EQ(cache.capacity(), 0);
  EXPECT_EQ(cache.num_layers(), 0);
  EXPECT_EQ(cache.num_kv_heads(), 0);
  EXPECT_EQ(cache.head_dim(), 0);
  EXPECT_EQ(cache.value_dim(), 0);
  EXPECT_EQ(cache.bytes_per_token(), 0);
  EXPECT_EQ(cache.bytes(), 0);
  EXPECT_EQ(cache.allocated_bytes(), 0);
  EXPECT_EQ(cache.padding_bytes(), 0);
  EXPECT_EQ(cache.bookkeeping_bytes(), static_cast<Index>(sizeof cache));
  EXPECT_EQ(invalid([&] { cache.extend(1); }), "extend: the cache was moved from");
  EXPECT_EQ(invalid([&] { cache.extend(0); }), "extend: the cache was moved from");
  EXPECT_EQ(invalid([&] { cache.write(0, span, tokens(0), tokens(0)); }), "write: the cache was moved from");
  EXPECT_EQ(invalid([&] { cache.append(tokens(1), tokens(1)); }), "append: the cache was moved from");
  EXPECT_EQ(invalid([&] { cache.layer(0); }), "layer: the cache was moved from");
  EXPECT_EQ(invalid([&] { as_kv_view(cache); }), "layer: the cache was moved from");
  EXPECT_EQ(invalid([&] { cache.clone(); }), "clone: the cache was moved from");
  EXPECT_EQ(invalid([&] { cache.truncate(1); }), "truncate: n is 1, expected 0 to the 0 tokens there are");
  std::vector<bfloat16> room(4);
  const TensorView<bfloat16> out(room.data(), 1, 2, 2);
  EXPECT_EQ(invalid([&] { cache.read(0, {0, 1}, out, out); }), "read: the cache was moved from");
  cache.truncate(0);
  cache.clear();
  cache = cache_of(3);
  expect_tokens(cache.layer(0), 3);
}

TEST(CacheMove, AListMovedFromRefuses) {
  const Cache cache = cache_of(5);
  KVList<Cache::View> list({cache.layer(0), cache.layer(0)});
  const KVList<Cache::View> moved = std::move(list);
  EXPECT_EQ(moved.retained(1), (Range{0, 5}));
  EXPECT_EQ(list.num_seqs(), 0);
  EXPECT_EQ(invalid([&] { list.num_kv_heads(); }), "KVList: the list was moved from");
  EXPECT_EQ(invalid([&] { list.value_dim(); }), "KVList: the list was moved from");
}

TEST(CacheMove, ToItselfIsNothing) {
  Cache cache = cache_of(5);
  const auto view = cache.layer(0);
  Cache& same = cache;
  cache = std::move(same);
  expect_tokens(cache.layer(0), 5);
  expect_tokens(view, 5);
}

TEST(CacheViews, OfACacheThatIsGoneSaySo) {
  std::optional<Cache> cache = cache_of(5);
  const auto view = cache->layer(0);
  const auto copy = view;
  cache.reset();
  const std::string gone = "view: the cache was destroyed after the view of layer 0 was taken";
  EXPECT_EQ(invalid([&] { view.retained(0); }), gone);
  EXPECT_EQ(invalid([&] { copy.retained(0); }), gone);
  EXPECT_EQ(invalid([&] { view.tile(0, 0, {0, 1}, nullptr); }), gone);
  EXPECT_EQ(view.head_dim(), 2);
  Cache first = cache_of(5);
  const auto overwritten = first.layer(0);
  first = cache_of(7);
  EXPECT_EQ(invalid([&] { overwritten.retained(0); }), gone);
  expect_tokens(first.layer(0), 7);
}

TEST(CacheViews, OfBeforeAClearReadNoTile) {
  Cache cache = cache_of(5);
  const auto view = cache.layer(0);
  cache.clear();
  EXPECT_EQ(invalid([&] {
              view.tile(0, 0, {0, 1}, nullptr);
            }),
            "view: the cache was cleared after the view of layer 0 was taken");
}

TEST(CacheSpans, NameTheirCache) {
  Cache one({.max_tokens = 9, .num_kv_heads = 2, .head_dim = 2});
  Cache other({.max_tokens = 9, .num_kv_heads = 2, .head_dim = 2});
  const Span of_one = one.extend(2), of_other = other.extend(2);
  EXPECT_EQ(of_one.positions, of_other.positions);
  EXPECT_EQ(invalid([&] { other.write(0, of_one, tokens(2), tokens(2)); }),
            "span: tokens 0 to 2 are not, or no longer, among the 2 of the cache");
  one.truncate(1);  // and back: whatever epochs there are, none comes twice
  other.truncate(1);
  const Span again = one.extend(1);
  other.extend(1);
  EXPECT_THROW(one.write(0, of_other, tokens(2), tokens(2)), std::invalid_argument);
  EXPECT_THROW(other.write(0, again, tokens(1), tokens(1)), std::invalid_argument);
  EXPECT_THROW(one.write(0, Span{{0, 0}}, tokens(0), tokens(0)), std::invalid_argument);
  other = std::move(one);
  EXPECT_THROW(other.write(0, of_other, tokens(2), tokens(2)), std::invalid_argument);
  other.write(0, Span{{0, 1}, again.epoch}, tokens(1), tokens(1));
}

TEST(CacheClone, HasTheTokensAndItsOwnEpochs) {
  Cache cache({.max_tokens = 700, .num_layers = 2, .num_kv_heads = 2, .head_dim = 2});
  const Span all = cache.extend(601);
  for (Index layer : {0, 1}) cache.write(layer, all, tokens(601, layer), tokens(601, layer));
  const auto view = cache.layer(1);
  const Span open = cache.extend(2);
  cache.write(0, open, tokens(2, 601), tokens(2, 601));
  Cache clone = cache.clone();
  EXPECT_EQ(clone.size(), 603);
  EXPECT_EQ(clone.capacity(), 700);
  EXPECT_EQ(clone.num_layers(), 2);
  EXPECT_EQ(clone.bytes(), cache.bytes());
  EXPECT_EQ(clone.allocated_bytes(), cache.allocated_bytes());
  EXPECT_EQ(clone.layer(1).retained(0), (Range{0, 601})) << "as far as the layer is written";
  expect_tokens(clone.layer(0), 603);
  EXPECT_THROW(clone.write(1, open, tokens(2), tokens(2)), std::invalid_argument);
  clone.truncate(601);
  const Span next = clone.extend(1);
  EXPECT_THROW(cache.write(1, next, tokens(1), tokens(1)), std::invalid_argument);
  for (Index layer : {0, 1}) clone.write(layer, next, tokens(1, layer + 601), tokens(1, layer + 601));
  for (Index layer : {0, 1}) expect_tokens(clone.layer(layer), 602, layer);
  cache.write(1, open, tokens(2, 602), tokens(2, 602));
  expect_tokens(view, 603, 1);
  cache.clear();
  for (Index layer : {0, 1}) expect_tokens(clone.layer(layer), 602, layer);
}

TEST(CacheClone, TakesNoMemoryForTokensForgotten) {
  Cache cache = cache_of(600);
  cache.truncate(5);
  EXPECT_EQ(cache.clone().allocated_bytes(), cache.allocated_bytes() / 2);
  expect_tokens(cache.clone().layer(0), 5);
  cache.clear();
  EXPECT_EQ(cache.clone().allocated_bytes(), 0);
  Cache clone = cache.clone();
  clone.append(tokens(9), tokens(9));
  expect_tokens(clone.layer(0), 9);
}

}  // namespace
}  // namespace gqa
