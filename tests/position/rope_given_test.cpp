// SPDX-License-Identifier: Apache-2.0
// Tables of cos and sin that the caller gives.
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "gqa/position/rope_table.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace {

using gqa::Index;
using gqa::Range;
using gqa::Rope;
using gqa::RopeLayout;
using gqa::RopeTable;
using gqa::TensorView;
using gqa::test::message_of;
using gqa::test::random_values;

template <class T>
using Table = Eigen::Tensor<T, 2, Eigen::RowMajor>;

/// cos and sin of positions 0 to `count` - 1, one number a pair, or each twice as a layout has them.
template <class T>
std::pair<Table<T>, Table<T>> given(const Rope& rope, Index count, bool twice) {
  const Index pairs = rope.pairs(), width = twice ? 2 * pairs : pairs;
  std::pair<Table<T>, Table<T>> tables{Table<T>(count, width), Table<T>(count, width)};
  std::vector<double> cos(static_cast<std::size_t>(pairs)), sin = cos;
  for (Index p = 0; p < count; ++p) {
    rope.angles(p, rope.attention_factor(), cos.data(), sin.data());
    for (Index c = 0; c < width; ++c) {
      const bool interleaved = rope.config().layout == RopeLayout::interleaved;
      const auto pair = static_cast<std::size_t>(twice && interleaved ? c / 2 : c % pairs);
      tables.first(p, c) = static_cast<T>(cos[pair]);
      tables.second(p, c) = static_cast<T>(sin[pair]);
    }
  }
  return tables;
}

template <class T>
class RopeGiven : public testing::Test {};
using Scalars = testing::Types<float, double, gqa::half, gqa::bfloat16>;
TYPED_TEST_SUITE(RopeGiven, Scalars);

TYPED_TEST(RopeGiven, GivesTheBitsOfRope) {
  using T = TypeParam;
  using Acc = gqa::Accumulator<T>;
  const Index tokens = 5, heads = 3, dim = 28, rotary_dim = 22;
  for (const RopeLayout layout : {RopeLayout::half, RopeLayout::interleaved}) {
    const Rope rope({.layout = layout, .head_dim = dim, .rotary_dim = rotary_dim});
    for (const bool twice : {false, true}) {
      const auto [cos, sin] = given<Acc>(rope, 40, twice);
      const RopeTable<Acc> table({.layout = layout, .head_dim = dim, .rotary_dim = rotary_dim}, cos, sin);
      EXPECT_EQ(table.range(), (Range{0, 40}));
      std::vector<T> expected = random_values<T>(1, 2 * tokens * heads * dim), actual = expected;
      const TensorView<T> expected_view(expected.data(), 2, tokens, heads, dim),
          actual_view(actual.data(), 2, tokens, heads, dim);
      rope.apply(expected_view, 35);
      table.apply(actual_view, 35);
      EXPECT_EQ(actual, expected);
      const std::vector<Index> shared{4, 0, 39, 4, 7}, own{9, 8, 7, 6, 5, 0, 1, 2, 3, 39};
      for (const std::vector<Index>& positions : {shared, own}) {
        rope.apply(expected_view, positions);
        table.apply(actual_view, positions);
        EXPECT_EQ(actual, expected);
        rope.apply_transpose(expected_view, positions);
        table.apply_transpose(actual_view, positions);
        EXPECT_EQ(actual, expected);
      }
    }
  }
}

// Tables as models store them: of any type, in any memory.
TYPED_TEST(RopeGiven, ReadsTablesOfEveryTypeAndLayout) {
  using T = TypeParam;
  const gqa::RopeShape shape{.layout = RopeLayout::half, .head_dim = 16};
  const auto [cos, sin] = given<T>(Rope({.layout = RopeLayout::half, .head_dim = 16}), 9, true);
  Table<double> wide_cos(9, 8), wide_sin(9, 8);
  Eigen::Tensor<T, 2> reversed_cos(8, 9), reversed_sin(8, 9);  // column-major
  for (Index p = 0; p < 9; ++p) {
    for (Index i = 0; i < 8; ++i) {
      wide_cos(p, i) = static_cast<double>(cos(p, i)), wide_sin(p, i) = static_cast<double>(sin(p, i));
      reversed_cos(i, p) = cos(p, i), reversed_sin(i, p) = sin(p, i);
    }
  }
  const RopeTable<double> expected(shape, wide_cos, wide_sin), full(shape, cos, sin),
      reversed(shape, reversed_cos, reversed_sin),
      mapped(shape, Eigen::TensorMap<const Table<T>>(cos.data(), 9, 16),
             gqa::RowsView<const T>{sin.data(), 1, 9, 8, 0, 16, 1});
  const std::vector<double> x = random_values<double>(2, 9 * 2 * 16);
  const auto rotated = [&](const RopeTable<double>& table) {
    std::vector<double> y = x;
    table.apply(TensorView<double>(y.data(), 9, 2, 16), 0);
    return y;
  };
  EXPECT_NE(rotated(expected), x);
  EXPECT_EQ(rotated(full), rotated(expected));
  EXPECT_EQ(rotated(reversed), rotated(expected));
  EXPECT_EQ(rotated(mapped), rotated(expected));
}

