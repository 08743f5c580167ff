// SPDX-License-Identifier: Apache-2.0
#include "training.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace uptrain {
namespace {

/// AdamW as its paper has it, in double.
TEST(AdamW, IsThatOfItsDefinition) {
  const AdamW adam;
  std::vector<float> p = {0.5F, -2, 3, 0.25F};
  std::vector<double> expected(p.begin(), p.end()), m(4), v(4);
  Moments moments(4);
  for (Index step = 1; step <= 20; ++step) {
    std::vector<float> g;
    double squares = 0;
    for (int i = 0; i < 4; ++i) {
      g.push_back(static_cast<float>(std::sin(step * (i + 1)) * (step < 10 ? 0.1 : 2)));
      squares += static_cast<double>(g.back()) * static_cast<double>(g.back());
    }
    const double rate = 0.01 * static_cast<double>(step);
    EXPECT_NEAR(adam.update(p, g, moments, step, rate, 2), std::sqrt(squares), 1e-12);
    const double factor = std::min(1.0, 1 / std::sqrt(squares));
    for (std::size_t i = 0; i < 4; ++i) {
      const double x = factor * static_cast<double>(g[i]), t = static_cast<double>(step);
      m[i] = 0.9 * m[i] + 0.1 * x;
      v[i] = 0.98 * v[i] + 0.02 * x * x;
      if (i >= 2) expected[i] -= rate * 0.1 * expected[i];
      expected[i] -=
          rate * m[i] / (1 - std::pow(0.9, t)) / (std::sqrt(v[i] / (1 - std::pow(0.98, t))) + 1e-8);
      EXPECT_NEAR(static_cast<double>(p[i]), expected[i], 1e-5) << "step " << step << ", " << i;
    }
  }
}

TEST(AdamW, AGradientThatIsNoNumberChangesNothing) {
  std::vector<float> p = {1, 2}, kept = p;
  Moments moments(2);
  for (const float bad : {NAN, INFINITY}) {
    EXPECT_FALSE(std::isfinite(AdamW().update(p, std::vector<float>{1, bad}, moments, 1, 0.1, 0)));
    EXPECT_EQ(p, kept);
    EXPECT_EQ(moments.first, std::vector<float>(2));
    EXPECT_EQ(moments.second, std::vector<float>(2));
  }
}

TEST(LearningRate, RisesAndFalls) {
  EXPECT_DOUBLE_EQ(learning_rate(1, 100, 10, 1, 0.1), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(10, 100, 10, 1, 0.1), 1);
  EXPECT_NEAR(learning_rate(55, 100, 10, 1, 0.1), 0.55, 1e-12);
  EXPECT_DOUBLE_EQ(learning_rate(100, 100, 10, 1, 0.1), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(1, 1, 0, 1, 0.1), 0.1);
  for (Index step = 11; step <= 100; ++step)
    EXPECT_LT(learning_rate(step, 100, 10, 1, 0.1), learning_rate(step - 1, 100, 10, 1, 0.1));
}

class TrainingTest : public testing::Test {
 protected:
  static std::string bytes() {
    std::string words;
    for (int i = 0; i < 300; ++i) words += "in the beginning was the word and ";
    return words;
  }
  Text text_{bytes(), 8, "x"};
  Shape shape_{.vocabulary = text_.vocabulary(), .layers = 1, .width = 16, .hidden = 16, .context = 8};
  Transformer<float> model_{shape_};
  std::vector<Batch> measured_on_ = validation_batches(text_, 6, 4, 8);
  Recipe recipe_{
      .name = "x", .steps = 30, .warm_up = 3, .rate = 0.02, .seed = 1, .batch = 4, .measured_at = {0, 5, 30}};

  Training begin() const {
    return {.parameters = initial_parameters(shape_, 1), .moments = {}, .losses = {}};
  }
};

TEST_F(TrainingTest, LossFallsAndIsMeasuredWhereAsked) {
  Training training = begin();
  train(model_, text_, measured_on_, recipe_, training, [] { return true; });
  ASSERT_EQ(training.losses.size(), 3U);
  EXPECT_EQ(training.step, 30);
  EXPECT_LT(training.losses[1], training.losses[0]);
  EXPECT_LT(training.losses[2], training.losses[1] - 0.3);
  EXPECT_EQ(measure(model_, training.parameters, measured_on_), training.losses[2]);
}

TEST_F(TrainingTest, StoppedAtAnyStepItEndsWithTheSameBits) {
  Training whole = begin(), parts = begin();
  train(model_, text_, measured_on_, recipe_, whole, [] { return true; });
  for (int i = 0; i < 40; ++i) {
    Transformer<float> fresh(shape_);
    int left = i % 3;
    train(fresh, text_, measured_on_, recipe_, parts, [&] { return left-- > 0; });
  }
  EXPECT_EQ(parts.parameters, whole.parameters);
  EXPECT_EQ(parts.moments.second, whole.moments.second);
  EXPECT_EQ(parts.losses, whole.losses);
}

TEST_F(TrainingTest, WhatIsNoNumberIsAnError) {
  Training training = begin();
  training.parameters[5] = NAN;
  EXPECT_THROW(train(model_, text_, measured_on_, recipe_, training, [] { return true; }),
               std::runtime_error);
  EXPECT_TRUE(training.losses.empty());
  training = begin();
  recipe_.rate = 1e30;
  try {
    train(model_, text_, measured_on_, recipe_, training, [] { return true; });
    ADD_FAILURE();
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("learning rate"), std::string::npos) << error.what();
  }
}

TEST(InitialParameters, HaveUnitGainsAndVariancesOfTheirInputs) {
  const Shape shape{.vocabulary = 50, .layers = 2, .width = 64, .hidden = 96};
  const Places places(shape);
  const auto p = initial_parameters(shape, 3);
  EXPECT_EQ(p, initial_parameters(shape, 3));
  EXPECT_NE(p, initial_parameters(shape, 4));
  for (Index i = 0; i < places.matrices; ++i) EXPECT_EQ(p[static_cast<std::size_t>(i)], 1.0F);
  const auto variance = [&](Index at, Index count) {
    double squares = 0;
    for (Index i = 0; i < count; ++i)
      squares += std::pow(static_cast<double>(p[static_cast<std::size_t>(at + i)]), 2);
    return squares / static_cast<double>(count);
  };
  EXPECT_NEAR(variance(places.layers[1].qkv, 192 * 64) * 64, 1, 0.05);
  EXPECT_NEAR(variance(places.layers[0].down, 96 * 64) * 96 * 4, 1, 0.05);
  EXPECT_NEAR(variance(places.head, 50 * 64) * 64, 1, 0.05);
}

}  // namespace
}  // namespace uptrain
