// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "choices.hpp"

namespace choose_groups {

/// What is known of a model's loss by its number of KV heads.
struct Quality {
  std::string source = {};                   ///< where the figures are from, for people
  std::map<Index, double> by_kv_heads = {};  ///< a user's own; empty: the stand-in
};

/// A user's figures: a JSON object of loss by number of KV heads, {"8": 2.31, "4": 2.33}. Throws
/// std::invalid_argument for what is none.
Quality read_quality(const std::string& file);

/// A stand-in where there are none: what examples/uptrain measured of small transformers (1.1 M parameters, 8
/// heads, King James Bible) whose heads were joined by the aligned mean and trained on for 5 % of the steps:
/// nats a character above the multi-head model, by group size, in proportion to its logarithm between them.
Quality stand_in();

/// Fills in each choice's loss.
void set_losses(std::vector<Choice>& choices, const Use& use, const Quality& quality);

}  // namespace choose_groups
