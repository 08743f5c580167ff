// SPDX-License-Identifier: Apache-2.0
#include "gqa/position/qk_norm.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "support/message_of.hpp"
#include "support/random.hpp"

namespace {

using gqa::bfloat16;
using gqa::Index;
using gqa::NormWeights;
using gqa::QKNorm;
using gqa::TensorView;
using gqa::test::message_of;
using gqa::test::random_values;

template <class T>
class QKNormOf : public testing::Test {};
using Scalars = testing::Types<float, double, gqa::half, bfloat16>;
TYPED_TEST_SUITE(QKNormOf, Scalars);

// Half a unit in the last place of T, and a little for the arithmetic.
template <class T>
constexpr double tolerance() {
  if constexpr (std::is_same_v<T, double>) return 1e-15;
  if constexpr (std::is_same_v<T, float>) return 0x1.01p-24;
  if constexpr (std::is_same_v<T, bfloat16>) return 0x1.01p-8;
  return 0x1.01p-11;
}

TYPED_TEST(QKNormOf, FollowsTheDefinition) {
  using T = TypeParam;
  // Halves below 2^-14 have no relative accuracy.
  const double smallest = std::is_same_v<T, gqa::half> ? 0x1p-24 : 0;
  for (const Index dim : {1, 2, 3, 7, 64, 128, 130, 256})
    for (const double epsilon : {1e-6, 1e-5, 0.5}) {
      const Index heads = 6;
      const std::vector<T> x = random_values<T>(1, heads * dim, 3);
      const std::vector<float> weights = random_values<float>(2, dim);
      for (const NormWeights convention : {NormWeights::plain, NormWeights::one_plus}) {
        std::vector<T> y = x;
        QKNorm(convention, weights, epsilon).apply(TensorView<T>(y.data(), 3, 2, dim));
        for (Index h = 0; h < heads; ++h) {
          long double squares = 0;
          for (Index d = 0; d < dim; ++d)
            squares += std::pow(static_cast<long double>(x[static_cast<std::size_t>(h * dim + d)]), 2.0L);
          const long double rms =
              std::sqrt(squares / static_cast<long double>(dim) + static_cast<long double>(epsilon));
          for (Index d = 0; d < dim; ++d) {
            const std::size_t at = static_cast<std::size_t>(h * dim + d);
            long double weight = static_cast<long double>(weights[static_cast<std::size_t>(d)]);
            if (convention == NormWeights::one_plus) weight += 1;
            const double expected = static_cast<double>(static_cast<long double>(x[at]) / rms * weight);
            ASSERT_NEAR(static_cast<double>(y[at]), expected,
                        std::abs(expected) * tolerance<T>() + smallest / 2)
                << "dim " << d << " of " << dim;
          }
        }
      }
    }
}

TEST(QKNorm, UnweightedHeadsHaveRootMeanSquareOne) {
  std::vector<double> x = random_values<double>(3, 4 * 96, 50);
  QKNorm::unweighted(96).apply(TensorView<double>(x.data(), 2, 2, 96));
  for (std::size_t h = 0; h < 4; ++h) {
    double squares = 0;
    for (std::size_t d = 0; d < 96; ++d) squares += x[96 * h + d] * x[96 * h + d];
    EXPECT_NEAR(squares / 96, 1, 1e-9);
  }
}

TEST(QKNorm, EpsilonIsOneMillionthUnlessGiven) {
  const std::vector<float> weights(4, 1);
  EXPECT_EQ(QKNorm(NormWeights::plain, weights).epsilon(), 1e-6);
  EXPECT_EQ(QKNorm::unweighted(4).epsilon(), 1e-6);
}

TEST(QKNorm, ScaleOfTheInputDoesNotMatter) {
  std::vector<float> x = random_values<float>(4, 80), y = x;
  for (float& value : y) value *= 1024;
  const QKNorm norm(NormWeights::plain, random_values<float>(5, 80), 1e-30);
  norm.apply(TensorView<float>(x.data(), 1, 1, 80));
  norm.apply(TensorView<float>(y.data(), 1, 1, 80));
  EXPECT_EQ(x, y);  // a power of two changes no bit
}

TEST(QKNorm, HugeAndTinyHeadsAndZeros) {
  std::vector<float> x(16, 0);
  for (std::size_t d = 0; d < 4; ++d) {
    x[d] = 3e38f;
    x[4 + d] = 1e-30f;
    x[8 + d] = d == 2 ? std::numeric_limits<float>::denorm_min() : 0;
  }
  QKNorm::unweighted(4, 1e-300).apply(TensorView<float>(x.data(), 1, 4, 4));
  for (std::size_t d = 0; d < 4; ++d) {
    EXPECT_FLOAT_EQ(x[d], 1);
    EXPECT_FLOAT_EQ(x[4 + d], 1);
    EXPECT_FLOAT_EQ(x[8 + d], d == 2 ? 2 : 0);
    EXPECT_EQ(x[12 + d], 0);
  }
}

TEST(QKNorm, ANotANumberSpoilsItsHeadAlone) {
  std::vector<float> x(3 * 8, 1);
  x[8 + 3] = std::numeric_limits<float>::quiet_NaN();
  QKNorm::unweighted(8).apply(TensorView<float>(x.data(), 1, 3, 8));
  for (std::size_t i = 0; i < 24; ++i) EXPECT_EQ(std::isnan(x[i]), i / 8 == 1) << i;
}

TEST(QKNorm, StridesBatchesAndTensorKinds) {
  const Index batch = 2, tokens = 3, heads = 2, dim = 10;
  const QKNorm norm(NormWeights::one_plus, random_values<bfloat16>(6, dim));
  const std::vector<float> before = random_values<float>(7, batch * tokens * heads * dim);
  std::vector<float> expected = before;
  for (Index head = 0; head < batch * tokens * heads; ++head)
    norm.apply(TensorView<float>(expected.data() + head * dim, 1, 1, dim));
  EXPECT_NE(expected, before);

  Eigen::Tensor<float, 4> columns(dim, heads, tokens, batch);
  std::copy(before.begin(), before.end(), columns.data());
  norm.apply(columns);
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), columns.data()));

  const Index step = dim + 3;
  std::vector<float> gaps(static_cast<std::size_t>(batch * tokens * heads * step), -7);
  // Heads outermost, so that each stride is tried.
  const TensorView<float> view(gaps.data(), {batch, tokens, heads, dim},
                               {tokens * step, step, batch * tokens * step});
  const auto at = [&](Index b, Index t, Index h) { return ((b * tokens + t) * heads + h) * dim; };
  for (Index b = 0; b < batch; ++b)
    for (Index t = 0; t < tokens; ++t)
      for (Index h = 0; h < heads; ++h) std::copy_n(before.data() + at(b, t, h), dim, view.at(b, t, h));
  norm.apply(view);
  for (Index b = 0; b < batch; ++b)
    for (Index t = 0; t < tokens; ++t)
      for (Index h = 0; h < heads; ++h)
        for (Index d = 0; d < step; ++d)
          ASSERT_EQ(view.at(b, t, h)[d], d < dim ? expected[static_cast<std::size_t>(at(b, t, h) + d)] : -7);

  norm.apply(TensorView<float>(nullptr, 0, 4, dim));
}

