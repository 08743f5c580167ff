// SPDX-License-Identifier: Apache-2.0
// Attention to chosen pages: bounds that no score exceeds, all pages to the bit, masses that are never
// understated; and indices that follow their caches.
#include "gqa/sparse_attention.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "gqa/kv/cache.hpp"
#include "gqa/kv/paged.hpp"
#include "gqa/mask/mask_fn.hpp"
#include "gqa/mask/per_head.hpp"
#include "gqa/reference/attention.hpp"
#include "support/attention_case.hpp"
#include "support/message_of.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::message_of;
using test::random_values;
using test::Sizes;

template <class T>
IndexedCache<KVCache<T>> empty_cache(const Sizes& s, Index max_tokens) {
  return IndexedCache(KVCache<T>({.max_tokens = max_tokens,
                                  .num_kv_heads = s.num_kv_heads,
                                  .head_dim = s.head_dim,
                                  .value_dim = s.value_dim}));
}
/// Keys and values of a case, as many tokens a span.
template <class T>
IndexedCache<KVCache<T>> cache_of(const AttentionCase<T>& c, Index step) {
  auto cache = empty_cache<T>(c.sizes, c.sizes.num_kv_tokens);
  for (Index t = 0; t < c.sizes.num_kv_tokens; t += step) {
    const Index n = std::min(step, c.sizes.num_kv_tokens - t);
    cache.write(0, cache.extend(n),
                TensorView<const T>(c.k_view().at(0, t, 0), n, c.sizes.num_kv_heads, c.sizes.head_dim),
                TensorView<const T>(c.v_view().at(0, t, 0), n, c.sizes.num_kv_heads, c.sizes.value_dim));
  }
  return cache;
}

/// The oracle's probabilities, of all keys.
template <class T>
reference::Solution exact(AttentionCase<T>& c) {
  auto problem = c.problem();
  problem.visible = [](Index, Index q_pos, Index kv_pos) { return kv_pos <= q_pos; };
  return reference::attention(problem);
}

template <class T>
class Sparse : public ::testing::Test {
 public:
  static std::vector<T> output(const Sizes& s) {
    return std::vector<T>(static_cast<std::size_t>(s.num_q_tokens * s.num_q_heads * s.value_dim), T(7));
  }
  static TensorView<T> view(std::vector<T>& out, const Sizes& s) {
    return {out.data(), s.num_q_tokens, s.num_q_heads, s.value_dim};
  }
};
using Scalars = ::testing::Types<float, double, bfloat16>;
TYPED_TEST_SUITE(Sparse, Scalars);

TYPED_TEST(Sparse, NoScoreExceedsItsPagesBound) {
  using T = TypeParam;
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    AttentionCase<T> c(
        {.num_q_tokens = 2, .num_kv_tokens = 331, .num_q_heads = 6, .num_kv_heads = 2, .head_dim = 4}, seed);
    // Keys along the queries come near their bounds.
    const double sign = seed == 2 ? -1 : 1;
    for (auto* x : {&c.q, &c.k})
      for (T& value : *x)
        if (seed > 1) value = static_cast<T>(sign * std::abs(static_cast<double>(value)));
    // Where a page's keys are all alike, its bound is their score.
    for (Index j = 0; j < 331; ++j)
      if (seed == 3)
        std::copy_n(&c.k[static_cast<std::size_t>(j / 64 * 64 * 8)], 8,
                    &c.k[static_cast<std::size_t>(j * 8)]);
    const auto cache = cache_of(c, seed == 1 ? 331 : 50);
    const PageBounds<Accumulator<T>> bounds(c.q_view(), cache, 0, 0.3);
    ASSERT_EQ(bounds.num_pages(), 6);
    for (Index t = 0; t < 2; ++t)
      for (Index h = 0; h < 6; ++h)
        for (Index j = 0; j < 331; ++j) {
          double score = 0;
          for (Index d = 0; d < 4; ++d)
            score += static_cast<double>(c.q_view().at(0, t, h)[d]) *
                     static_cast<double>(c.k_view().at(0, j, h / 3)[d]);
          ASSERT_LE(0.3 * score, bounds(t, h, j / 64)) << t << ", " << h << ", " << j;
        }
  }
}

