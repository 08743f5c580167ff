// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "conversion.hpp"
#include "generation.hpp"
#include "hyperparameters.hpp"

namespace convert {

/// What a conversion did.
struct Report {
  const generate::Hyperparameters& sizes;  ///< of the model before
  const Settings& settings;
  std::string path;
  Index num_kv_heads = 0;  ///< that the file has now
  struct Layer {
    gqa::convert::Report report;
    std::vector<Index> groups;
  };
  std::vector<Layer> layers = {};
  std::optional<Index> calibration_tokens = {};
  Index bytes_before = 0, bytes_after = 0;  ///< of the files
  std::optional<generate::Likelihood> before = {}, after = {};
  double conversion_seconds = 0;

  bool expands() const { return convert::expands(settings, sizes.num_kv_heads); }
  /// Of all layers, in elements a token.
  Index cache_before() const;
  Index cache_after() const;
  /// KV heads of a layer that are not another's copy.
  static Index distinct_heads(const Layer& layer);
  /// Of all layers, were each kept once.
  Index distinct_heads() const;

  std::string text() const;
  nlohmann::ordered_json json() const;
};

}  // namespace convert
