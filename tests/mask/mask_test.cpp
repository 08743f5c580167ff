// SPDX-License-Identifier: Apache-2.0
// Each mask against its formula written out again: every block, every row, every bound.
#include "gqa/mask.hpp"

#include <gtest/gtest.h>

#include "mask/mask_laws.hpp"

namespace gqa {
namespace {

using test::Exactness;
using test::expect_large_blocks_hold;
using test::expect_mask_is;

constexpr auto exact = Exactness::exact;

TEST(Mask, NoMaskSeesEverything) {
  expect_mask_is(
      no_mask(), [](Index, Index) { return true; }, exact);
}

TEST(Mask, CausalSeesItselfAndThePast) {
  const auto formula = [](Index q, Index kv) { return kv <= q; };
  expect_mask_is(causal(), formula, exact);
  expect_large_blocks_hold(causal(), formula, exact, 1);
}

TEST(Mask, SlidingWindowHoldsWKeysItselfIncluded) {
  for (Index W : {1, 2, 5, 17, 1000}) {
    expect_mask_is(
        sliding_window(W), [=](Index q, Index kv) { return q - W < kv && kv <= q; }, exact);
  }
  Index seen = 0;
  for (Index kv = 0; kv < 100; ++kv) seen += sliding_window(7)(50, kv);
  EXPECT_EQ(seen, 7);
}

TEST(Mask, WindowSidesAreInclusiveAndMinusOneIsUnbounded) {
  for (Index left : {-1, 0, 1, 4}) {
    for (Index right : {-1, 0, 2, 6}) {
      const auto formula = [=](Index q, Index kv) {
        return (left == -1 || q - kv <= left) && (right == -1 || kv - q <= right);
      };
      expect_mask_is(window(left, right), formula, exact);
      expect_large_blocks_hold(window(left, right), formula, exact, 2);
    }
  }
  EXPECT_EQ(window(-1, 0), causal());
  EXPECT_EQ(window(6, 0), sliding_window(7));
}

TEST(Mask, HugeWindowsDoNotOverflow) {
  const Index huge = std::numeric_limits<Index>::max();
  const Window wide = window(huge, huge);
  EXPECT_TRUE(wide(-5, 0));
  EXPECT_TRUE(wide(0, Index{1} << 40));
  EXPECT_EQ(wide.coverage({-5, Index{1} << 40}, {0, Index{1} << 40}), Coverage::full);
  EXPECT_TRUE(sliding_window(huge)(Index{1} << 40, 0));
}

TEST(Mask, WindowBoundsAreAFewKeysOfALongContext) {
  EXPECT_EQ(kv_bounds(sliding_window(1024), {262143, 262144}), (Range{261120, 262144}));
  EXPECT_EQ(kv_bounds(causal() & sliding_window(1024), {262143, 262144}), (Range{261120, 262144}));
  EXPECT_EQ(kv_bounds(chunked(8192), {262145, 262146}), (Range{262144, 262146}));
  EXPECT_EQ(kv_bounds(causal(), {10, 20}), (Range{0, 20}));
  EXPECT_TRUE(kv_bounds(causal(), {-3, 0}).empty());
  EXPECT_TRUE(kv_bounds(no_mask(), {5, 5}).empty());
}

TEST(Mask, ChunkedStartsAfresh) {
  for (Index size : {1, 3, 8, 100}) {
    const auto formula = [=](Index q, Index kv) { return q >= 0 && q / size == kv / size && kv <= q; };
    expect_mask_is(chunked(size), formula, exact);
    expect_large_blocks_hold(chunked(size), formula, exact, 3);
  }
}

TEST(Mask, PrefixSeesBothWaysThenCausal) {
  for (Index n : {0, 1, 5, 30}) {
    expect_mask_is(
        prefix(n), [=](Index q, Index kv) { return kv <= q || kv < n; }, exact);
  }
}

TEST(Mask, SinksStayVisibleButNeverEarly) {
  for (Index n : {0, 1, 4, 30}) {
    expect_mask_is(
        sinks(n), [=](Index q, Index kv) { return kv < n && kv <= q; }, exact);
  }
}

TEST(Mask, DocumentsSeeTheirOwn) {
  const std::vector<int> ids = {0, 0, 0, 2, 2, 3, 7, 7, 7, 7, 7, 8, 9, 9};
  const auto formula = [=](Index q, Index kv) {
    const Index n = static_cast<Index>(ids.size());
    return q >= 0 && q < n && kv < n && ids[static_cast<std::size_t>(q)] == ids[static_cast<std::size_t>(kv)];
  };
  expect_mask_is(document(ids), formula, exact);
  expect_mask_is(
      document({5}), [](Index q, Index kv) { return q == 0 && kv == 0; }, exact);
  expect_mask_is(
      document(std::vector<Index>{}), [](Index, Index) { return false; }, exact);
}

TEST(Mask, DilatedSeesMultiplesOfItsStep) {
  for (Index step : {1, 2, 3, 7, 40, 64, 100}) {
    const auto formula = [=](Index q, Index kv) { return (q > kv ? q - kv : kv - q) % step == 0; };
    expect_mask_is(dilated(step), formula, exact);
    expect_large_blocks_hold(dilated(step), formula, exact, 4);
  }
}

/// Follows the parents up from the query, the slow way.
bool descends(const std::vector<Index>& parents, Index first, Index q, Index kv) {
  if (q < first) return kv <= q;
  if (q >= first + static_cast<Index>(parents.size())) return false;
  for (Index node = q - first; node >= 0; node = parents[static_cast<std::size_t>(node)]) {
    if (kv == first + node) return true;
  }
  return kv < first;
}

TEST(Mask, TreeNodesSeeTheirAncestors) {
  //        -1       0       2
  //       / | \    / \    /   \.
  //      0  2  7  1   4  3 5   6
  const std::vector<Index> parents = {-1, 0, -1, 2, 0, 2, 2, -1};
  for (Index first : {0, 3, 9}) {
    expect_mask_is(
        tree(parents, first), [&](Index q, Index kv) { return descends(parents, first, q, kv); }, exact);
  }
}

TEST(Mask, RandomTreesLargerThanAWord) {
  for (const std::uint64_t seed : test::seeds(4)) {
    test::Random random(seed);
    std::vector<Index> parents;
    for (Index node = 0; node < 150; ++node)
      parents.push_back(random.integer(std::max<Index>(-1, node - 9), node - 1));
    const Index first = random.integer(0, 130);
    expect_large_blocks_hold(
        tree(parents, first), [&](Index q, Index kv) { return descends(parents, first, q, kv); }, exact,
        seed);
  }
}

TEST(Mask, BlocksOfABitmap) {
  const bool allowed[] = {true,  false, false, true,   //
                          true,  true,  false, false,  //
                          false, false, false, false};
  for (const auto& [q_block, kv_block] : {std::pair<Index, Index>{4, 3}, {1, 1}, {5, 4}, {7, 20}}) {
    const auto mask = blocks(BlockMask::from_bitmap({3, 4, q_block, kv_block}, allowed));
    const auto formula = [&, qb = q_block, kb = kv_block](Index q, Index kv) {
      return q >= 0 && q / qb < 3 && kv / kb < 4 && allowed[q / qb * 4 + kv / kb];
    };
    expect_mask_is(mask, formula, exact);
  }
}

TEST(Mask, BlocksOfAPredicateLargerThanAWord) {
  for (const std::uint64_t seed : test::seeds(4)) {
    const auto allowed = [=](Index i, Index j) {
      return (i * 31 + j * 17 + static_cast<Index>(seed)) % 5 < 3;
    };
    const Index size = seed % 2 ? 2 : 3;
    const auto mask = blocks(BlockMask::from_predicate({150, 140, size, size}, allowed));
    expect_large_blocks_hold(
        mask,
        [=](Index q, Index kv) { return q / size < 150 && kv / size < 140 && allowed(q / size, kv / size); },
        exact, seed);
  }
  const auto diagonal =
      blocks(BlockMask::from_predicate({10, 200, 1, 1}, [](Index i, Index j) { return j == 10 * i + 65; }));
  EXPECT_EQ(kv_bounds(diagonal, {2, 5}), (Range{85, 106}));
  EXPECT_DOUBLE_EQ(BlockMask::from_predicate({4, 8}, [](Index i, Index j) { return i == j; }).density(),
                   0.125);
}

TEST(Mask, LambdaNeedsNoCoverage) {
  const auto lambda = [](Index q, Index kv) { return (q * 5 + kv * 3) % 4 != 0; };
  expect_mask_is(mask_fn(lambda), lambda, Exactness::sound);
  expect_mask_is(
      causal() & lambda, [=](Index q, Index kv) { return kv <= q && lambda(q, kv); }, Exactness::sound);
  expect_mask_is(
      lambda | sliding_window(3), [=](Index q, Index kv) { return (q - 3 < kv && kv <= q) || lambda(q, kv); },
      Exactness::sound);
  EXPECT_EQ((causal() & lambda).coverage({0, 8}, {8, 16}), Coverage::none);
  EXPECT_EQ((causal() | lambda).coverage({8, 16}, {0, 8}), Coverage::full);
}

TEST(Mask, AnyMaskIsTheMaskItHolds) {
  const AnyMask any = sinks(2) | sliding_window(4);
  expect_mask_is(
      mask_for(any, 0, 0), [](Index q, Index kv) { return kv <= q && (kv < 2 || kv > q - 4); },
      Exactness::sound);
  EXPECT_EQ(kv_bounds(AnyMask(sliding_window(4)).at(0, 0), {100, 101}), (Range{97, 101}));
  const std::vector<AnyMask> list = {causal(), [](Index q, Index kv) { return q == kv; }, any};
  EXPECT_TRUE(list[1].at(0, 0)(3, 3));
  EXPECT_FALSE(list[1].at(0, 0)(3, 2));
  expect_mask_is(
      mask_for(list[0], 0, 0), [](Index q, Index kv) { return kv <= q; }, exact);
}

TEST(Mask, LayerPatternsRepeat) {
  const LayerPattern gemma3(5, 1), alternate(1, 1);
  Index locals = 0;
  for (Index layer = 0; layer < 62; ++layer) {
    EXPECT_EQ(gemma3.is_local(layer), (layer + 1) % 6 != 0) << layer;
    EXPECT_EQ(alternate.is_local(layer), layer % 2 == 0) << layer;
    locals += gemma3.is_local(layer);
    EXPECT_EQ(gemma3.count_local(layer + 1), locals);
  }
  EXPECT_EQ(locals, 52);  // Gemma 3 27B
  EXPECT_EQ(gemma3.mask(4, 1024), sliding_window(1024));
  EXPECT_EQ(gemma3.mask(5, 1024), causal());
  EXPECT_EQ(LayerPattern(0, 1).count_local(9), 0);
  EXPECT_EQ(LayerPattern(1, 0).count_local(9), 9);
}

}  // namespace
}  // namespace gqa
