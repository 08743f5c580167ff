// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "choices.hpp"
#include "quality.hpp"

namespace choose_groups {

/// All that was found.
struct Report {
  Use use;
  gqa::CostRates rates = {};
  Quality quality = {};
  std::vector<Choice> choices = {};
  bool limited = false;  ///< limits were given
};

std::string text_of(const Report& report);
nlohmann::ordered_json json_of(const Report& report);

}  // namespace choose_groups
