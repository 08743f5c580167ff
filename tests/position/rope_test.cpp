// SPDX-License-Identifier: Apache-2.0
#include "gqa/position/rope.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "gqa/position/rope_table.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace {

using gqa::bfloat16;
using gqa::Index;
using gqa::Rope;
using gqa::RopeConfig;
using gqa::RopeLayout;
using gqa::RopeScaling;
using gqa::TensorView;
using gqa::test::message_of;
using gqa::test::random_values;

constexpr RopeLayout layouts[] = {RopeLayout::half, RopeLayout::interleaved};

template <class C>
concept layout_may_be_left_out = requires {
  C{.head_dim = 64};
};
static_assert(!layout_may_be_left_out<RopeConfig>);
static_assert(!std::is_default_constructible_v<RopeConfig>);

struct Pair {
  Index first, second;
};
Pair pair_of(RopeLayout layout, Index i, Index rotary_dim) {
  return layout == RopeLayout::half ? Pair{i, i + rotary_dim / 2} : Pair{2 * i, 2 * i + 1};
}

// One head by the definition, in long double.
template <class T>
std::vector<long double> rotated(const T* x, const RopeConfig& config, long double position) {
  std::vector<long double> y(x, x + config.head_dim);
  for (Index i = 0; i < config.rotary_dim / 2; ++i) {
    const long double exponent =
        -2.0L * static_cast<long double>(i) / static_cast<long double>(config.rotary_dim);
    const long double angle = position * std::pow(static_cast<long double>(config.theta), exponent);
    const auto [first, second] = pair_of(config.layout, i, config.rotary_dim);
    const long double a = static_cast<long double>(x[first]), b = static_cast<long double>(x[second]);
    y[static_cast<std::size_t>(first)] = a * std::cos(angle) - b * std::sin(angle);
    y[static_cast<std::size_t>(second)] = a * std::sin(angle) + b * std::cos(angle);
  }
  return y;
}

// Half a unit in the last place of T for storing the result, relative to the pair's length, and a little for
// the arithmetic.
template <class T>
constexpr double tolerance() {
  if constexpr (std::is_same_v<T, double>) return 1e-10;
  if constexpr (std::is_same_v<T, float>) return 2.5e-7;
  if constexpr (std::is_same_v<T, bfloat16>) return 0x1.01p-8;
  return 0x1.01p-11;
}

template <class T>
class RopeOf : public testing::Test {};
using Scalars = testing::Types<float, double, gqa::half, bfloat16>;
TYPED_TEST_SUITE(RopeOf, Scalars);

TYPED_TEST(RopeOf, FollowsTheDefinitionUpToLongPositions) {
  using T = TypeParam;
  struct Case {
    Index head_dim, rotary_dim;
    double theta;
  };
  for (const RopeLayout layout : layouts)
    for (const Case c :
         {Case{64, 64, 10000}, {128, 128, 500000}, {40, 40, 10000}, {96, 50, 1e6}, {7, 6, 100}, {2, 2, 3}})
      for (const Index position : {0, 1, 2, 63, 64, 4095, 8192, 65535, 131071, 131072, 1048576}) {
        const RopeConfig config{
            .layout = layout, .head_dim = c.head_dim, .rotary_dim = c.rotary_dim, .theta = c.theta};
        std::vector<T> x = random_values<T>(7, 3 * 2 * c.head_dim);
        const std::vector<T> before = x;
        Rope(config).apply(TensorView<T>(x.data(), 3, 2, c.head_dim), position);
        for (Index row = 0; row < 6; ++row) {
          const T* const from = before.data() + row * c.head_dim;
          const std::vector<long double> expected =
              rotated(from, config, static_cast<long double>(position + row / 2));
          for (Index d = 0; d < c.head_dim; ++d) {
            double length = 0;
            for (Index i = 0; i < c.rotary_dim / 2; ++i) {
              const auto [first, second] = pair_of(layout, i, c.rotary_dim);
              if (d == first || d == second)
                length = std::hypot(static_cast<double>(from[first]), static_cast<double>(from[second]));
            }
            ASSERT_NEAR(static_cast<double>(x[static_cast<std::size_t>(row * c.head_dim + d)]),
                        static_cast<double>(expected[static_cast<std::size_t>(d)]), length * tolerance<T>())
                << "position " << position << " + " << row / 2 << ", dim " << d << " of " << c.head_dim;
          }
        }
      }
}

