// SPDX-License-Identifier: Apache-2.0
// Attention mass against brute force, what is kept by it, and a cache that keeps it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <unsupported/Eigen/CXX11/Tensor>

#include "gqa/attention.hpp"
#include "gqa/inspect/attention_mass.hpp"
#include "gqa/kv/evicting.hpp"
#include "gqa/kv/evicting_sequence.hpp"
#include "gqa/kv/paged.hpp"
#include "gqa/mask/compose.hpp"
#include "gqa/mask/mask_fn.hpp"
#include "gqa/mask/per_head.hpp"
#include "support/attention_case.hpp"
#include "support/message_of.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::message_of;
using test::random_values;
using test::Sizes;
using Lists = std::vector<std::vector<Index>>;

static_assert(Cache<EvictingCache<float>>);
static_assert(Cache<EvictingSequence<float>>);

constexpr Sizes sizes{.num_q_tokens = 5,
                      .num_kv_tokens = 200,
                      .num_q_heads = 6,
                      .num_kv_heads = 2,
                      .head_dim = 8,
                      .value_dim = 12};

template <class T>
TensorView<const T> part(TensorView<const T> x, Index begin, Index end) {
  return {x.at(0, begin, 0), end - begin, x.heads, x.dim};
}
/// A cache of two layers with the first n tokens of a case in both.
template <class T>
EvictingCache<T> cache_of(const AttentionCase<T>& c, Index n) {
  EvictingCache<T> cache(
      {.max_tokens = 200, .num_layers = 2, .num_kv_heads = 2, .head_dim = 8, .value_dim = 12});
  const Span span = cache.extend(n);
  for (Index i = 0; i < 2; ++i) cache.write(i, span, part(c.k_view(), 0, n), part(c.v_view(), 0, n));
  return cache;
}
template <class T, class View, class... X>
std::vector<T> attend(const AttentionCase<T>& c, const View& view, const X&... extras) {
  std::vector<T> out(5 * 6 * 12);
  attention(c.q_view(), view, TensorView<T>(out.data(), 5, 6, 12), extras...);
  return out;
}

TEST(AttentionMass, IsTheColumnSumsOfProbabilities) {
  AttentionCase<float> c(sizes, 1);
  auto problem = c.problem();
  problem.visible = [](Index, Index q_pos, Index kv_pos) { return kv_pos <= q_pos; };
  const auto exact = reference::attention(problem);
  AttentionMass mass(6, 2);
  // A few tokens at a time, so that rows come in several pieces.
  for_probabilities(
      c.q_view(), c.k_view(), c.v_view(), {.memory = 2 * 6 * 200 * 4},
      [&](const ProbabilityRows& rows) { mass.add(rows); }, causal());
  ASSERT_EQ(mass.num_keys(), 200);
  for (Index g = 0; g < 2; ++g)
    for (Index j = 0; j < 200; ++j) {
      double sum = 0;
      for (Index t = 0; t < 5; ++t)
        for (Index h = 3 * g; h < 3 * g + 3; ++h)
          sum += exact.probabilities[static_cast<std::size_t>((t * 6 + h) * 200 + j)];
      EXPECT_NEAR(mass.of(g)[static_cast<std::size_t>(j)], sum, 1e-5 * (sum + 1e-3)) << g << ", " << j;
    }
  mass.keep(Lists{{3, 7}, {0, 199}});
  EXPECT_EQ(mass.num_keys(), 2);
}

TEST(Eviction, KeepsWhatItsRuleSays) {
  // One query head a KV head, rows as they are.
  const float rows[] = {.1f, .5f, 0, .2f, 0, .1f, .1f, /**/ .3f, 0, .3f, 0, .2f, .1f, .1f};
  AttentionMass mass(2, 2);
  mass.add({.data = rows, .num_tokens = 1, .num_heads = 2, .num_keys = 7});
  EXPECT_EQ(heavy_hitters(mass, 4, 2), (Lists{{1, 3, 5, 6}, {0, 2, 5, 6}}));
  EXPECT_EQ(heavy_hitters(mass, 3, 0), (Lists{{0, 1, 3}, {0, 2, 4}}));
  EXPECT_EQ(heavy_hitters(mass, 9, 2), (Lists(2, {0, 1, 2, 3, 4, 5, 6})));
  EXPECT_EQ(snap_slots(mass, 4, 1, 3), (Lists{{0, 1, 2, 6}, {0, 1, 2, 6}}));
  EXPECT_EQ(snap_slots(mass, 4, 1, 1), (Lists{{0, 1, 3, 6}, {0, 2, 4, 6}}));
  EXPECT_EQ(sinks_and_recent(7, 2, 3, 1), (Lists(2, {0, 5, 6})));
  EXPECT_EQ(sinks_and_recent(2, 1, 5, 1), (Lists(1, {0, 1})));
}

