// SPDX-License-Identifier: Apache-2.0
// The loss and its gradient against a forward pass in double that shares no code with them; and training.
#include "trainee.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "naive_llama.hpp"
#include "tiny_model.hpp"
#include "uptraining.hpp"

namespace uptrain_gguf {
namespace {

using generate::test::GgufWriter;

constexpr const char* parts[] = {"attn_q", "attn_k", "attn_v", "attn_output"};

/// Weights of attention in F32, and biases.
GgufWriter model() {
  auto writer = generate::test::tiny_model(3);
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 0.2F);
  const auto values = [&](std::size_t count) {
    std::vector<float> x(count);
    for (float& value : x) value = normal(random);
    const auto bytes = std::as_bytes(std::span(x));
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  for (const std::string block : {"blk.0.", "blk.1."})
    for (const std::string part : parts) {
      auto& tensor = writer.find(block + part + ".weight");
      tensor.type = 0;
      tensor.data = values(tensor.sizes[0] * tensor.sizes[1]);
      const std::uint64_t outputs = tensor.sizes[1];
      writer.tensor(block + part + ".bias", {outputs}, generate::TensorType::f32, values(outputs));
    }
  std::uint64_t offset = 0;
  for (auto& tensor : writer.tensors) {
    tensor.offset = offset;
    offset = (offset + tensor.data.size() + 31) / 32 * 32;
  }
  return writer;
}

struct Loaded {
  explicit Loaded(const GgufWriter& writer, int threads = 1)
      : bytes(writer.file()), file(bytes), pool(threads), weights(file, executor) {}