// The accuracy promised: 1e-5 against long double. To a million tokens nothing but the rounding to float is
// left, and the promise holds to 2^34.
TEST(Rope, LongPositionsAreAccurate) {
  const RopeConfig config{.layout = RopeLayout::interleaved, .head_dim = 128, .theta = 500000};
  const Rope rope(config);
  for (Index power = 1; power <= Index{1} << 34; power *= 2)
    for (const Index position : {power - 1, power, power + 1}) {
      std::vector<float> x(128);
      for (std::size_t i = 0; i < 128; i += 2) x[i] = 1;
      const std::vector<long double> expected = rotated(x.data(), config, static_cast<long double>(position));
      rope.apply(TensorView<float>(x.data(), 1, 1, 128), position);
      for (std::size_t i = 0; i < 128; ++i)
        ASSERT_NEAR(static_cast<double>(x[i]), static_cast<double>(expected[i]),
                    power <= (1 << 20) ? 3.1e-8 : 1e-5)
            << "position " << position << ", element " << i;
    }
}

TEST(Rope, ScoresDependOnTheDistanceAlone) {
  for (const RopeLayout layout : layouts) {
    const Rope rope({.layout = layout, .head_dim = 80, .rotary_dim = 64, .theta = 10000});
    const std::vector<double> q = random_values<double>(1, 80), k = random_values<double>(2, 80);
    const auto score = [&](Index q_position, Index k_position) {
      std::vector<double> rotated_q = q, rotated_k = k;
      rope.apply(TensorView<double>(rotated_q.data(), 1, 1, 80), q_position);
      rope.apply(TensorView<double>(rotated_k.data(), 1, 1, 80), k_position);
      double sum = 0;
      for (std::size_t d = 0; d < 80; ++d) sum += rotated_q[d] * rotated_k[d];
      return sum;
    };
    for (const Index distance : {0, 1, 5, 63, 1000, 8191}) {
      const double expected = score(distance, 0);
      for (const Index shift : {1, 2, 64, 4095, 131072, 1000003})
        EXPECT_NEAR(score(distance + shift, shift), expected, 1e-8) << distance << " shifted by " << shift;
    }
    EXPECT_GT(std::abs(score(5, 0) - score(6, 0)), 1e-3);  // and do depend on it
    EXPECT_GT(std::abs(score(5, 0) - score(0, 5)), 1e-3);  // and on its sign
  }
}

TEST(Rope, LayoutsAreAPermutationOfOneAnother) {
  for (const Index rotary_dim : {2, 10, 64, 96}) {
    const Index head_dim = 96, tokens = 5, heads = 3;
    const std::vector<float> interleaved = random_values<float>(3, tokens * heads * head_dim);
    // Interleaved element 2j + s is element s * rotary_dim / 2 + j of the half layout, within each head.
    const auto to_half = [&](const std::vector<float>& x) {
      std::vector<float> y = x;
      for (Index head = 0; head < tokens * heads; ++head)
        for (Index j = 0; j < rotary_dim / 2; ++j)
          for (const Index s : {0, 1})
            y[static_cast<std::size_t>(head * head_dim + s * rotary_dim / 2 + j)] =
                x[static_cast<std::size_t>(head * head_dim + 2 * j + s)];
      return y;
    };
    std::vector<float> a = interleaved, b = to_half(interleaved);
    Rope({.layout = RopeLayout::interleaved, .head_dim = head_dim, .rotary_dim = rotary_dim})
        .apply(TensorView<float>(a.data(), tokens, heads, head_dim), 1234);
    Rope({.layout = RopeLayout::half, .head_dim = head_dim, .rotary_dim = rotary_dim})
        .apply(TensorView<float>(b.data(), tokens, heads, head_dim), 1234);
    // Up to rounding only: built for a processor with fused multiply-adds, the two may use different ones.
    const std::vector<float> permuted = to_half(a);
    for (std::size_t i = 0; i < b.size(); ++i) EXPECT_NEAR(permuted[i], b[i], 1e-6f) << rotary_dim;
    EXPECT_NE(a, interleaved);
    if (rotary_dim > 2) {
      EXPECT_NE(a, b) << rotary_dim;
    }
  }
}

TEST(Rope, WhatIsNotRotatedPassesThrough) {
  for (const RopeLayout layout : layouts)
    for (const Index rotary_dim : {2, 6, 32, 62}) {
      std::vector<float> x = random_values<float>(4, 2 * 64);
      x[63] = std::numeric_limits<float>::quiet_NaN();
      x[127] = std::numeric_limits<float>::infinity();
      const std::vector<float> before = x;
      Rope({.layout = layout, .head_dim = 64, .rotary_dim = rotary_dim})
          .apply(TensorView<float>(x.data(), 1, 2, 64), 9);
      for (std::size_t head = 0; head < 2; ++head) {
        const std::size_t at = 64 * head, rest = at + static_cast<std::size_t>(rotary_dim);
        EXPECT_EQ(std::memcmp(x.data() + rest, before.data() + rest, (at + 64 - rest) * sizeof(float)), 0);
        for (std::size_t d = at; d < rest; ++d) EXPECT_NE(x[d], before[d]) << d;
      }
    }
}