template <class T>
class Evicting : public ::testing::Test {};
using Scalars = ::testing::Types<float, bfloat16>;
TYPED_TEST_SUITE(Evicting, Scalars);

TYPED_TEST(Evicting, AllKeptAreTheSameBits) {
  using T = TypeParam;
  const AttentionCase<T> c(sizes, 2);
  auto cache = cache_of(c, 200);
  const auto before = attend(c, cache.layer(0), causal());
  std::vector<Index> all(200);
  std::iota(all.begin(), all.end(), Index{0});
  cache.evict(0, Lists{all, all});
  EXPECT_EQ(attend(c, cache.layer(0), causal()), before);
}

/// Kept slots attend as the same keys do where they stand, up to the order of sums.
TYPED_TEST(Evicting, ReadsWhatEachHeadKept) {
  using T = TypeParam;
  const AttentionCase<T> c(sizes, 3);
  auto cache = cache_of(c, 180);
  Lists kept(2);
  for (Index slot = 0; slot < 180; ++slot) {
    if (slot % 3 == 0) kept[0].push_back(slot);
    if (slot % 3 == 1) kept[1].push_back(slot);
  }
  cache.evict(1, kept);
  EXPECT_EQ(cache.slots(1), 60);
  EXPECT_EQ(cache.slots(0), 180);
  const Span span = cache.extend(20);
  EXPECT_EQ(span.positions, (Range{180, 200}));
  for (Index i = 0; i < 2; ++i) cache.write(i, span, part(c.k_view(), 180, 200), part(c.v_view(), 180, 200));
  EXPECT_EQ(cache.size(), 200);
  EXPECT_EQ(cache.position(1, 1, 2), 7);
  EXPECT_EQ(cache.position(1, 0, 61), 181);
  EXPECT_EQ(cache.bytes(), (200 + 80) * 2 * 20 * Index{sizeof(T)});

  const auto got = attend(c, cache.layer(1), causal());
  const auto expected =
      attend(c, ContiguousKV<T>(c.k_view(), c.v_view()),
             causal() & per_head([](Index h) {
               return mask_fn([h](Index, Index kv_pos) { return kv_pos >= 180 || kv_pos % 3 == h / 3; });
             }));
  for (std::size_t i = 0; i < got.size(); ++i)
    EXPECT_NEAR(static_cast<double>(got[i]), static_cast<double>(expected[i]), sizeof(T) == 2 ? 0x1p-6 : 1e-5)
        << i;

  // The other layer is as it was, and what is late is read by its position.
  EXPECT_EQ(attend(c, cache.layer(0), causal()),
            attend(c, ContiguousKV<T>(c.k_view(), c.v_view()), causal()));
  std::vector<T> k(5 * 2 * 8), v(5 * 2 * 12);
  cache.read(1, {190, 195}, TensorView<T>(k.data(), 5, 2, 8), TensorView<T>(v.data(), 5, 2, 12));
  EXPECT_EQ(std::memcmp(static_cast<const void*>(k.data()),
                        static_cast<const void*>(c.k_view().at(0, 190, 0)), k.size() * sizeof(T)),
            0);

  // A second eviction chooses among slots; positions stay what they were.
  cache.evict(1, Lists{{0, 59, 79}, {1, 2, 60}});
  EXPECT_EQ(cache.position(1, 0, 1), 177);
  EXPECT_EQ(cache.position(1, 1, 2), 180);
  EXPECT_EQ(cache.position(1, 0, 2), 199);
}

