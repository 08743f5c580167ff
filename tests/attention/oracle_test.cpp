// SPDX-License-Identifier: Apache-2.0
// Attention against the oracle, over tensors and over a cache: every dtype, group size, length and head_dim.
#include <gtest/gtest.h>

#include "attention/attend.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::expect_oracle;
using test::How;
using test::Sizes;

template <class T>
class Oracle : public ::testing::Test {};
TYPED_TEST_SUITE(Oracle, test::AllScalars, test::ScalarNames);

TYPED_TEST(Oracle, Lengths) {
  std::uint64_t seed = 1;
  for (Index Sk : {0, 1, 2, 15, 16, 17, 63, 64, 65, 127, 239, 513, 1100}) {
    for (Index Sq : {Index{1}, Index{2}, Index{33}, Sk}) {
      if (Sq > 300) continue;
      const Sizes sizes{Sq, Sk, 4, 2, 40};
      expect_oracle<TypeParam>(sizes, seed++, {.mask = causal()});
      expect_oracle<TypeParam>(sizes, seed++);
    }
  }
}

TYPED_TEST(Oracle, GroupSizes) {
  std::uint64_t seed = 100;
  for (const auto& [H, G] :
       {std::pair<Index, Index>{1, 1}, {3, 3}, {6, 2}, {4, 1}, {8, 2}, {7, 1}, {71, 1}, {142, 2}}) {
    for (Index Sq : {1, 5, 12})
      expect_oracle<TypeParam>(Sizes{Sq, 130, H, G, 24}, seed++, {.mask = causal()});
  }
}

TYPED_TEST(Oracle, HeadDims) {
  std::uint64_t seed = 200;
  for (Index D : {1, 7, 40, 64, 80, 96, 112, 128, 192, 256, 257}) {
    for (Index Dv : {D, Index{1}, Index{50}, Index{128}}) {
      for (Index Sq : {1, 9})
        expect_oracle<TypeParam>(Sizes{Sq, 75, 4, 2, D, Dv}, seed++, {.mask = causal()});
    }
  }
}

TYPED_TEST(Oracle, AHeadDimPastAChunkOfScores) {
  expect_oracle<TypeParam>(Sizes{2, 40, 2, 1, 600, 1030}, 250);  // queries are packed through the score rows
}

TYPED_TEST(Oracle, Windows) {
  std::uint64_t seed = 300;
  for (const Window mask : {sliding_window(1), sliding_window(64), sliding_window(100), window(0, 0),
                            window(10, -1), window(-1, 30), window(5, 80)}) {
    for (const Sizes& sizes : {Sizes{150, 150, 4, 2, 16}, Sizes{1, 600, 4, 2, 16}, Sizes{20, 90, 4, 2, 16}})
      expect_oracle<TypeParam>(sizes, seed++, {.mask = mask});
  }
}

TYPED_TEST(Oracle, QueriesElsewhereThanAtTheEnd) {
  std::uint64_t seed = 400;
  for (Index offset : {0, 1, 50, 63, 64, 80, 89, 90, 200, -1, -5, -300}) {
    for (const Window mask : {causal(), sliding_window(20), no_mask()})
      expect_oracle<TypeParam>(Sizes{10, 90, 4, 2, 16}, seed++, {.mask = mask, .q_offset = offset});
  }
}

TYPED_TEST(Oracle, MoreQueriesThanKeys) {
  std::uint64_t seed = 500;
  for (Index Sk : {0, 1, 5, 64, 70}) {
    expect_oracle<TypeParam>(Sizes{100, Sk, 6, 2, 16}, seed++, {.mask = causal()});
    expect_oracle<TypeParam>(Sizes{100, Sk, 6, 2, 16}, seed++, {.mask = sliding_window(3)});
    expect_oracle<TypeParam>(Sizes{100, Sk, 6, 2, 16}, seed++);
  }
}

TYPED_TEST(Oracle, CrossAttention) {
  expect_oracle<TypeParam>(Sizes{37, 229, 8, 8, 64}, 600);
  expect_oracle<TypeParam>(Sizes{229, 37, 8, 4, 64}, 601);
}

TYPED_TEST(Oracle, Scales) {
  std::uint64_t seed = 700;
  for (double scale : {1.0, -0.25, 0.0, -0.0, 0.01, 2.5, -1e-30, 1e-300}) {
    expect_oracle<TypeParam>(Sizes{1, 100, 4, 2, 16}, seed++, {.scale = scale});
    expect_oracle<TypeParam>(Sizes{20, 100, 4, 2, 16}, seed++, {.mask = causal(), .scale = scale});
  }
}