  std::vector<std::byte> bytes;
  generate::Gguf file;
  Eigen::ThreadPool pool;
  gqa::PoolExecutor executor{pool};
  generate::Model weights;
  Trainee trainee{weights, executor};
};

double naive_loss(const GgufWriter& writer, const std::vector<TokenId>& tokens) {
  const auto bytes = writer.file();
  const generate::Gguf file(bytes);
  const generate::test::NaiveLlama naive(file);
  double sum = 0;
  for (std::size_t n = 1; n < tokens.size(); ++n) {
    const auto scores = naive.scores({tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n)});
    double total = 0;
    for (const double s : scores) total += std::exp(s);
    sum += std::log(total) - scores[static_cast<std::size_t>(tokens[n])];
  }
  return sum / static_cast<double>(tokens.size() - 1);
}

/// The model with `step` times a direction added to its parameters.
GgufWriter moved(const GgufWriter& from, const AttentionPlaces& places, const std::vector<double>& direction,
                 double step) {
  GgufWriter writer = from;
  for (std::size_t l = 0; l < places.layers.size(); ++l) {
    const AttentionPlaces::Layer& at = places.layers[l];
    const Index first[] = {at.q, at.k, at.v, at.output};
    for (std::size_t i = 0; i < std::size(parts); ++i) {
      auto& data = writer.find("blk." + std::to_string(l) + "." + parts[i] + ".weight").data;
      for (std::size_t j = 0; j < data.size() / 4; ++j) {
        float x;
        std::memcpy(&x, &data[4 * j], 4);
        x = static_cast<float>(x + step * direction[static_cast<std::size_t>(first[i]) + j]);
        std::memcpy(&data[4 * j], &x, 4);
      }
    }
  }
  return writer;
}

const std::vector<TokenId> tokens{70, 12, 200, 33, 12};

TEST(Trainee, LossIsThatOfAnIndependentForwardPass) {
  const auto writer = model();
  Loaded loaded(writer);
  const auto parameters = loaded.trainee.parameters();
  EXPECT_EQ(std::ssize(parameters), 2 * (64 + 32 + 32 + 64) * 64);
  // Scores of about 10 in f32: 1e-6 of them.
  EXPECT_NEAR(loaded.trainee.loss(parameters, tokens), naive_loss(writer, tokens), 1e-5);
}

// The slope of the naive loss along a part of the gradient is that part's norm if it is right, and less if it
// points elsewhere; along a random direction it is their product.
TEST(Trainee, GradientIsTheSlopeOfAnIndependentForwardPass) {
  const auto writer = model();
  Loaded loaded(writer);
  Trainee& trainee = loaded.trainee;
  const auto parameters = trainee.parameters();
  std::vector<float> gradient(parameters.size(), 3);
  trainee.loss_and_gradient(parameters, tokens, 0.5F, gradient);
  std::vector<double> g(gradient.size());
  for (std::size_t i = 0; i < g.size(); ++i) g[i] = (gradient[i] - 3) * 2;  // what was added, of weight 1

  const auto slope = [&](const std::vector<double>& along) {
    constexpr double h = 2e-3;  // the third derivative's share is h^2 / 6, that of rounding 6e-8 / h
    return (naive_loss(moved(writer, trainee.places(), along, h), tokens) -
            naive_loss(moved(writer, trainee.places(), along, -h), tokens)) /
           (2 * h);
  };
  const auto norm = [](const std::vector<double>& x) {
    return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
  };
  const double whole = norm(g);
  for (std::size_t l = 0; l < 2; ++l) {
    const AttentionPlaces::Layer& at = trainee.places().layers[l];
    const Index ends[] = {at.q, at.k, at.v, at.output,
                          l == 0 ? trainee.places().layers[1].q : trainee.places().size};
    for (std::size_t part = 0; part < 4; ++part) {
      std::vector<double> along(g.size(), 0);
      for (Index i = ends[part]; i < ends[part + 1]; ++i)
        along[static_cast<std::size_t>(i)] = g[static_cast<std::size_t>(i)];
      const double length = norm(along);
      ASSERT_GT(length, 0);
      for (double& x : along) x /= length;
      EXPECT_NEAR(slope(along), length, 2e-3 * length + 1e-4 * whole) << parts[part] << " of layer " << l;
    }
  }
  std::mt19937 random(9);
  std::normal_distribution<double> normal;
  std::vector<double> along(g.size());
  for (double& x : along) x = normal(random);
  const double length = norm(along);
  for (double& x : along) x /= length;
  EXPECT_NEAR(slope(along), std::inner_product(g.begin(), g.end(), along.begin(), 0.0), 1e-4 * whole);
}

TEST(Trainee, RefusesWhatItCannotDo) {
  Loaded loaded(model());
  Trainee& trainee = loaded.trainee;
  auto parameters = trainee.parameters();
  std::vector<float> gradient(parameters.size());
  const auto with = [&](std::vector<TokenId> sequence) { return trainee.loss(parameters, sequence); };
  EXPECT_THROW(with({}), std::invalid_argument);
  EXPECT_THROW(with({1}), std::invalid_argument);
  EXPECT_THROW(with({1, 272}), std::invalid_argument);
  EXPECT_THROW(with({-1, 2}), std::invalid_argument);
  gradient.pop_back();
  EXPECT_THROW(trainee.loss_and_gradient(parameters, tokens, 1, gradient), std::invalid_argument);
  parameters.pop_back();
  EXPECT_THROW(trainee.loss(parameters, tokens), std::invalid_argument);
}

std::vector<TokenId> text(std::size_t size) {
  std::vector<TokenId> ids(size);
  for (std::size_t i = 0; i < size; ++i) ids[i] = static_cast<TokenId>(10 + i * i % 7);
  return ids;
}

uptrain::Training trained(int threads, int stops) {
  Loaded loaded(model(), threads);
  Recipe recipe;
  recipe.steps = 6;
  recipe.warm_up = 2;
  recipe.sequences = 2;
  recipe.context = 11;
  recipe.every = 4;
  uptrain::Training training;
  training.parameters = loaded.trainee.parameters();
  while (training.step < recipe.steps || training.losses.size() < 3) {
    const Index before = training.step;
    train(loaded.trainee, text(100), text(40), recipe, training,
          [&] { return stops == 0 || training.step < before + stops; });
  }
  return training;
}

TEST(Uptraining, LosesLossAndKeepsItsBitsHoweverItIsStopped) {
  const auto whole = trained(1, 0);
  EXPECT_EQ(whole.step, 6);
  ASSERT_EQ(whole.losses.size(), 3U) << "before, after 4 and after 6 steps";
  EXPECT_LT(whole.losses[2], whole.losses[0]);
  for (const auto& other : {trained(1, 2), trained(3, 0)}) {
    EXPECT_EQ(other.parameters, whole.parameters);
    EXPECT_EQ(other.losses, whole.losses);
  }
}

TEST(Uptraining, MeasuresPiecesByTheirTokens) {
  Loaded loaded(model());
  const auto parameters = loaded.trainee.parameters();
  const auto ids = text(12);
  const std::span all(ids);
  // Pieces of 5, 5 and 2, of whose tokens 4, 4 and 1 are counted; and of 11 and 1, which has none.
  const auto loss = [&](std::size_t first, std::size_t count) {
    return loaded.trainee.loss(parameters, all.subspan(first, count));
  };
  EXPECT_NEAR(measure(loaded.trainee, parameters, all, 5),
              (4 * loss(0, 5) + 4 * loss(5, 5) + loss(10, 2)) / 9, 1e-12);
  EXPECT_EQ(measure(loaded.trainee, parameters, all, 11), loss(0, 11));
  EXPECT_EQ(measure(loaded.trainee, parameters, all, 512), loss(0, 12));
  EXPECT_THROW(measure(loaded.trainee, parameters, all.first(1), 5), std::invalid_argument);
}

TEST(Uptraining, SaysWhatIsTooShortAndWhatDiverges) {
  Loaded loaded(model());
  Recipe recipe;
  recipe.context = 20;
  uptrain::Training training;
  training.parameters = loaded.trainee.parameters();
  const auto go = [] { return true; };
  EXPECT_THROW(train(loaded.trainee, text(19), text(5), recipe, training, go), std::invalid_argument);
  training.parameters[7] = NAN;
  EXPECT_THROW(train(loaded.trainee, text(20), text(5), recipe, training, go), std::runtime_error);
}

}  // namespace
}  // namespace uptrain_gguf
