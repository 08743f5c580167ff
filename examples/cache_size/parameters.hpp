// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "cache_size.hpp"
#include "weights.hpp"

namespace cache_size {

/// Whether the parameters of a model of that type can be counted: those of its layers must be alike, or dense
/// at first and experts from there on.
bool can_count(const nlohmann::json& text_config, const std::string& model_type);

/// The parameters of the text model that a config.json describes, counted by its architecture:
///
///     vocabulary x width (twice unless tied) + layers x (q, k, v, o + norms + feed-forward or experts) +
///     norm
///
/// Throws gqa::format_error for a size that is missing or cannot be.
Index count_parameters(const nlohmann::json& text_config, const std::string& model_type);

}  // namespace cache_size
