// SPDX-License-Identifier: Apache-2.0
#include "gqa/score/qk_norm.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "support/random.hpp"

namespace gqa {
namespace {

TEST(QKNorm, EachHeadHasTheRootMeanSquareOfItsWeights) {
  const auto x = test::random_values<double>(1, 2 * 3 * 4 * 5, 7);
  const auto weights = test::random_values<float>(2, 5);
  Eigen::Tensor<double, 4, Eigen::RowMajor> plain(2, 3, 4, 5), weighted(2, 3, 4, 5);
  std::copy(x.begin(), x.end(), plain.data());
  std::copy(x.begin(), x.end(), weighted.data());
  qk_norm(plain, std::span<const float>(), 0.25);
  qk_norm(weighted, std::span<const float>(weights), 0.25);
  for (std::size_t row = 0; row < 24; ++row) {
    double squares = 0;
    for (std::size_t d = 0; d < 5; ++d) squares += x[row * 5 + d] * x[row * 5 + d];
    for (std::size_t d = 0; d < 5; ++d) {
      const double expected = x[row * 5 + d] / std::sqrt(squares / 5 + 0.25);
      EXPECT_NEAR(plain.data()[row * 5 + d], expected, 1e-14);
      EXPECT_NEAR(weighted.data()[row * 5 + d], expected * static_cast<double>(weights[d]), 1e-14);
    }
  }
}

TEST(QKNorm, TakesStridesAndNarrowTypes) {
  auto memory = test::random_values<bfloat16>(3, 40);
  const auto before = memory;
  qk_norm(TensorView<bfloat16>(memory.data(), {1, 2, 1, 4}, {0, 20, 10}));
  EXPECT_EQ(static_cast<float>(memory[4]), static_cast<float>(before[4]));  // between the rows
  for (std::size_t row : {0u, 20u}) {
    double squares = 0;
    for (std::size_t d = 0; d < 4; ++d) squares += std::pow(static_cast<double>(memory[row + d]), 2);
    EXPECT_NEAR(squares, 4, 0.05);
  }
}

}  // namespace
}  // namespace gqa
