// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "random.hpp"
#include "text.hpp"

namespace uptrain {

/// Sequences of a text, and for each of their symbols the one that follows: sequences x context.
struct Batch {
  Index sequences = 0;
  std::vector<Symbol> inputs, targets;

  void add(const std::vector<Symbol>& text, Index first, Index context) {
    inputs.insert(inputs.end(), text.begin() + first, text.begin() + first + context);
    targets.insert(targets.end(), text.begin() + first + 1, text.begin() + first + 1 + context);
    ++sequences;
  }
};

/// What is learned from in a step: a function of seed and step alone, so that training goes on from any step.
inline Batch training_batch(const Text& text, Index sequences, Index context, std::uint64_t seed,
                            Index step) {
  Random random(seed, static_cast<std::uint64_t>(step));
  Batch batch;
  for (Index i = 0; i < sequences; ++i)
    batch.add(text.training(), random.below(std::ssize(text.training()) - context), context);
  return batch;
}

/// What is measured on, the same for every model: `count` sequences as far apart as they come, in batches.
inline std::vector<Batch> validation_batches(const Text& text, Index count, Index sequences, Index context) {
  std::vector<Batch> batches;
  const Index last = std::ssize(text.validation()) - context - 1;
  for (Index i = 0; i < count; ++i) {
    if (batches.empty() || batches.back().sequences == sequences) batches.emplace_back();
    batches.back().add(text.validation(), count == 1 ? 0 : last / (count - 1) * i, context);
  }
  return batches;
}

}  // namespace uptrain