TEST(Rope, NonFiniteElementsSpoilTheirPairAlone) {
  for (const RopeLayout layout : layouts) {
    std::vector<float> x(64, 1);
    const auto [first, second] = pair_of(layout, 5, 64);
    x[static_cast<std::size_t>(first)] = std::numeric_limits<float>::quiet_NaN();
    Rope({.layout = layout, .head_dim = 64}).apply(TensorView<float>(x.data(), 1, 1, 64), 3);
    for (Index d = 0; d < 64; ++d)
      EXPECT_EQ(std::isnan(x[static_cast<std::size_t>(d)]), d == first || d == second) << d;
  }
}

TEST(Rope, LinearScalingStretchesPositions) {
  std::vector<double> x = random_values<double>(5, 64), y = x;
  Rope({.layout = RopeLayout::half, .head_dim = 64}).apply(TensorView<double>(x.data(), 1, 1, 64), 250);
  Rope({.layout = RopeLayout::half, .head_dim = 64, .scaling = RopeScaling::linear(4)})
      .apply(TensorView<double>(y.data(), 1, 1, 64), 1000);
  for (std::size_t d = 0; d < 64; ++d) EXPECT_NEAR(x[d], y[d], 1e-12);
}

TEST(Rope, TheAttentionFactorMultipliesWhatIsRotated) {
  for (const RopeLayout layout : layouts) {
    const RopeConfig plain{.layout = layout, .head_dim = 12, .rotary_dim = 8};
    RopeConfig longer = plain;
    longer.scaling = RopeScaling::yarn({.factor = 1, .original_context = 4096, .attention_factor = 1.25});
    std::vector<double> x = random_values<double>(6, 12), y = x;
    Rope(plain).apply(TensorView<double>(x.data(), 1, 1, 12), 77);
    Rope(longer).apply(TensorView<double>(y.data(), 1, 1, 12), 77);
    for (std::size_t d = 0; d < 12; ++d) EXPECT_NEAR(y[d], x[d] * (d < 8 ? 1.25 : 1), 1e-14) << d;
  }
}

class RopeInverse : public testing::TestWithParam<RopeLayout> {
 protected:
  RopeConfig config{.layout = GetParam(),
                    .head_dim = 70,
                    .rotary_dim = 62,
                    .theta = 10000,
                    .scaling = RopeScaling::yarn({.factor = 8, .original_context = 4096})};
};
INSTANTIATE_TEST_SUITE_P(Layouts, RopeInverse, testing::ValuesIn(layouts), [](const auto& test) {
  return test.param == RopeLayout::half ? "half" : "interleaved";
});

TEST_P(RopeInverse, UndoesTheRotation) {
  const Rope rope(config);
  const std::vector<double> before = random_values<double>(8, 2 * 3 * 70);
  std::vector<double> x = before;
  const TensorView<double> view(x.data(), 2, 3, 70);
  rope.apply(view, 131000);
  EXPECT_NE(x, before);
  rope.apply_inverse(view, 131000);
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], before[i], 1e-13);
  const std::vector<Index> positions{5, 3};
  rope.apply(view, positions);
  rope.apply_inverse(view, positions);
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], before[i], 1e-13);
}

// <g, R x> = <R^T g, x>: what a gradient needs.
TEST_P(RopeInverse, TransposeIsTheAdjoint) {
  const Rope rope(config);
  const gqa::RopeTable<double> table(rope, gqa::Range{500, 504});
  const std::vector<double> x = random_values<double>(9, 2 * 3 * 70),
                            g = random_values<double>(10, 2 * 3 * 70);
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  };
  std::vector<double> forward = x, backward = g, by_list = g, by_table = g;
  rope.apply(TensorView<double>(forward.data(), 2, 3, 70), 501);
  rope.apply_transpose(TensorView<double>(backward.data(), 2, 3, 70), 501);
  EXPECT_NEAR(dot(g, forward), dot(backward, x), 1e-11);
  rope.apply_transpose(TensorView<double>(by_list.data(), 2, 3, 70), std::vector<Index>{501, 502});
  EXPECT_EQ(by_list, backward);
  table.apply_transpose(TensorView<double>(by_table.data(), 2, 3, 70), 501);
  EXPECT_EQ(by_table, backward);
}

