// SPDX-License-Identifier: Apache-2.0
#include "conversion.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "training.hpp"

namespace uptrain {
namespace {

/// An untrained model and a text without meaning: conversions know neither.
class Conversion : public testing::Test {
 protected:
  Conversion() {
    Random random(1, 0);
    for (Index i = 0; i < 8; ++i) {
      Batch batch;
      std::vector<Symbol> symbols;
      for (Index j = 0; j < 13; ++j) symbols.push_back(static_cast<Symbol>(random.below(9)));
      batch.add(symbols, 0, 12);
      batches_.push_back(batch);
    }
    calibrations_ = calibrate(model_, parameters_, batches_);
  }

  double loss(const Converted& converted) const {
    Transformer<float> model(converted.shape);
    return measure(model, converted.parameters, batches_);
  }
  Converted converted(Method method, Index kv_heads, std::uint64_t seed = 1) const {
    return convert(shape_, parameters_, method, kv_heads, calibrations_, seed);
  }
  /// Makes each odd head a copy of the one before it.
  void pair_heads() {
    const Index D = shape_.head_dim(), width = shape_.width;
    for (const Places::Layer& layer : model_.places().layers)
      for (const Index side : {shape_.width, shape_.width + shape_.kv_width()})
        for (Index h = 1; h < shape_.num_kv_heads; h += 2)
          std::copy_n(parameters_.begin() + layer.qkv + (side + (h - 1) * D) * width, D * width,
                      parameters_.begin() + layer.qkv + (side + h * D) * width);
    calibrations_ = calibrate(model_, parameters_, batches_);
  }

  Shape shape_{.vocabulary = 9, .layers = 2, .width = 32, .hidden = 16, .context = 12};
  Transformer<float> model_{shape_};
  std::vector<float> parameters_ = initial_parameters(shape_, 1);
  std::vector<Batch> batches_;
  std::vector<gqa::convert::Calibration> calibrations_;
};

TEST_F(Conversion, ToAsManyHeadsChangesNothing) {
  const double before = measure(model_, parameters_, batches_);
  for (const Method method : all_methods) {
    if (method == Method::random) continue;
    const Converted same = converted(method, 8);
    EXPECT_EQ(same.shape.num_kv_heads, 8);
    EXPECT_NEAR(loss(same), before, 1e-6) << name_of(method);
  }
}

TEST_F(Conversion, OfHeadsThatAreTheSameChangesNothing) {
  pair_heads();
  const double before = measure(model_, parameters_, batches_);
  for (const Method method : all_methods) {
    const Converted half = converted(method, 4);
    if (method == Method::random)
      EXPECT_GT(std::abs(loss(half) - before), 1e-4);
    else
      EXPECT_NEAR(loss(half), before, 1e-6) << name_of(method);
  }
}

TEST_F(Conversion, HasTheSizesOfFewerHeads) {
  for (const Method method : all_methods)
    for (const Index kv_heads : {4, 2, 1}) {
      const Converted c = converted(method, kv_heads);
      EXPECT_EQ(c.shape.num_kv_heads, method == Method::low_rank ? 8 : kv_heads);
      EXPECT_EQ(static_cast<Index>(c.parameters.size()), Places(c.shape).size);
      // Two layers of heads of 4 elements.
      EXPECT_EQ(c.cache_elements, 2 * 2 * 4 * kv_heads) << name_of(method);
      EXPECT_TRUE(std::ranges::all_of(c.parameters, [](float x) { return std::isfinite(x); }));
    }
}

TEST_F(Conversion, MeanIsTheMeanOfNeighbours) {
  const Converted half = converted(Method::mean, 4);
  const Places from(shape_), to(half.shape);
  for (std::size_t l = 0; l < 2; ++l)
    for (const Index side : {0, 1})
      for (Index i = 0; i < 4 * 4 * 32; ++i) {
        const Index head = i / 128, within = i % 128;
        const auto old = [&](Index h) {
          return parameters_[static_cast<std::size_t>(from.layers[l].qkv + (32 + side * 32) * 32 + h * 128 +
                                                      within)];
        };
        const float now =
            half.parameters[static_cast<std::size_t>(to.layers[l].qkv + (32 + side * 16) * 32 + i)];
        ASSERT_NEAR(now, (old(2 * head) + old(2 * head + 1)) / 2, 1e-7);
      }
}

TEST_F(Conversion, OnlyRandomDependsOnTheSeed) {
  for (const Method method : all_methods)
    EXPECT_EQ(converted(method, 2, 1).parameters == converted(method, 2, 2).parameters,
              method != Method::random)
        << name_of(method);
  // Layers differ too.
  const Converted random = converted(Method::random, 2);
  const auto at = Places(random.shape).layers;
  const auto keys = [&](std::size_t l) { return random.parameters.begin() + at[l].qkv + 32 * 32; };
  EXPECT_FALSE(std::equal(keys(0), keys(0) + 256, keys(1)));
}

TEST_F(Conversion, CalibrationIsOfWhatAttentionReads) {
  EXPECT_EQ(calibrations_.size(), 2U);
  EXPECT_EQ(calibrations_[0].tokens(), 8 * 12);
  // After the norm, whose gain is 1, the mean square is 1.
  for (const auto& calibration : calibrations_) {
    const auto moments = calibration.moments();
    double trace = 0;
    for (Index i = 0; i < 32; ++i) trace += moments(i, i);
    EXPECT_NEAR(trace / 32, 1, 1e-3);
  }
}

TEST_F(Conversion, RefusesWhatDoesNotFit) {
  EXPECT_THROW(converted(Method::mean, 3), std::invalid_argument);
  parameters_[static_cast<std::size_t>(model_.places().layers[1].qkv)] = NAN;
  EXPECT_THROW(converted(Method::first, 4), std::invalid_argument);
}

}  // namespace
}  // namespace uptrain
