// SPDX-License-Identifier: Apache-2.0
#include "folding.hpp"

#include <gtest/gtest.h>

#include "conversion.hpp"
#include "gqa/convert.hpp"
#include "training.hpp"

namespace uptrain {
namespace {

namespace gc = gqa::convert;

const Shape mha{.vocabulary = 9, .layers = 2, .width = 32, .hidden = 16, .context = 12};

/// Any factors, and an untrained model.
std::vector<float> random_all(const Folding& folding, std::uint64_t seed) {
  auto all = folding.initial(initial_parameters(mha, seed));
  Random random(seed, 7);
  for (Index i = 0; i < folding.factors(); ++i)
    all[static_cast<std::size_t>(i)] = static_cast<float>(random.symmetric());
  return all;
}

// What is learned is what a file gets by the library's folded factors.
TEST(Folding, IsTheLibrarysWeightedMerge) {
  for (const Index kv_heads : {4, 2, 1}) {
    const Folding folding(mha, kv_heads);
    const auto all = random_all(folding, 3);
    std::vector<float> folded;
    folding.fold(all, folded);
    const Places from(mha), to(mha.with_kv_heads(kv_heads));
    ASSERT_EQ(std::ssize(folded), to.size);
    const float* const p = all.data() + folding.factors();
    for (std::size_t l = 0; l < 2; ++l) {
      const float* const qkv = p + from.layers[l].qkv;
      const gc::Weights weights(gc::Matrix(qkv, 32, 32), gc::Matrix(qkv + 32 * 32, 32, 32),
                                gc::Matrix(qkv + 64 * 32, 32, 32), gc::Matrix(p + from.layers[l].out, 32, 32),
                                8, 8);
      gc::HeadWeights factors{gc::HeadWeights::Along::heads, {}, {}};
      for (Index h = 0; h < 8; ++h) {
        factors.keys.push_back(all[static_cast<std::size_t>(folding.factor(l, h))]);
        factors.values.push_back(all[static_cast<std::size_t>(folding.factor(l, 8 + h))]);
      }
      const auto merged =
          gc::merge_heads(weights, gqa::HeadGrouping::contiguous(8, kv_heads), gc::Method::weighted(factors))
              .weights;
      const float* const now = folded.data() + to.layers[l].qkv;
      const auto expect_rows = [&](const gc::Matrix& m, const float* rows) {
        for (std::size_t i = 0; i < m.values().size(); ++i) ASSERT_NEAR(rows[i], m.values()[i], 1e-6);
      };
      expect_rows(merged.wq, now);
      expect_rows(merged.wk, now + 32 * 32);
      expect_rows(merged.wv, now + (32 + 4 * kv_heads) * 32);
      expect_rows(merged.wo, folded.data() + to.layers[l].out);
    }
  }
}

TEST(Folding, BeginsAsTheMean) {
  const auto parameters = initial_parameters(mha, 5);
  const Folding folding(mha, 2);
  std::vector<float> folded;
  folding.fold(folding.initial(parameters), folded);
  Transformer<float> model(mha);
  Batch batch;
  std::vector<Symbol> text;
  for (Index i = 0; i < 13; ++i) text.push_back(static_cast<Symbol>(i * i % 9));
  batch.add(text, 0, 12);
  const auto calibrations = calibrate(model, parameters, std::vector{batch});
  const auto mean = convert(mha, parameters, Method::mean, 2, calibrations, 1).parameters;
  ASSERT_EQ(folded.size(), mean.size());
  for (std::size_t i = 0; i < mean.size(); ++i) ASSERT_NEAR(folded[i], mean[i], 1e-6) << i;
}

// Folding is bilinear: half the difference of two folds is exactly its derivative, whose transpose is the way
// back.
TEST(Folding, BackwardIsTheTransposedDerivative) {
  const Folding folding(mha, 2);
  const auto all = random_all(folding, 1);
  Random random(2, 0);
  std::vector<float> ahead = all, behind = all, u(all.size()), plus, minus;
  for (std::size_t i = 0; i < u.size(); ++i) {
    u[i] = static_cast<float>(random.symmetric());
    ahead[i] += u[i];
    behind[i] -= u[i];
  }
  folding.fold(ahead, plus);
  folding.fold(behind, minus);
  std::vector<float> d(plus.size()), back(all.size(), NAN);
  double forward = 0, backward = 0;
  for (std::size_t i = 0; i < d.size(); ++i) {
    d[i] = static_cast<float>(random.symmetric());
    forward += static_cast<double>(d[i]) * (static_cast<double>(plus[i]) - static_cast<double>(minus[i])) / 2;
  }
  folding.fold_backward(all, d, back);
  for (std::size_t i = 0; i < u.size(); ++i)
    backward += static_cast<double>(back[i]) * static_cast<double>(u[i]);
  EXPECT_NEAR(forward, backward, 1e-4);
  EXPECT_GT(std::abs(forward), 0.1);
}

TEST(Folding, LearnsItsFactors) {
  std::string bytes;
  for (int i = 0; i < 3000; ++i) bytes += static_cast<char>('a' + i * i % 11 % 7);
  Shape shape = mha;
  const Text text(bytes, shape.context, "text");
  shape.vocabulary = text.vocabulary();
  const Folding folding(shape, 2);
  Transformer<float> model(shape.with_kv_heads(2));
  const auto measured_on = validation_batches(text, 8, 4, shape.context);
  Recipe recipe{.name = "test",
                .steps = 20,
                .warm_up = 1,
                .rate = 5e-3,
                .seed = 1,
                .first_batch = 0,
                .batch = 4,
                .measured_at = {0, 20}};
  Training training;
  training.parameters = folding.initial(initial_parameters(shape, 1));
  const auto before = training.parameters;
  train(
      model, text, measured_on, recipe, training, [] { return true; }, &folding);
  EXPECT_LT(training.losses[1], training.losses[0]);
  for (Index i = 0; i < folding.factors(); ++i)
    EXPECT_NE(training.parameters[static_cast<std::size_t>(i)], 0.25F) << i;
}

}  // namespace
}  // namespace uptrain
