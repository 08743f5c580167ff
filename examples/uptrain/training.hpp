// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "adamw.hpp"
#include "batch.hpp"
#include "folding.hpp"
#include "transformer.hpp"

namespace uptrain {

/// How a model is trained, and when it is measured.
struct Recipe {
  std::string name;  ///< for messages
  Index steps = 0;
  Index warm_up = 0;
  double rate = 0;                 ///< the highest
  std::uint64_t seed = 0;          ///< of the batches
  Index first_batch = 0;           ///< how many batches of the seed went before
  Index batch = 0;                 ///< sequences of one
  std::vector<Index> measured_at;  ///< steps, ascending; 0 is before the first
};

/// Where a training stands. Everything that follows is a function of this.
struct Training {
  Index step = 0;  ///< how many are done
  std::vector<float> parameters;
  Moments moments;
  std::vector<double> losses;  ///< measured so far
};

/// Parameters to begin with: gains 1, matrices uniform with the variance 1 / inputs, those that write to the
/// residual stream divided by sqrt(2 layers) (Radford et al. 2019).
std::vector<float> initial_parameters(const Shape& shape, std::uint64_t seed);

/// The mean loss over batches.
double measure(Transformer<float>& model, const std::vector<float>& parameters,
               const std::vector<Batch>& batches);

/// Trains from where it stands to the end, or until `goes_on`, asked before each step, says no. Throws
/// std::runtime_error where the loss or the gradient is no number. With a `folding`, the parameters are those
/// that it folds into the model's.
void train(Transformer<float>& model, const Text& text, const std::vector<Batch>& measured_on,
           const Recipe& recipe, Training& training, const std::function<bool()>& goes_on,
           const Folding* folding = nullptr);

}  // namespace uptrain
