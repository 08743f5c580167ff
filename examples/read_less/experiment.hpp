// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "model.hpp"
#include "reader.hpp"

namespace read_less {

using generate::TokenId;

/// What is compared.
struct Settings {
  Index prompt = 2048;  ///< first tokens of the text, which are read in full
  Index tokens = 512;   ///< that follow, each fed alone; how likely the one after each is, is measured
  std::vector<Index> keep;
  std::vector<Method> methods{std::begin(all_methods), std::end(all_methods)};
  Index sinks = 4, window = 32, pool = 7;

  /// Fed in all: there is one more, the last to be likely or not.
  Index num_tokens() const { return prompt + tokens; }
};

/// One method within one budget.
struct Outcome {
  Method method;
  Index keep;
  double bytes_read;  ///< for a token, on average
  Index bytes_held;   ///< most at once, between tokens
  double mean_negative_log;
};

struct Results {
  Settings settings;
  double full_bytes_read, full_mean_negative_log;  ///< of attention to all tokens
  Index full_bytes_held;
  Index token_bytes;  ///< of one token's keys and values
  std::vector<Outcome> runs;
};

/// Throws std::invalid_argument for settings that the sizes of the model, or the text, do not allow.
void check(const Settings& settings, const generate::Hyperparameters& sizes, Index text_tokens);

/// A text's first tokens are read in full, once; then, for every budget and method, the others are fed one
/// after another, whatever the model would have said (teacher forcing), while each attends to what its method
/// reads. `progress` is told 0 to 1.
Results measure(const generate::Model& model, gqa::PoolExecutor executor, std::span<const TokenId> tokens,
                const Settings& settings, const std::function<void(double)>& progress = {});

}  // namespace read_less
