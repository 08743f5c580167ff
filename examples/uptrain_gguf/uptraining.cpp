// SPDX-License-Identifier: Apache-2.0
#include "uptraining.hpp"

#include <algorithm>
#include <cmath>

#include "gqa/core/error.hpp"

namespace uptrain_gguf {
namespace {

void check_finite(double x, const char* what, Index step) {
  GQA_CHECK(std::isfinite(x), std::runtime_error,
            what << " is " << x << " after step " << step << "; a lower --rate may help");
}

}  // namespace

double measure(Trainee& trainee, std::span<const float> parameters, std::span<const TokenId> tokens,
               Index context) {
  double sum = 0;
  Index counted = 0;
  for (std::size_t first = 0; first == 0 || first + 1 < tokens.size();
       first += static_cast<std::size_t>(context)) {
    const auto piece =
        tokens.subspan(first, std::min(static_cast<std::size_t>(context), tokens.size() - first));
    const Index targets = std::ssize(piece) - 1;
    sum += static_cast<double>(targets) * trainee.loss(parameters, piece);
    counted += targets;
  }
  return sum / static_cast<double>(counted);
}

void train(Trainee& trainee, std::span<const TokenId> text, std::span<const TokenId> measured_on,
           const Recipe& recipe, uptrain::Training& training, const std::function<bool()>& goes_on) {
  GQA_CHECK(std::ssize(text) >= recipe.context, std::invalid_argument,
            "the text to learn has " << text.size() << " tokens, expected at least the " << recipe.context
                                     << " of a sequence");
  uptrain::AdamW optimizer;
  optimizer.decay = 0;  // a hundredth of a training from scratch: nothing to forget
  std::vector<float> gradient(training.parameters.size());
  if (training.moments.first.empty()) training.moments = uptrain::Moments(training.parameters.size());
  const auto measure_if_due = [&] {
    const Index done = std::ssize(training.losses);  // one for step 0, and then one every so many
    if (!recipe.is_measured(training.step) || done > gqa::ceil_div(training.step, recipe.every)) return;
    const double loss = measure(trainee, training.parameters, measured_on, recipe.context);
    check_finite(loss, "the loss", training.step);
    training.losses.push_back(loss);
  };
  if (goes_on()) measure_if_due();
  while (training.step < recipe.steps && goes_on()) {
    const Index step = training.step + 1;
    std::ranges::fill(gradient, 0.0F);
    uptrain::Random random(recipe.seed, static_cast<std::uint64_t>(step));
    for (Index i = 0; i < recipe.sequences; ++i) {
      const Index first = random.below(std::ssize(text) - recipe.context + 1);
      const auto sequence =
          text.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(recipe.context));
      const double loss = trainee.loss_and_gradient(training.parameters, sequence,
                                                    1 / static_cast<float>(recipe.sequences), gradient);
      check_finite(loss, "the loss", training.step);
    }
    const double norm = optimizer.update(
        training.parameters, gradient, training.moments, step,
        uptrain::learning_rate(step, recipe.steps, recipe.warm_up, recipe.rate, recipe.rate / 10),
        std::ssize(training.parameters));
    check_finite(norm, "the gradient", training.step);
    training.step = step;
    measure_if_due();
  }
}

}  // namespace uptrain_gguf
