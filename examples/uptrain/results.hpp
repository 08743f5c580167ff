// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "settings.hpp"

namespace uptrain {

/// "5 %"
std::string percent(double share);

/// What became of one model.
struct Result {
  Index seed = 0;
  std::optional<Method> method;  ///< none: the MHA model, trained on
  Index kv_heads = 0;
  Index cache_elements = 0;    ///< for one token of all layers
  std::vector<double> losses;  ///< before uptraining, then after each share; one for what is not trained
};

/// The same of all seeds.
struct Spread {
  double mean = 0, low = 0, high = 0;

  explicit Spread(const std::vector<double>& values);
  double half_range() const { return (high - low) / 2; }
};

/// What was expected before anything was measured, and how often it came true.
struct Claim {
  std::string text;
  Index held = 0, of = 0;
};

/// What an experiment found.
struct Results {
  Settings settings;
  std::string text_name, text_digest;
  Index text_bytes = 0;
  std::vector<double> base;  ///< losses of the MHA models, by seed
  std::vector<Result> runs;
  double seconds = 0;
  Index threads = 0;

  /// Losses of a method by seed; `share` counts from 0, before uptraining. Empty where it has none.
  std::vector<double> losses(std::optional<Method> method, Index kv_heads, std::size_t share) const;
  Index cache_elements(std::optional<Method> method, Index kv_heads) const;
  /// Of what a conversion lost, how much uptraining brought back, by seed.
  std::vector<double> recovered(Method method, Index kv_heads, std::size_t share) const;
  /// The share that claims are about, counting as in losses(): of 5 %, or the middle one.
  std::size_t middle_share() const { return settings.shares.size() / 2 + 1; }
  std::vector<Claim> claims() const;

  std::string table() const;
  nlohmann::ordered_json json() const;
};

}  // namespace uptrain
