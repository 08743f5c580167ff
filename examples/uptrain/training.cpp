// SPDX-License-Identifier: Apache-2.0
#include "training.hpp"

#include <cmath>
#include <limits>
#include <stdexcept>

#include "gqa/core/error.hpp"

namespace uptrain {
namespace {

/// No step has the number of this stream.
constexpr std::uint64_t initial_stream = std::numeric_limits<std::uint64_t>::max();

void check_finite(double x, const char* what, const Recipe& recipe, Index step) {
  GQA_CHECK(std::isfinite(x), std::runtime_error,
            recipe.name << ": " << what << " is " << x << " after step " << step
                        << "; a lower learning rate may help");
}

}  // namespace

std::vector<float> initial_parameters(const Shape& shape, std::uint64_t seed) {
  const Places places(shape);
  std::vector<float> parameters(static_cast<std::size_t>(places.size), 1.0F);
  Random random(seed, initial_stream);
  const auto fill = [&](Index at, Index rows, Index inputs, double factor) {
    const double bound = factor * std::sqrt(3 / static_cast<double>(inputs));
    for (Index i = 0; i < rows * inputs; ++i)
      parameters[static_cast<std::size_t>(at + i)] = static_cast<float>(bound * random.symmetric());
  };
  const double residual = 1 / std::sqrt(2 * static_cast<double>(shape.layers));
  fill(places.embedding, shape.vocabulary, shape.width, 1);
  for (const Places::Layer& layer : places.layers) {
    fill(layer.qkv, shape.qkv_width(), shape.width, 1);
    fill(layer.out, shape.width, shape.width, residual);
    fill(layer.gate_up, 2 * shape.hidden, shape.width, 1);
    fill(layer.down, shape.width, shape.hidden, residual);
  }
  fill(places.head, shape.vocabulary, shape.width, 1);
  return parameters;
}

double measure(Transformer<float>& model, const std::vector<float>& parameters,
               const std::vector<Batch>& batches) {
  double sum = 0;
  Index sequences = 0;
  for (const Batch& batch : batches) {
    sum += static_cast<double>(batch.sequences) * model.loss(parameters, batch);
    sequences += batch.sequences;
  }
  return sum / static_cast<double>(sequences);
}

void train(Transformer<float>& model, const Text& text, const std::vector<Batch>& measured_on,
           const Recipe& recipe, Training& training, const std::function<bool()>& goes_on,
           const Folding* folding) {
  const AdamW optimizer;
  const Index decayed = folding ? folding->matrices() : model.places().matrices;
  std::vector<float> folded, d_folded(folding ? static_cast<std::size_t>(model.places().size) : 0);
  const auto parameters = [&]() -> const std::vector<float>& {
    if (!folding) return training.parameters;
    folding->fold(training.parameters, folded);
    return folded;
  };
  std::vector<float> gradient(training.parameters.size());
  if (training.moments.first.empty()) training.moments = Moments(training.parameters.size());
  const auto measure_if_due = [&] {
    const std::size_t next = training.losses.size();
    if (next == recipe.measured_at.size() || recipe.measured_at[next] != training.step) return;
    const double loss = measure(model, parameters(), measured_on);
    check_finite(loss, "loss", recipe, training.step);
    training.losses.push_back(loss);
  };
  measure_if_due();
  while (training.step < recipe.steps && goes_on()) {
    const Index step = training.step + 1;
    const Batch batch =
        training_batch(text, recipe.batch, model.shape().context, recipe.seed, recipe.first_batch + step);
    check_finite(model.loss_and_gradient(parameters(), batch, folding ? d_folded : gradient), "loss", recipe,
                 training.step);
    if (folding) folding->fold_backward(training.parameters, d_folded, gradient);
    const double norm = optimizer.update(
        training.parameters, gradient, training.moments, step,
        learning_rate(step, recipe.steps, recipe.warm_up, recipe.rate, recipe.rate / 10), decayed);
    check_finite(norm, "gradient", recipe, training.step);
    training.step = step;
    measure_if_due();
  }
}

}  // namespace uptrain