TEST(EvictingCache, RefusesWhatItCannotKeep) {
  const AttentionCase<float> c(sizes, 4);
  auto cache = cache_of(c, 100);
  const auto view = cache.layer(0);
  const auto said = [&](const Lists& kept) { return message_of([&] { cache.evict(0, kept); }); };
  EXPECT_EQ(said({{}, {}}), "evict: nothing is kept, expected at least 1 slot");
  EXPECT_EQ(said({{1, 2}}), "evict: kept has 1 lists, expected one for each of 2 KV heads");
  EXPECT_EQ(said({{1, 2}, {3}}), "evict: heads keep 2 and 1 slots, expected as many each");
  EXPECT_EQ(said({{1, 1}, {3, 4}}), "evict: slot 1, expected ascending ones of the 100 there are");
  EXPECT_EQ(said({{1, 100}, {3, 4}}), "evict: slot 100, expected ascending ones of the 100 there are");
  EXPECT_THROW(cache.evict(2, Lists{{1}, {1}}), std::out_of_range);
  EXPECT_EQ(view.retained(0).size(), 100);
  const Span span = cache.extend(2);
  EXPECT_EQ(said({{1}, {1}}), "evict: layer 0 is written up to 100 of its 102 slots");
  for (Index i = 0; i < 2; ++i) cache.write(i, span, part(c.k_view(), 100, 102), part(c.v_view(), 100, 102));
  cache.evict(0, Lists{{1, 5}, {1, 6}});
  EXPECT_THROW(view.retained(0), std::invalid_argument) << "a view from before the eviction";
  EXPECT_EQ(message_of([&] {
              cache.write(0, span, part(c.k_view(), 100, 102), part(c.v_view(), 100, 102));
            }).substr(0, 29),
            "span: tokens 100 to 102 are n");
  std::vector<float> k(16), v(24);
  EXPECT_EQ(message_of([&] {
              cache.read(0, {101, 102}, TensorView<float>(k.data(), 1, 2, 8),
                         TensorView<float>(v.data(), 1, 2, 12));
            }),
            "read: tokens from 101 on, expected those from 102 on, where layer 0 was last evicted from");
  EXPECT_EQ(message_of([&] { cache.truncate(101); }),
            "truncate: n is 101, expected at least 102, where tokens were last evicted");
  // Layer 1 has 102 slots of 200: no more than 98 more, whatever room layer 0 has.
  EXPECT_EQ(cache.capacity(), 200);
  const Span pending = cache.extend(1);
  EXPECT_THROW(cache.extend(98), std::length_error);
  for (Index i = 0; i < 2; ++i)  // a span from before the failure
    cache.write(i, pending, part(c.k_view(), 102, 103), part(c.v_view(), 102, 103));
  cache.truncate(102);
  EXPECT_EQ(cache.size(), 102);
  EXPECT_EQ(cache.slots(0), 2);
  cache.extend(5);
  cache.truncate(103);
  EXPECT_EQ(cache.slots(0), 3);
  EXPECT_EQ(cache.slots(1), 103);
  cache.truncate(0);
  EXPECT_EQ(cache.allocated_bytes(), 0);
  EXPECT_EQ(cache.extend(1).positions, (Range{0, 1}));

  AttentionMass mass(2, 2);
  EXPECT_EQ(message_of([&] { heavy_hitters(mass, 0, 0); }),
            "keep is 0, expected at least 1 and the 0 of recent");
  EXPECT_EQ(message_of([&] { snap_slots(mass, 3, 4); }),
            "keep is 3, expected at least 1 and the 4 of window");
  EXPECT_EQ(message_of([&] { snap_slots(mass, 5, 4, 2); }), "pool is 2, expected an odd number");
  EXPECT_EQ(message_of([] { AttentionMass(3, 2); }),
            "mass: num_q_heads is 3, expected a positive multiple of the 2 of num_kv_heads");
  EXPECT_EQ(message_of([&] { mass.keep(Lists{{0}, {0}}); }), "mass: slot 0, expected less than 0");
}

/// A pool of pages of 64 tokens, and tokens of a case in both layers of its sequences.
template <class T>
struct Pool {
  explicit Pool(const AttentionCase<T>& of, Index num_pages)
      : c(of),
        cache({.num_pages = num_pages, .num_layers = 2, .num_kv_heads = 2, .head_dim = 8, .value_dim = 12}) {}