// Chunks, lists, batches, strides and tensor kinds: always the bits of one token by itself.
TEST(Rope, ATokenHasTheSameBitsHoweverItIsReached) {
  for (const RopeLayout layout : layouts) {
    const Index tokens = 9, heads = 3, dim = 22;
    const Rope rope({.layout = layout, .head_dim = dim, .rotary_dim = 18});
    const std::vector<float> before = random_values<float>(11, tokens * heads * dim);
    std::vector<float> whole = before;
    rope.apply(TensorView<float>(whole.data(), tokens, heads, dim), 100);

    std::vector<float> one_by_one = before;
    for (Index t = 0; t < tokens; ++t)
      rope.apply(TensorView<float>(one_by_one.data() + t * heads * dim, 1, heads, dim), 100 + t);
    EXPECT_EQ(one_by_one, whole);

    std::vector<float> listed = before;
    std::vector<Index> positions(static_cast<std::size_t>(tokens));
    for (Index t = 0; t < tokens; ++t) positions[static_cast<std::size_t>(t)] = 100 + t;
    rope.apply(TensorView<float>(listed.data(), tokens, heads, dim), positions);
    EXPECT_EQ(listed, whole);

    // Heads first in memory, with a gap.
    const Index head_stride = tokens * (dim + 5);
    std::vector<float> strided(static_cast<std::size_t>(heads * head_stride), -7);
    const TensorView<float> view(strided.data(), {1, tokens, heads, dim}, {0, dim + 5, head_stride});
    for (Index t = 0; t < tokens; ++t)
      for (Index h = 0; h < heads; ++h)
        std::copy_n(before.data() + (t * heads + h) * dim, dim, view.at(0, t, h));
    rope.apply(view, 100);
    for (Index t = 0; t < tokens; ++t)
      for (Index h = 0; h < heads; ++h)
        for (Index d = 0; d < dim + 5; ++d)
          ASSERT_EQ(view.at(0, t, h)[d],
                    d < dim ? whole[static_cast<std::size_t>((t * heads + h) * dim + d)] : -7);

    Eigen::Tensor<float, 3> columns(dim, heads, tokens);
    std::copy(before.begin(), before.end(), columns.data());
    rope.apply(columns, 100);
    EXPECT_TRUE(std::equal(whole.begin(), whole.end(), columns.data()));

    std::vector<float> mapped = before;
    rope.apply(Eigen::TensorMap<Eigen::Tensor<float, 3, Eigen::RowMajor>>(mapped.data(), tokens, heads, dim),
               100);
    EXPECT_EQ(mapped, whole);
  }
}

TYPED_TEST(RopeOf, BatchesShareTheirPositionsOrHaveTheirOwn) {
  using T = TypeParam;
  const Index batch = 3, tokens = 4, heads = 2, dim = 8, size = tokens * heads * dim;
  const Rope rope({.layout = RopeLayout::half, .head_dim = dim});
  const std::vector<T> before = random_values<T>(12, batch * size);
  const std::vector<Index> one_list{7, 9, 2, 2}, own_lists{7, 9, 2, 2, 0, 1, 2, 3, 1000, 10, 1001, 11};
  std::vector<T> first = before, one = before, own = before, expected = before;
  rope.apply(TensorView<T>(first.data(), batch, tokens, heads, dim), 50);
  rope.apply(TensorView<T>(one.data(), batch, tokens, heads, dim), one_list);
  rope.apply(TensorView<T>(own.data(), batch, tokens, heads, dim), own_lists);
  const auto one_token = [&](Index b, Index t, Index position) {
    const Index at = b * size + t * heads * dim;
    expected = before;
    rope.apply(TensorView<T>(expected.data() + at, 1, heads, dim), position);
    return std::vector<T>(expected.begin() + at, expected.begin() + at + heads * dim);
  };
  const auto actual = [&](const std::vector<T>& x, Index b, Index t) {
    const Index at = b * size + t * heads * dim;
    return std::vector<T>(x.begin() + at, x.begin() + at + heads * dim);
  };
  for (Index b = 0; b < batch; ++b)
    for (Index t = 0; t < tokens; ++t) {
      EXPECT_EQ(actual(first, b, t), one_token(b, t, 50 + t));
      EXPECT_EQ(actual(one, b, t), one_token(b, t, one_list[static_cast<std::size_t>(t)]));
      EXPECT_EQ(actual(own, b, t), one_token(b, t, own_lists[static_cast<std::size_t>(b * tokens + t)]));
    }
}