Table<float> row(std::initializer_list<float> values) {
  Table<float> table(1, static_cast<Index>(values.size()));
  std::copy(values.begin(), values.end(), table.data());
  return table;
}

std::vector<float> rotated(const RopeTable<float>& table, std::vector<float> x) {
  table.apply(TensorView<float>(x.data(), 1, 1, static_cast<Index>(x.size())), 0);
  return x;
}

// Any numbers: nothing says that cos^2 + sin^2 is 1.
TEST(RopeGiven, ByHand) {
  const auto cos = row({2, 3}), sin = row({5, 7});
  EXPECT_EQ(rotated(RopeTable<float>({.layout = RopeLayout::half, .head_dim = 5, .rotary_dim = 4}, cos, sin),
                    {1, 10, 100, 1000, 9}),
            (std::vector<float>{2 - 500, 30 - 7000, 5 + 200, 70 + 3000, 9}));
  EXPECT_EQ(rotated(RopeTable<float>({.layout = RopeLayout::interleaved, .head_dim = 4}, cos, sin),
                    {1, 10, 100, 1000}),
            (std::vector<float>{2 - 50, 5 + 20, 300 - 7000, 700 + 3000}));
}

// As in models that rotate only some pairs of a head.
TEST(RopeGiven, FrequencyZeroLeavesAPairAsItIs) {
  const auto cos = row({0, 1, 0, 1}), sin = row({1, 0, 1, 0});
  EXPECT_EQ(
      rotated(RopeTable<float>({.layout = RopeLayout::half, .head_dim = 4}, cos, sin), {1, 1e-30f, 3, -4}),
      (std::vector<float>{-3, 1e-30f, 1, -4}));
}

TEST(RopeGiven, RefusesWhatDoesNotFit) {
  const gqa::RopeShape half{.layout = RopeLayout::half, .head_dim = 8, .rotary_dim = 4},
      interleaved{.layout = RopeLayout::interleaved, .head_dim = 8, .rotary_dim = 4};
  const auto table = [](const gqa::RopeShape& shape, const Table<float>& cos, const Table<float>& sin) {
    return message_of([&] { RopeTable<float>(shape, cos, sin); });
  };
  const Table<float> good = row({1, 2}), halves = row({1, 2, 1, 2}), neighbours = row({1, 1, 2, 2});
  EXPECT_EQ(table(half, row({1, 2, 3}), good),
            "cos: sizes are 1 x 3, expected positions x 2 (rotary_dim / 2) or x 4");
  EXPECT_EQ(table(half, good, row({1})),
            "sin: sizes are 1 x 1, expected positions x 2 (rotary_dim / 2) or x 4");
  EXPECT_EQ(table(half, good, Table<float>(3, 2)), "sin: positions is 3, expected 1 as in cos");
  // The other layout's table: silently wrong elsewhere.
  EXPECT_EQ(table(half, neighbours, halves),
            "cos: row 0 holds 1 at 0 and 2 at 2, expected the same: pair 0 of this layout");
  EXPECT_EQ(table(interleaved, neighbours, halves),
            "sin: row 0 holds 1 at 0 and 2 at 1, expected the same: pair 0 of this layout");
  EXPECT_EQ(table(half, halves, good), "nothing thrown");
  EXPECT_EQ(table(interleaved, neighbours, good), "nothing thrown");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(table(half, row({nan, 2, nan, 2}), good), "nothing thrown");
  EXPECT_EQ(table({.layout = RopeLayout::half, .head_dim = 8, .rotary_dim = 3}, good, good),
            "rope: rotary_dim is 3, expected an even number from 2 to head_dim = 8");

  RopeTable<float> given(half, good, good);
  EXPECT_EQ(message_of([&] {
              given.assign(Range{0, 2});
            }),
            "rope table: cos and sin were given, and no Rope that others could be computed from");
  EXPECT_EQ(message_of([&] { given.assign(std::vector<Index>{0}); }), message_of([&] { given.rope(); }));
  std::vector<float> x(16, 1), before = x;
  EXPECT_EQ(message_of([&] { given.apply(TensorView<float>(x.data(), 2, 1, 8), 0); }),
            "x: positions are [0, 2), expected some of the table's [0, 1)");
  EXPECT_EQ(message_of([&] {
              given.apply(TensorView<float>(x.data(), 2, 1, 8), std::vector<Index>{0, -1});
            }),
            "x: position 1 is -1, expected one of the table's [0, 1)");
  EXPECT_EQ(message_of([&] { given.apply(TensorView<float>(x.data(), 2, 1, 8), std::vector<Index>{0}); }),
            "positions: size is 1, expected the 2 tokens of x or the 2 of all its batches");
  EXPECT_EQ(x, before);
}

}  // namespace
