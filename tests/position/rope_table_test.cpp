// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <Eigen/Core>

#include <limits>
#include <string>
#include <vector>

#include "gqa/position/rope_table.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace {

using gqa::Index;
using gqa::Range;
using gqa::Rope;
using gqa::RopeLayout;
using gqa::RopeScaling;
using gqa::RopeTable;
using gqa::TensorView;
using gqa::test::message_of;
using gqa::test::random_values;

template <class T>
class RopeTableOf : public testing::Test {};
using Scalars = testing::Types<float, double, gqa::half, gqa::bfloat16>;
TYPED_TEST_SUITE(RopeTableOf, Scalars);

TYPED_TEST(RopeTableOf, GivesTheBitsOfRope) {
  using T = TypeParam;
  const Index tokens = 5, heads = 3, dim = 28, size = tokens * heads * dim;
  for (const RopeLayout layout : {RopeLayout::half, RopeLayout::interleaved}) {
    const Rope rope({.layout = layout,
                     .head_dim = dim,
                     .rotary_dim = 22,
                     .scaling = RopeScaling::yarn({.factor = 4, .original_context = 4096})});
    RopeTable<gqa::Accumulator<T>> table(rope, Range{90, 120});
    for (const Index first : {90, 100, 115}) {
      std::vector<T> expected = random_values<T>(1, size), actual = expected;
      rope.apply(TensorView<T>(expected.data(), tokens, heads, dim), first);
      table.apply(TensorView<T>(actual.data(), tokens, heads, dim), first);
      EXPECT_EQ(actual, expected) << first;
      const std::vector<Index> jumps{first, 119, 90, first, 101};  // looked up in the table
      rope.apply(TensorView<T>(expected.data(), tokens, heads, dim), jumps);
      table.apply(TensorView<T>(actual.data(), tokens, heads, dim), jumps);
      EXPECT_EQ(actual, expected) << first;
    }
    // Ragged: two sequences at positions of their own, then both at the same.
    const std::vector<Index> own{3, 1000, 7, 8, 9, 131072, 0, 1, 2, 2}, shared{4, 2, 0, 2, 4};
    for (const std::vector<Index>& positions : {own, shared}) {
      table.assign(positions);
      EXPECT_EQ(table.size(), static_cast<Index>(positions.size()));
      EXPECT_TRUE(table.range().empty());
      std::vector<T> expected = random_values<T>(2, 2 * size), actual = expected;
      rope.apply(TensorView<T>(expected.data(), 2, tokens, heads, dim), positions);
      table.apply(TensorView<T>(actual.data(), 2, tokens, heads, dim));
      EXPECT_EQ(actual, expected);
    }
  }
}

TEST(RopeTable, FollowsADecodeWithoutNewMemory) {
  const Rope rope({.layout = RopeLayout::half, .head_dim = 16});
  RopeTable table(rope);
  EXPECT_EQ(table.size(), 0);
  for (Index position = 131070; position < 131075; ++position) {
    table.assign({position, position + 1});
    EXPECT_EQ(table.range(), (Range{position, position + 1}));
    EXPECT_EQ(table.bytes(), 16 * sizeof(float));
    std::vector<float> expected = random_values<float>(3, 32), actual = expected;
    rope.apply(TensorView<float>(expected.data(), 1, 2, 16), position);
    table.apply(TensorView<float>(actual.data(), 1, 2, 16), position);
    EXPECT_EQ(actual, expected);
  }
}

TEST(RopeTable, RefusesPositionsItDoesNotHold) {
  const Rope rope({.layout = RopeLayout::half, .head_dim = 8});
  RopeTable table(rope, Range{10, 20});
  const std::vector<float> before = random_values<float>(4, 3 * 8);
  std::vector<float> x = before;
  const TensorView<float> view(x.data(), 3, 1, 8);
  EXPECT_EQ(message_of([&] { table.apply(view, 9); }),
            "x: positions are [9, 12), expected some of the table's [10, 20)");
  EXPECT_EQ(message_of([&] { table.apply(view, 18); }),
            "x: positions are [18, 21), expected some of the table's [10, 20)");
  EXPECT_EQ(message_of([&] { table.apply(view, -1); }), "rope: position is -1, expected at least 0");
  EXPECT_EQ(message_of([&] { table.apply(view); }),
            "positions: size is 10, expected the 3 tokens of x or the 3 of all its batches");
  EXPECT_EQ(message_of([&] { table.apply(TensorView<float>(x.data(), 1, 1, 24), 10); }),
            "x: head_dim is 24, expected 8");
  EXPECT_EQ(x, before);
  table.apply(TensorView<float>(nullptr, 0, 1, 8), 0);  // no tokens, no positions needed

  EXPECT_THROW(table.assign(Range{-1, 4}), std::invalid_argument);
  EXPECT_THROW(table.assign(std::vector<Index>{1, -1}), std::invalid_argument);
  EXPECT_EQ(table.range(), (Range{10, 20}));  // as it was
  EXPECT_THROW(table.assign(Range{0, std::numeric_limits<Index>::max()}), std::length_error);
  EXPECT_EQ(table.range(), (Range{10, 20}));
  table.assign(std::vector<Index>{10, 11, 12});
  EXPECT_EQ(message_of([&] { table.apply(view, 10); }),
            "x: positions are [10, 13), expected some of the table's [0, 0)");
}

}  // namespace
