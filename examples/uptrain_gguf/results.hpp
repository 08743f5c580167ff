// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "uptraining.hpp"

namespace uptrain_gguf {

/// Perplexity by step, of one run.
struct Curve {
  std::string name;
  std::vector<Index> steps;
  std::vector<double> perplexities;
};

/// The curve of a run's results. Throws std::system_error where the file cannot be read and
/// std::invalid_argument for another one.
Curve read_curve(const std::filesystem::path& path);

/// What a run found.
struct Results {
  Recipe recipe;
  std::string name;   ///< of the curve
  std::string model;  ///< its name in the file
  Index num_kv_heads = 0;
  Index num_parameters = 0, num_trained = 0;
  Index text_tokens = 0, measured_tokens = 0;
  std::vector<double> losses;            ///< in nats, measured as the recipe says
  std::optional<double> reference = {};  ///< loss of another model
  std::optional<double> seconds = {};    ///< where all of it was trained in this call

  Curve curve() const;
  std::string text() const;
  nlohmann::ordered_json json() const;
  /// Of this run and others; the reference is the line.
  std::string svg(const std::vector<Curve>& others) const;
};

}  // namespace uptrain_gguf
