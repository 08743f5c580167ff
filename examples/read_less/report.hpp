// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "experiment.hpp"

namespace read_less {

/// The results as a table, as JSON, and as a picture: perplexity by bytes read.
std::string table(const Results& results, const std::string& model);
nlohmann::ordered_json to_json(const Results& results, const std::string& model);
std::string picture(const Results& results, const std::string& model);

}  // namespace read_less
