// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "server.hpp"

namespace serve_batch {

/// What a server did, when it is done.
struct Report {
  const Service& service;
  const Settings& settings;
  Index page_bytes = 0;
  std::optional<bool> same_alone = {};  ///< whether every text is the one it is alone, where that was tried
  double alone_seconds = 0;             ///< and how long that took

  double alone_rate() const {
    return alone_seconds > 0 ? static_cast<double>(service.chosen_tokens()) / alone_seconds : 0;
  }

  /// The figures.
  std::string text() const;
  /// The figures and the texts.
  nlohmann::ordered_json json() const;
};

}  // namespace serve_batch
