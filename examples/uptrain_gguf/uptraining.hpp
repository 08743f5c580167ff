// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "trainee.hpp"
#include "training.hpp"

namespace uptrain_gguf {

/// How a model is trained, and when it is measured.
struct Recipe {
  Index steps = 300;
  Index warm_up = 15;   ///< steps in which the learning rate rises; then it falls along a cosine to a tenth
  Index sequences = 1;  ///< of a step
  Index context = 512;  ///< tokens of a sequence, in training and in measuring
  Index every = 20;     ///< steps between measurements, the first before and the last after all of them
  double rate = 1e-3;   ///< the highest
  std::uint64_t seed = 1;  ///< of the sequences

  bool is_measured(Index step) const { return step % every == 0 || step == steps; }
};

/// The mean loss over a text cut into sequences of `context` tokens that do not see each other, of whose
/// tokens the first is not counted; what is left of one token is left out. Throws as Trainee::loss does.
double measure(Trainee& trainee, std::span<const float> parameters, std::span<const TokenId> tokens,
               Index context);

/// Trains by AdamW from where it stands to the end, or until `goes_on`, asked before each step, says no;
/// sequences begin anywhere in the text: where, is a function of seed and step. Losses are measured on
/// another text. Throws std::invalid_argument for a text shorter than a sequence, and std::runtime_error
/// where the loss or the gradient is no number.
void train(Trainee& trainee, std::span<const TokenId> text, std::span<const TokenId> measured_on,
           const Recipe& recipe, uptrain::Training& training, const std::function<bool()>& goes_on);

}  // namespace uptrain_gguf
