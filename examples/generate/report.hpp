// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "hyperparameters.hpp"
#include "session.hpp"

namespace generate {

/// Bytes of a KV cache as the model has it, and as it would be if every query head had its own keys and
/// values (MHA) or all shared one (MQA).
struct CacheSizes {
  Index tokens;
  Index gqa, mha, mqa;
};
CacheSizes cache_sizes(const Hyperparameters& sizes, CacheType type, Index tokens);

/// What a run took and needed.
struct Report {
  Index num_threads;
  double load_seconds;
  std::size_t num_weights, weight_bytes;
  std::size_t prompt_tokens, output_tokens;
  double prompt_seconds, prompt_rate;
  double generation_seconds, generation_rate;
  double attention_share;  ///< of the time spent on prompt and generation
  std::string_view stop;
  CacheType cache_type;
  CacheSizes now, full;

  std::string text(const Hyperparameters& sizes) const;
  nlohmann::ordered_json json(const Hyperparameters& sizes) const;
};

}  // namespace generate
