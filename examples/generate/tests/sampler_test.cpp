// SPDX-License-Identifier: Apache-2.0
#include "sampler.hpp"

#include <gtest/gtest.h>

#include <array>
#include <limits>

namespace generate {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

std::array<int, 4> histogram(Sampler sampler, const std::vector<float>& logits, int draws) {
  std::array<int, 4> counts{};
  for (int i = 0; i < draws; ++i) ++counts[static_cast<std::size_t>(sampler(logits))];
  return counts;
}

TEST(Sampler, IsGreedyAtTemperatureZero) {
  Sampler sampler(0, 40, 1);
  EXPECT_EQ(sampler(std::vector<float>{1, 3, 3, 2}), 1);
  EXPECT_EQ(sampler(std::vector<float>{nan, -infinity, -5, nan}), 2);
  EXPECT_THROW(sampler(std::vector<float>{nan, nan}), std::runtime_error);
}

TEST(Sampler, DrawsByTheSoftmaxOfTheTemperature) {
  // Probabilities 1/8, 1/2, 1/4, 1/8.
  const std::vector<float> logits{0, 2 * std::log(2.F), std::log(2.F), 0};
  constexpr int draws = 80'000;
  const auto counts = histogram(Sampler(1, 0, 7), logits, draws);
  EXPECT_NEAR(counts[0], draws / 8, 500);
  EXPECT_NEAR(counts[1], draws / 2, 700);
  EXPECT_NEAR(counts[2], draws / 4, 600);
  EXPECT_NEAR(counts[3], draws / 8, 500);
  // At temperature 1/2 they are squared: 1/22, 16/22, 4/22, 1/22.
  const auto cold = histogram(Sampler(0.5, 0, 7), logits, draws);
  EXPECT_NEAR(cold[1], draws * 16 / 22, 700);
  EXPECT_NEAR(cold[3], draws / 22, 400);
}

TEST(Sampler, KeepsToTheTopK) {
  const auto counts = histogram(Sampler(2, 2, 7), {5, 1, 6, 4}, 2'000);
  EXPECT_EQ(counts[1], 0);
  EXPECT_EQ(counts[3], 0);
  EXPECT_GT(counts[0], 300);
  EXPECT_GT(counts[2], counts[0]);
  // Of equals the first ones.
  EXPECT_EQ(histogram(Sampler(1, 1, 7), {3, 3, 3, 3}, 100)[0], 100);
}

TEST(Sampler, RepeatsItselfWithTheSameSeed) {
  const std::vector<float> logits{0, 1, 2, 1};
  Sampler a(1, 3, 5), b(1, 3, 5), c(1, 3, 6);
  bool differs = false;
  for (int i = 0; i < 100; ++i) {
    const TokenId next = a(logits);
    EXPECT_EQ(next, b(logits));
    differs |= next != c(logits);
  }
  EXPECT_TRUE(differs);
}

TEST(Sampler, NeverDrawsWhatIsNoNumber) {
  const auto counts = histogram(Sampler(1, 0, 5), {nan, 1, -infinity, 1}, 1'000);
  EXPECT_EQ(counts[0] + counts[2], 0);
}

}  // namespace
}  // namespace generate