TYPED_TEST(Sparse, AllPagesAreAttentionToTheBit) {
  using T = TypeParam;
  const Sizes s{.num_q_tokens = 3,
                .num_kv_tokens = 700,
                .num_q_heads = 6,
                .num_kv_heads = 2,
                .head_dim = 24,
                .value_dim = 16};
  AttentionCase<T> c(s, 4);
  const auto cache = cache_of(c, 64);
  auto out = this->output(s), expected = out;
  attention(c.q_view(), cache.layer(0), this->view(expected, s), causal());
  for (const Index pages : {11, 12, 1000}) {
    const SparseReport report = sparse_attention(c.q_view(), cache, 0, this->view(out, s), {.pages = pages});
    EXPECT_TRUE(std::equal(out.begin(), out.end(), expected.begin())) << pages;
    EXPECT_EQ(report.pages, 11);
    EXPECT_EQ(report.pages_read, 11);
    EXPECT_EQ(report.most_unread_mass, 0);
  }
}

TYPED_TEST(Sparse, ReadsThePagesItSaysAndNeverUnderstatesWhatItLeaves) {
  using T = TypeParam;
  const Sizes s{.num_q_tokens = 1, .num_kv_tokens = 650, .num_q_heads = 6, .num_kv_heads = 2, .head_dim = 8};
  for (const double spread : {0.2, 1.0, 3.0}) {
    AttentionCase<T> c(s, 5);
    for (T& x : c.q) x = static_cast<T>(spread * static_cast<double>(x));
    const auto cache = cache_of(c, 650);
    const auto full = exact(c);
    for (const Index pages : {1, 3, 8}) {
      auto out = this->output(s), expected = out;
      const SparseOptions options{.pages = pages, .sinks = 1, .recent = 20};
      const SparseReport report = sparse_attention(c.q_view(), cache, 0, this->view(out, s), options);
      const PageBounds<Accumulator<T>> bounds(c.q_view(), cache, 0);
      const PageSelection selection = bounds.select(options);
      attention(
          c.q_view(), cache.layer(0), this->view(expected, s), per_head([&](Index h) {
            return mask_fn([&, h](Index, Index kv_pos) { return selection.contains(h / 3, kv_pos / 64); });
          }));
      EXPECT_TRUE(std::equal(out.begin(), out.end(), expected.begin()));
      for (Index g = 0; g < 2; ++g) {
        EXPECT_TRUE(selection.contains(g, 0) && selection.contains(g, 10)) << "the sinks and the last tokens";
        EXPECT_GE(selection.count(g), pages);
        EXPECT_LE(selection.count(g), pages + 3);
      }
      for (Index h = 0; h < 6; ++h) {
        double unread = 0;
        for (Index j = 0; j < 650; ++j)
          if (!selection.contains(h / 3, j / 64))
            unread += full.probabilities[static_cast<std::size_t>(h * 650 + j)];
        const double bound = report.unread_mass[static_cast<std::size_t>(h)];
        EXPECT_LE(unread, bound) << "head " << h << ", " << pages << " pages";
        EXPECT_LE(bound, report.most_unread_mass);
        EXPECT_LE(bound, 1);
      }
    }
  }
}