TEST(QKNorm, RefusesWhatIsWrongAndChangesNothing) {
  const std::vector<float> weights(8, 1);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(message_of([&] { QKNorm(NormWeights::plain, std::vector<float>{}); }),
            "qk_norm: weights is empty, expected head_dim of them");
  EXPECT_EQ(message_of([&] { QKNorm(NormWeights::plain, weights, 0); }),
            "qk_norm: epsilon is 0, expected a positive number");
  EXPECT_THROW(QKNorm(NormWeights::plain, weights, -1e-6), std::invalid_argument);
  EXPECT_THROW(QKNorm(NormWeights::plain, weights, nan), std::invalid_argument);
  EXPECT_THROW(QKNorm(NormWeights::plain, weights, std::numeric_limits<double>::infinity()),
               std::invalid_argument);
  EXPECT_EQ(message_of([&] { QKNorm::unweighted(0); }), "qk_norm: head_dim is 0, expected at least 1");
  EXPECT_THROW(QKNorm::unweighted(-3), std::invalid_argument);

  std::vector<float> x(16, 3);
  const QKNorm norm(NormWeights::plain, weights);
  EXPECT_EQ(message_of([&] { norm.apply(TensorView<float>(x.data(), 1, 1, 16)); }),
            "x: head_dim is 16, expected 8");
  EXPECT_EQ(message_of([&] {
              norm.apply(TensorView<float>(x.data(), {1, 2, 1, 8}, {0, 0, 8}));
            }),
            "x: strides are 0, 0, 8 (batch, token, head), expected none to be 0: x is changed in place");
  EXPECT_THROW(norm.apply(TensorView<float>(x.data(), {2, 1, 1, 8}, {0, 8, 8})), std::invalid_argument);
  EXPECT_EQ(x, std::vector<float>(16, 3));
}

}  // namespace