TYPED_TEST(Oracle, ScoresThatDiffer) {
  // Queries and keys 8 times as large: the softmax is nearly a choice of one key, and an error is large where
  // two keys are nearly the same. Which run meets such a row is chance, so that many are taken together.
  double error = 0, naive_error = 0;
  for (std::uint64_t seed = 800; seed < 840; ++seed) {
    AttentionCase<TypeParam> c(Sizes{10, 100, 4, 2, 64}, seed);
    for (auto& x : c.q) x = static_cast<TypeParam>(static_cast<double>(x) * 8);
    for (auto& x : c.k) x = static_cast<TypeParam>(static_cast<double>(x) * 8);
    const How how{.mask = causal()};
    const auto problem = test::problem_of(c, how);
    const auto exact = reference::attention(problem), naive = test::naive_attention<TypeParam>(problem);
    const auto result = test::run(c, how);
    for (std::size_t i = 0; i < exact.out.size(); ++i) {
      error += std::abs(static_cast<double>(result.out[i]) - exact.out[i]);
      naive_error += std::abs(naive.out[i] - exact.out[i]);
    }
  }
  EXPECT_LE(error, 2 * naive_error);
}

TYPED_TEST(Oracle, ScoresBeyondExp) {
  // Each head prefers one key by thousands; far from where exp over- and underflows.
  AttentionCase<TypeParam> c(Sizes{3, 100, 2, 1, 4}, 801);
  for (auto& x : c.q) x = static_cast<TypeParam>(static_cast<double>(x) * 200);
  for (auto& x : c.k) x = static_cast<TypeParam>(static_cast<double>(x) * 200);
  const auto problem = test::problem_of(c, {});
  const auto exact = reference::attention(problem);
  const auto result = test::run(c, {});
  for (std::size_t i = 0; i < result.out.size(); ++i)
    ASSERT_NEAR(static_cast<double>(result.out[i]), exact.out[i], 0.05) << i;
}

TYPED_TEST(Oracle, RandomShapes) {
  for (std::uint64_t seed : test::seeds(60)) {
    test::Random random(seed);
    const Index G = random.integer(1, 4), group = random.pick(std::vector<Index>{1, 2, 3, 4, 7, 16});
    const Index Sk = random.integer(0, random.flip(0.2) ? 1200 : 200);
    const Index Sq = random.flip(0.3) ? 1 : random.integer(0, 40);
    const Index D = random.integer(1, 70), Dv = random.flip() ? D : random.integer(1, 70);
    How how;
    const Index kind = random.integer(0, 3);
    if (kind == 0) how.mask = causal();
    if (kind == 1) how.mask = sliding_window(random.integer(1, 300));
    if (kind == 2) how.mask = window(random.integer(-1, 100), random.integer(-1, 100));
    if (random.flip(0.3)) how.q_offset = random.integer(-20, Sk + 20);
    if (random.flip(0.3)) how.scale = random.uniform(-1, 1);
    SCOPED_TRACE("seed " + std::to_string(seed));
    expect_oracle<TypeParam>(Sizes{Sq, Sk, G * group, G, D, Dv}, seed, how);
  }
}

/// Rows [begin, end) of a long case, as a problem of their own.
template <class T>
void expect_rows(const AttentionCase<T>& c, const test::Result<T>& result, const How& how, Index begin,
                 Index end) {
  const Sizes& s = c.sizes;
  Sizes few = s;
  few.num_q_tokens = end - begin;
  AttentionCase<T> rows(few, 1);
  const Index each = s.num_q_heads * s.head_dim;
  rows.q.assign(c.q.begin() + begin * each, c.q.begin() + end * each);
  rows.k = c.k;
  rows.v = c.v;
  How there = how;
  there.q_offset = how.q_offset.value_or(s.num_kv_tokens - s.num_q_tokens) + begin;
  const auto problem = test::problem_of(rows, there);
  const auto exact = reference::attention(problem);
  EXPECT_TRUE(test::within_bound(result.tokens(begin, end, s.num_q_tokens), problem, exact,
                                 test::naive_attention<T>(problem)))
      << "rows " << begin << " to " << end;
}

TYPED_TEST(Oracle, PrefillOf8191) {
  const AttentionCase<TypeParam> c(Sizes{8191, 8191, 2, 1, 8, 24}, 900);
  test::Threads threads(2);
  const How how{.mask = causal(), .threads = &threads};
  const auto result = test::run(c, how);
  for (Index begin : {0, 63, 511, 4096, 8186}) expect_rows(c, result, how, begin, begin + 5);
}

TYPED_TEST(Oracle, DecodeOver8191) {
  for (const Sizes& sizes :
       {Sizes{1, 8191, 8, 2, 64}, Sizes{4, 8191, 4, 1, 24}, Sizes{1, 8191, 3, 3, 112, 40}})
    expect_oracle<TypeParam>(sizes, 901, {.mask = causal()});
}

}  // namespace
}  // namespace gqa