  EvictingSequence<T> sequence() { return EvictingSequence<T>(cache.sequence(cache.create())); }
  void go_on(Cache auto& to, Index n) const {
    const Span span = to.extend(n);
    for (Index i = 0; i < 2; ++i)
      to.write(i, span, part(c.k_view(), span.positions.begin, span.positions.end),
               part(c.v_view(), span.positions.begin, span.positions.end));
  }
  /// Whether a sequence has the case's first n tokens.
  bool holds(SequenceId id, Index n) const {
    std::vector<T> k(static_cast<std::size_t>(n * 16)), v(static_cast<std::size_t>(n * 24));
    cache.read(1, id, {0, n}, TensorView<T>(k.data(), n, 2, 8), TensorView<T>(v.data(), n, 2, 12));
    const auto same = [](const std::vector<T>& x, const T* y) {
      return std::memcmp(static_cast<const void*>(x.data()), static_cast<const void*>(y),
                         x.size() * sizeof(T)) == 0;
    };
    return cache.size(id) == n && same(k, c.k_view().at(0, 0, 0)) && same(v, c.v_view().at(0, 0, 0));
  }

  const AttentionCase<T>& c;
  PagedCache<T> cache;
};

std::vector<Lists> every(Index step, Index slots, Index count) {
  std::vector<Lists> kept(2, Lists(2));
  for (Index layer = 0; layer < 2; ++layer)
    for (Index g = 0; g < 2; ++g)
      for (Index i = 0; i < count; ++i)
        kept[static_cast<std::size_t>(layer)][static_cast<std::size_t>(g)].push_back(
            std::min(step * i + layer + g, slots - count + i));
  return kept;
}

TYPED_TEST(Evicting, InPagesIsTheSameBits) {
  using T = TypeParam;
  const AttentionCase<T> c(sizes, 5);
  Pool<T> pool(c, 4);
  auto paged = pool.sequence();
  auto cache = cache_of(c, 0);
  const auto go_on = [&](Index n) {
    pool.go_on(paged, n);
    pool.go_on(cache, n);
  };
  const auto evict = [&](const std::vector<Lists>& kept) {
    paged.evict(kept);
    for (Index i = 0; i < 2; ++i) cache.evict(i, kept[static_cast<std::size_t>(i)]);
  };
  const auto expect_alike = [&] {
    ASSERT_EQ(paged.size(), cache.size());
    ASSERT_EQ(paged.slots(), cache.slots(0));
    EXPECT_EQ(paged.bytes(), cache.bytes());
    EXPECT_EQ(paged.oldest_truncation(), cache.oldest_truncation());
    for (Index i = 0; i < 2; ++i) {
      EXPECT_EQ(attend(c, paged.layer(i), causal()), attend(c, cache.layer(i), causal())) << i;
      for (Index g = 0; g < 2; ++g)
        for (Index slot = 0; slot < paged.slots(); ++slot)
          ASSERT_EQ(paged.position(i, g, slot), cache.position(i, g, slot)) << i << g << slot;
    }
  };
  go_on(150);
  evict(every(2, 150, 71));
  EXPECT_EQ(paged.allocated_bytes(), 2 * pool.cache.allocated_bytes() / 4);
  expect_alike();
  go_on(20);
  expect_alike();
  paged.truncate(160);
  cache.truncate(160);
  expect_alike();
  go_on(3);
  evict(every(1, 84, 9));
  go_on(37);
  expect_alike();
  EXPECT_EQ(pool.cache.statistics().used, 1);
}

TEST(EvictingSequence, GivesPagesToOthersWhereThereWereNone) {
  const AttentionCase<float> c(sizes, 6);
  Pool<float> pool(c, 4);
  auto mine = pool.sequence();
  pool.go_on(mine, 200);
  auto other = pool.cache.sequence(pool.cache.create());
  EXPECT_THROW(other.extend(1), std::length_error);
  mine.evict(every(3, 200, 60));
  EXPECT_EQ(pool.cache.statistics().free, 3);
  EXPECT_EQ(pool.cache.bytes(), 60 * pool.cache.bytes_per_token());
  pool.go_on(other, 192);
  EXPECT_TRUE(pool.holds(other.id(), 192));
  EXPECT_THROW(mine.extend(5), std::length_error);
  EXPECT_EQ(mine.extend(4).positions, (Range{200, 204}));
}

