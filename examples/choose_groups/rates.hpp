// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gqa/plan/cost.hpp>
#include <nlohmann/json.hpp>
#include <string>

namespace choose_groups {

/// This machine's, in about a second.
gqa::CostRates measured_rates(const std::string& dtype, int num_threads);

/// As they were printed with --json: the object "rates" of a report, or that alone. Throws
/// std::invalid_argument for what is none, or of another element type or number of threads.
gqa::CostRates read_rates(const std::string& file, const std::string& dtype, int num_threads);

nlohmann::ordered_json json_of(const gqa::CostRates& rates, const std::string& dtype);

}  // namespace choose_groups