TEST(Rope, EmptyTensorsAreLegal) {
  const Rope rope({.layout = RopeLayout::half, .head_dim = 8});
  rope.apply(TensorView<float>(nullptr, 0, 4, 8), 5);
  rope.apply(TensorView<float>(nullptr, 4, 0, 8), 5);
  rope.apply(TensorView<float>(nullptr, 0, 4, 2, 8), 5);
  rope.apply(TensorView<float>(nullptr, 0, 4, 8), std::vector<Index>{});
}

TEST(Rope, DefaultsAreTheOriginalRotation) {
  const Rope rope({.layout = RopeLayout::half, .head_dim = 8});
  EXPECT_EQ(rope.pairs(), 4);
  EXPECT_EQ(rope.attention_factor(), 1);
  const double expected[] = {1, 0.1, 0.01, 0.001};  // 10000^(-2i / 8)
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(rope.inverse_frequencies()[i], expected[i], 1e-16);
}

TEST(Rope, RefusesAWrongConfiguration) {
  const auto message = [](RopeConfig config) { return message_of([&] { Rope rope(config); }); };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  using enum RopeLayout;
  EXPECT_EQ(message({.layout = half, .head_dim = 0}), "rope: head_dim is 0, expected a positive number");
  EXPECT_EQ(message({.layout = half, .head_dim = 64, .rotary_dim = 7}),
            "rope: rotary_dim is 7, expected an even number from 2 to head_dim = 64");
  EXPECT_EQ(message({.layout = half, .head_dim = 64, .rotary_dim = 66}),
            "rope: rotary_dim is 66, expected an even number from 2 to head_dim = 64");
  EXPECT_EQ(message({.layout = half, .head_dim = 64, .rotary_dim = 0}),
            "rope: rotary_dim is 0, expected an even number from 2 to head_dim = 64");
  EXPECT_EQ(message({.layout = half, .head_dim = 64, .rotary_dim = -2}),
            "rope: rotary_dim is -2, expected an even number from 2 to head_dim = 64");
  EXPECT_EQ(message({.layout = half, .head_dim = 7}),
            "rope: rotary_dim is 7, expected an even number from 2 to head_dim = 7");
  EXPECT_EQ(message({.layout = half, .head_dim = 64, .theta = -1}),
            "rope: theta is -1, expected a positive number");
  EXPECT_EQ(message({.layout = half, .head_dim = 64, .theta = nan}),
            "rope: theta is nan, expected a positive number");
  EXPECT_EQ(message({.layout = half, .head_dim = 64, .scaling = RopeScaling::factors({1, 2})}),
            "factors: size is 2, expected rotary_dim / 2 = 32");
}

TEST(Rope, RefusesWrongTensorsAndPositionsAndChangesNothing) {
  const Rope rope({.layout = RopeLayout::half, .head_dim = 8});
  const std::vector<float> before = random_values<float>(13, 2 * 2 * 2 * 8);
  std::vector<float> x = before;
  const TensorView<float> view(x.data(), 2, 4, 8), batched(x.data(), 2, 2, 2, 8);
  const auto list = [](std::vector<Index> positions) { return positions; };
  EXPECT_EQ(message_of([&] { rope.apply(view, -1); }), "rope: position is -1, expected at least 0");
  EXPECT_EQ(message_of([&] {
              rope.apply(view, list({3, -4}));
            }),
            "rope: position 1 is -4, expected at least 0");
  EXPECT_EQ(message_of([&] {
              rope.apply(view, list({3, 4, 5}));
            }),
            "positions: size is 3, expected the 2 tokens of x or the 2 of all its batches");
  EXPECT_EQ(message_of([&] {
              rope.apply(batched, list({3, 4, 5}));
            }),
            "positions: size is 3, expected the 2 tokens of x or the 4 of all its batches");
  EXPECT_EQ(message_of([&] { rope.apply(TensorView<float>(x.data(), 2, 2, 16), 0); }),
            "x: head_dim is 16, expected 8");
  EXPECT_EQ(message_of([&] { rope.apply_inverse(TensorView<float>(x.data(), 2, 2, 4), 0); }),
            "x: head_dim is 4, expected 8");
  EXPECT_EQ(message_of([&] {
              rope.apply(TensorView<float>(x.data(), {1, 2, 4, 8}, {0, 8, 0}), 0);
            }),
            "x: strides are 0, 8, 0 (batch, token, head), expected none to be 0: x is changed in place");
  EXPECT_THROW(rope.apply(view, std::numeric_limits<Index>::max()), std::invalid_argument);
  EXPECT_EQ(x, before);
}

}  // namespace
