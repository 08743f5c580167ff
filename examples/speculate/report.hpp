// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "options.hpp"
#include "speculation.hpp"

namespace speculate {

/// What a run gave: by speculation and, where that was asked for, by decoding a token at a time.
struct Report {
  const Options& options;
  const Speculation& result;
  std::optional<generate::Generation> plain;  ///< the same tokens

  /// How many times as fast as plain decoding; 0 where there is nothing to compare.
  double speedup() const;
  std::string text() const;
  nlohmann::ordered_json json() const;
};

}  // namespace speculate
