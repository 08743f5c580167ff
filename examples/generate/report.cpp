// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <algorithm>
#include <iomanip>
#include <sstream>

#include "gqa/core/shape.hpp"

namespace generate {
namespace {

std::string megabytes(Index bytes) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(bytes < 100'000'000 ? 2 : 1) << static_cast<double>(bytes) / 1e6
      << " MB";
  return out.str();
}

nlohmann::ordered_json to_json(const CacheSizes& sizes) {
  return {{"tokens", sizes.tokens}, {"bytes", sizes.gqa}, {"mha_bytes", sizes.mha}, {"mqa_bytes", sizes.mqa}};
}

}  // namespace

CacheSizes cache_sizes(const Hyperparameters& sizes, Index tokens, Index bytes) {
  const Index mqa = bytes / sizes.num_kv_heads;
  return {.tokens = tokens,
          .gqa = bytes,
          .mha = gqa::checked_mul(mqa, sizes.num_q_heads, "KV cache"),
          .mqa = mqa};
}

Index cache_bytes(const Hyperparameters& sizes, CacheType type, CacheKind kind, Index tokens) {
  Index kept = 0;  // tokens, of all layers
  for (Index i = 0; i < sizes.num_layers; ++i)
    kept += kind == CacheKind::ring ? std::min(tokens, sizes.window(i)) : tokens;
  const Index token =
      sizes.num_kv_heads * (sizes.head_dim + sizes.value_dim) * (type == CacheType::f32 ? 4 : 2);
  return gqa::checked_mul(kept, token, "KV cache");
}

void Report::note(const Session& session, const Hyperparameters& sizes) {
  const double seconds = prompt_seconds + generation_seconds;
  attention_share = seconds > 0 ? session.attention_seconds() / seconds : 0;
  now = cache_sizes(sizes, session.size(), session.cache_bytes());
  full = cache_sizes(sizes, sizes.context_length,
                     cache_bytes(sizes, cache_type, cache_kind, sizes.context_length));
}

std::string Report::text(const Hyperparameters& sizes) const {
  std::ostringstream out;
  out << std::fixed << std::setprecision(2);
  out << "model       " << sizes.name << ": " << static_cast<double>(num_weights) / 1e6 << " M weights, "
      << megabytes(static_cast<Index>(weight_bytes)) << " as " << weight_types << ", loaded in "
      << load_seconds << " s\n";
  out << "prompt      " << prompt_tokens << " tokens in " << prompt_seconds << " s";
  out << std::setprecision(1) << ", " << prompt_rate << " tokens/s\n";
  out << "generation  " << output_tokens << " tokens";
  if (output_tokens > 1) {
    out << std::setprecision(2) << " in " << generation_seconds << " s" << std::setprecision(1) << ", "
        << generation_rate << " tokens/s";
  }
  out << " (stopped by: " << stop << ")\n";
  out << "attention   " << 100 * attention_share << " % of that time; " << num_threads
      << (num_threads == 1 ? " thread\n" : " threads\n");
  out << "KV cache    " << type_name(cache_type) << ", " << kind_name(cache_kind) << ", " << sizes.num_layers
      << " layers, " << sizes.num_q_heads << " query heads, " << sizes.num_kv_heads << " KV heads, head_dim "
      << sizes.head_dim << "\n";
  out << std::setw(22) << "tokens" << std::setw(14) << "MHA" << std::setw(14)
      << "this (G=" + std::to_string(sizes.num_kv_heads) + ")" << std::setw(14) << "MQA"
      << "\n";
  const auto row = [&](const char* name, const CacheSizes& cache) {
    out << "  " << std::left << std::setw(12) << name << std::right << std::setw(8) << cache.tokens
        << std::setw(14) << megabytes(cache.mha) << std::setw(14) << megabytes(cache.gqa) << std::setw(14)
        << megabytes(cache.mqa) << "\n";
  };
  row("now", now);
  row("full context", full);
  return out.str();
}

nlohmann::ordered_json Report::json(const Hyperparameters& sizes) const {
  return {
      {"model", sizes.name},
      {"threads", num_threads},
      {"weights", num_weights},
      {"weight_bytes", weight_bytes},
      {"weight_dtype", weight_types},
      {"load_seconds", load_seconds},
      {"prompt_tokens", prompt_tokens},
      {"prompt_seconds", prompt_seconds},
      {"prompt_tokens_per_second", prompt_rate},
      {"generated_tokens", output_tokens},
      {"generation_seconds", generation_seconds},
      {"generation_tokens_per_second", generation_rate},
      {"attention_share", attention_share},
      {"stop", stop},
      {"cache", kind_name(cache_kind)},
      {"cache_dtype", type_name(cache_type)},
      {"kv_cache", {{"now", to_json(now)}, {"full_context", to_json(full)}}},
  };
}

}  // namespace generate