TYPED_TEST(Sparse, ReadsOnUntilTheMassIsThere) {
  using T = TypeParam;
  const Sizes s{.num_q_tokens = 2, .num_kv_tokens = 900, .num_q_heads = 4, .num_kv_heads = 2, .head_dim = 8};
  AttentionCase<T> c(s, 6);
  // Keys that grow along the sequence in one direction: bounds that tell pages apart.
  for (Index j = 0; j < 900; ++j)
    for (Index g = 0; g < 2; ++g) {
      T* const key = &c.k[static_cast<std::size_t>((j * 2 + g) * 8)];
      for (Index d = 0; d < 8; ++d)
        key[d] =
            static_cast<T>(0.1 * static_cast<double>(key[d]) + (d == 0 ? 0.2 * static_cast<double>(j) : 0));
    }
  for (T& x : c.q) x = static_cast<T>(std::abs(static_cast<double>(x)) + 0.5);
  const auto cache = cache_of(c, 900);
  auto out = this->output(s);
  const SparseReport few = sparse_attention(c.q_view(), cache, 0, this->view(out, s), {.pages = 1});
  double last = few.pages_read;
  for (const double mass : {0.5, 0.9, 0.99, 0.999999}) {
    const SparseReport report =
        sparse_attention(c.q_view(), cache, 0, this->view(out, s), {.pages = 1, .min_mass = mass});
    EXPECT_LE(report.most_unread_mass, 1 - mass);
    EXPECT_GE(report.pages_read, last);
    last = report.pages_read;
  }
  EXPECT_GT(last, few.pages_read);
  // Where but a millionth is missing, so is it of the output, whose values are below 8.
  const auto full = exact(c);
  const double rounding = sizeof(T) == 2 ? 0x1p-6 : 1e-5;
  for (std::size_t i = 0; i < out.size(); ++i)
    EXPECT_NEAR(static_cast<double>(out[i]), full.out[i], 2e-6 * 8 + rounding * 8) << i;
  EXPECT_LT(last, 15) << "far keys stay unread";
}

TEST(IndexedCache, FollowsWhatHappensToItsCache) {
  const Sizes s{.num_q_tokens = 1, .num_kv_tokens = 200, .num_q_heads = 2, .num_kv_heads = 1, .head_dim = 8};
  AttentionCase<float> c(s, 7);
  auto cache = cache_of(c, 200);
  const auto bounds_hold = [&](const auto& indexed, const std::vector<float>& keys) {
    for (std::size_t j = 0; j < keys.size() / 8; ++j)
      for (std::size_t d = 0; d < 8; ++d) {
        const float* const page = indexed.bounds(0, 0) + j / 64 * 16;
        if (!(page[d] >= keys[j * 8 + d] && page[8 + d] <= keys[j * 8 + d])) return false;
      }
    return indexed.num_pages(0) == ceil_div(static_cast<Index>(keys.size() / 8), Index{64});
  };
  EXPECT_TRUE(bounds_hold(cache, c.k));
  const auto copy = cache.clone();
  // Truncated, and other keys in their place: larger and smaller ones.
  cache.truncate(100);
  auto keys = c.k;
  keys.resize(800);
  EXPECT_TRUE(bounds_hold(cache, keys));
  const auto more = random_values<float>(8, 90 * 8, 30);
  cache.write(0, cache.extend(90), TensorView<const float>(more.data(), 90, 1, 8),
              TensorView<const float>(c.v.data(), 90, 1, 8));
  keys.insert(keys.end(), more.begin(), more.end());
  EXPECT_TRUE(bounds_hold(cache, keys));
  EXPECT_TRUE(bounds_hold(copy, c.k));
  // A page that is begun anew forgets what was there before.
  cache.truncate(128);
  const std::vector<float> zeros(8);
  cache.write(0, cache.extend(1), TensorView<const float>(zeros.data(), 1, 1, 8),
              TensorView<const float>(zeros.data(), 1, 1, 8));
  EXPECT_EQ(cache.bounds(0, 0)[2 * 16], 0);
  EXPECT_EQ(cache.bounds(0, 0)[2 * 16 + 8], 0);
  // A token that is written once more leaves the others' bounds alone.
  const auto key = [&](float x) { return std::vector<float>(8, x); };
  cache.truncate(128);
  const Span one = cache.extend(1), two = cache.extend(1);
  for (const auto& [span, x] : {std::pair{one, 1.f}, {two, 5.f}, {one, 2.f}})
    cache.write(0, span, TensorView<const float>(key(x).data(), 1, 1, 8),
                TensorView<const float>(zeros.data(), 1, 1, 8));
  EXPECT_EQ(cache.bounds(0, 0)[2 * 16], 5);
  cache.clear();
  EXPECT_EQ(cache.num_pages(0), 0);
  EXPECT_EQ(cache.index_bytes(), 0);
  // A cache that has tokens already, a paged one.
  PagedCache<float> pool({.num_pages = 8, .num_kv_heads = 1, .head_dim = 8});
  const auto id = pool.create();
  pool.write(0, id, pool.extend(id, 200), c.k_view(), c.v_view());
  const IndexedCache paged(pool.sequence(id));
  EXPECT_TRUE(bounds_hold(paged, c.k));
}