TEST(EvictingSequence, LeavesOthersWhatTheyShare) {
  const AttentionCase<float> c(sizes, 7);
  Pool<float> pool(c, 4);
  auto mine = pool.sequence();
  pool.go_on(mine, 200);
  const SequenceId fork = pool.cache.fork(mine.id());
  const auto view = mine.layer(1);
  const auto before = attend(c, view, causal());
  const auto counts = pool.cache.statistics();
  EXPECT_THROW(mine.evict(every(3, 200, 60)), std::length_error) << "all four pages are the fork's too";
  EXPECT_EQ(attend(c, view, causal()), before);
  EXPECT_EQ(mine.slots(), 200);
  EXPECT_EQ(pool.cache.statistics().shared, counts.shared);
  EXPECT_TRUE(pool.holds(fork, 200));

  Pool<float> larger(c, 6);
  auto evicted = larger.sequence();
  larger.go_on(evicted, 200);
  const SequenceId child = larger.cache.fork(evicted.id());
  evicted.evict(every(2, 200, 70));
  EXPECT_TRUE(larger.holds(child, 200));
  EXPECT_EQ(larger.cache.statistics().used, 6);
  EXPECT_EQ(larger.cache.statistics().shared, 0);
  larger.cache.free(child);
  EXPECT_EQ(larger.cache.statistics().used, 2);
}

TEST(EvictingSequence, LeavesPublishedTokensToBeFound) {
  const AttentionCase<float> c(sizes, 8);
  std::vector<TokenId> ids(128);
  std::iota(ids.begin(), ids.end(), TokenId{0});
  Pool<float> pool(c, 4);
  auto mine = pool.sequence();
  pool.go_on(mine, 130);
  pool.cache.publish(mine.id(), ids);
  mine.evict(every(2, 130, 60));
  EXPECT_NE(message_of([&] { pool.cache.publish(mine.id(), std::span(ids).first(60)); }), "");
  EXPECT_NE(message_of([&] { EvictingSequence<float>(pool.cache.sequence(mine.id())); }), "");
  const auto found = pool.cache.create(ids);
  EXPECT_EQ(found.tokens, 128);
  EXPECT_TRUE(pool.holds(found.id, 128));

  // Where there is nothing else, their memory is what is wanted.
  Pool<float> small(c, 2);
  auto only = small.sequence();
  small.go_on(only, 128);
  small.cache.publish(only.id(), ids);
  only.evict(every(1, 128, 100));
  EXPECT_EQ(only.slots(), 100);
  EXPECT_EQ(small.cache.create(ids).tokens, 0);
}

TEST(EvictingSequence, RefusesWhatItCannotKeep) {
  const AttentionCase<float> c(sizes, 9);
  Pool<float> pool(c, 4);
  auto sequence = pool.sequence();
  pool.go_on(sequence, 100);
  const auto view = sequence.layer(0);
  const auto said = [&](const std::vector<Lists>& kept) { return message_of([&] { sequence.evict(kept); }); };
  EXPECT_EQ(said({{{1}, {1}}}), "evict: kept has 1 layers, expected 2");
  EXPECT_EQ(said({{{1}, {1}}, {{1, 2}, {1, 2}}}), "evict: layers keep 1 and 2 slots, expected as many each");
  EXPECT_EQ(said({{{1}, {1}}, {{1}, {100}}}),
            "evict: slot 100, expected ascending ones of the 100 there are");
  EXPECT_EQ(view.retained(0).size(), 100);
  const Span span = sequence.extend(2);
  EXPECT_NE(said(every(1, 100, 5)), "") << "in the middle of a pass";
  for (Index i = 0; i < 2; ++i)
    sequence.write(i, span, part(c.k_view(), 100, 102), part(c.v_view(), 100, 102));
  sequence.evict(every(1, 102, 5));
  EXPECT_THROW(view.retained(0), std::invalid_argument) << "a view from before the eviction";
  EXPECT_EQ(message_of([&] {
              sequence.write(0, span, part(c.k_view(), 100, 102), part(c.v_view(), 100, 102));
            }).substr(0, 29),
            "span: tokens 100 to 102 are n");
  std::vector<float> k(16), v(24);
  EXPECT_THROW(sequence.read(0, {101, 102}, TensorView<float>(k.data(), 1, 2, 8),
                             TensorView<float>(v.data(), 1, 2, 12)),
               std::invalid_argument);
  EXPECT_THROW(sequence.truncate(101), std::invalid_argument);
  EXPECT_THROW(sequence.position(0, 0, 5), std::out_of_range);
  sequence.truncate(0);
  EXPECT_EQ(sequence.size(), 0);
  EXPECT_EQ(pool.cache.statistics().free, 4);
  EXPECT_EQ(sequence.extend(1).positions, (Range{0, 1}));
  pool.cache.free(sequence.id());
  EXPECT_THROW(sequence.evict(every(1, 1, 1)), std::exception);
}

}  // namespace
}  // namespace gqa
