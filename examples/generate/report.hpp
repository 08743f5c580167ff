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
/// Of a cache that takes so many bytes with the model's own heads.
CacheSizes cache_sizes(const Hyperparameters& sizes, Index tokens, Index bytes);
/// Bytes of so many tokens; a ring drops those that no window sees.
Index cache_bytes(const Hyperparameters& sizes, CacheType type, CacheKind kind, Index tokens);

/// What a run took and needed.
struct Report {
  Index num_threads = 1;
  double load_seconds = 0;
  std::size_t num_weights = 0, weight_bytes = 0;
  std::string weight_types;
  CacheType cache_type = CacheType::f32;
  CacheKind cache_kind = CacheKind::contiguous;
  std::size_t prompt_tokens = 0, output_tokens = 0;
  double prompt_seconds = 0, prompt_rate = 0;
  double generation_seconds = 0, generation_rate = 0;
  std::string_view stop = "";
  double attention_share = 0;  ///< of the time spent on prompt and generation
  CacheSizes now{}, full{};

  /// Sets the last three, once the times are there.
  void note(const Session& session, const Hyperparameters& sizes);

  std::string text(const Hyperparameters& sizes) const;
  nlohmann::ordered_json json(const Hyperparameters& sizes) const;
};

}  // namespace generate