TEST(IndexedCache, ReadsAPageOfNaNAlways) {
  const Sizes s{.num_q_tokens = 1, .num_kv_tokens = 640, .num_q_heads = 2, .num_kv_heads = 2, .head_dim = 8};
  AttentionCase<float> c(s, 9);
  c.k[static_cast<std::size_t>((200 * 2 + 1) * 8 + 3)] = std::numeric_limits<float>::quiet_NaN();
  const auto cache = cache_of(c, 640);
  std::vector<float> out(16);
  const auto selection = PageBounds<float>(c.q_view(), cache, 0).select({.pages = 1, .sinks = 0});
  EXPECT_TRUE(selection.contains(1, 3));
  sparse_attention(c.q_view(), cache, 0, TensorView<float>(out.data(), 1, 2, 8), {.pages = 1, .sinks = 0});
  EXPECT_TRUE(std::isfinite(out[0]));
  EXPECT_TRUE(std::isnan(out[8]));
}

TEST(SparseAttention, RefusesWhatCannotBe) {
  const Sizes s{.num_q_tokens = 2, .num_kv_tokens = 100, .num_q_heads = 4, .num_kv_heads = 2, .head_dim = 8};
  AttentionCase<float> c(s, 10);
  const auto cache = cache_of(c, 100);
  std::vector<float> out(64, 7);
  const auto said = [&](const SparseOptions& options, TensorView<const float> q) {
    return message_of(
        [&] { sparse_attention(q, cache, 0, TensorView<float>(out.data(), 2, 4, 8), options); });
  };
  EXPECT_EQ(said({}, c.q_view()), "pages is 0, expected at least 1 of 64 tokens");
  EXPECT_EQ(said({.pages = 1, .sinks = -1}, c.q_view()), "sinks is -1, expected at least 0");
  EXPECT_EQ(said({.pages = 1, .recent = 1}, c.q_view()), "recent is 1, expected at least the 2 tokens of q");
  EXPECT_EQ(said({.pages = 1, .min_mass = 1}, c.q_view()),
            "min_mass is 1, expected at least 0 and less than 1");
  EXPECT_EQ(said({.pages = 1, .scale = -1.0}, c.q_view()), "scale is -1, expected a positive number");
  EXPECT_EQ(said({.pages = 1}, {c.q.data(), 2, 3, 8}),
            "q: heads is 3, expected a multiple of the 2 of the cache");
  EXPECT_EQ(said({.pages = 1}, {c.q.data(), 2, 4, 7}), "q: dim is 7, expected 8");
  EXPECT_EQ(out, std::vector<float>(64, 7));
  EXPECT_THROW(PageSelection(2, 1, 3, 64).add(0, 3), std::out_of_range);
  EXPECT_EQ(message_of([] { PageSelection(3, 2, 3, 64); }),
            "pages: num_q_heads is 3, expected a multiple of the 2 of num_kv_heads");
  EXPECT_EQ(message_of([&] {
              attention(c.q_view(), cache.layer(0), TensorView<float>(out.data(), 2, 4, 8),
                        PageSelection(6, 2, 2, 64));
            }),
            "pages: selected for 6 query heads, expected 4");
}

}  // namespace
}  // namespace gqa
