// SPDX-License-Identifier: Apache-2.0
#include "architecture.hpp"

#include <algorithm>

#include "gqa/core/error.hpp"

namespace generate {
namespace {

using enum KnownKey::Use;

/// The keys of a model that llama.cpp writes or reads and this program can honour.
constexpr KnownKey keys_of_all[] = {
    // clang-format off
    {"attention.causal",                      only, 1},
    {"attention.head_count",                  acts},
    {"attention.head_count_kv",               acts},
    {"attention.key_length",                  acts},
    {"attention.layer_norm_rms_epsilon",      acts},
    {"attention.max_alibi_bias",              only, 0},
    {"attention.scale",                       only, 0},  // 0: one over the root of key_length
    {"attention.sliding_window",              acts},
    {"attention.value_length",                acts},
    {"attn_logit_softcapping",                only, 0},
    {"block_count",                           acts},
    {"context_length",                        acts},
    {"embedding_length",                      acts},
    {"embedding_scale",                       only, 1},
    {"expert_count",                          only, 0},
    {"expert_shared_count",                   only, 0},
    {"expert_used_count",                     only, 0},
    {"feed_forward_length",                   acts},
    {"final_logit_softcapping",               only, 0},
    {"logit_scale",                           only, 1},
    {"nextn_predict_layers",                  only, 0},
    {"pooling_type",                          only, 0},
    {"residual_scale",                        only, 1},
    {"rope.dimension_count",                  acts},
    {"rope.freq_base",                        acts},
    {"rope.scale_linear",                     acts},  // what rope.scaling.factor was called before
    {"rope.scaling.alpha",                    only, 0},
    {"rope.scaling.attn_factor",              acts},
    {"rope.scaling.factor",                   acts},
    {"rope.scaling.finetuned",                describes},
    {"rope.scaling.original_context_length",  acts},  // in YaRN; otherwise it describes
    {"rope.scaling.type",                     acts},
    {"rope.scaling.yarn_beta_fast",           acts},
    {"rope.scaling.yarn_beta_slow",           acts},
    {"rope.scaling.yarn_ext_factor",          only, 1},
    {"rope.scaling.yarn_log_multiplier",      only, 0},
    {"tensor_data_layout",                    acts},
    {"use_parallel_residual",                 only, 0},
    {"vocab_size",                            acts},
    // clang-format on
};

constexpr KnownKey gemma3_keys[] = {
    {"attention.sliding_window_pattern", acts},
    {"rope.freq_base_swa", acts},
};

// Converters to GGUF permute the rows of llama's projections so that the two halves of a head interleave.
// They leave those of the others as they are, and add the 1 of Gemma's norms to their weights.
constexpr Architecture architectures[] = {
    {.name = "llama", .rope_layout = gqa::RopeLayout::interleaved},             // Touvron et al. 2023
    {.name = "qwen2", .rope_layout = gqa::RopeLayout::half, .qkv_bias = true},  // Yang et al. 2024
    {.name = "qwen3", .rope_layout = gqa::RopeLayout::half, .qk_norm = true},   // Yang et al. 2025
    {.name = "gemma3",                                                          // Gemma Team 2025
     .rope_layout = gqa::RopeLayout::half,
     .qk_norm = true,
     .post_norms = true,
     .scaled_embedding = true,
     .activation = Activation::gelu_tanh,
     .windows = {5, 1},
     .local_theta = 10000,
     .share_scaled_layers = 62,  // 27B, whose heads are narrower than its share
     .more_keys = gemma3_keys},
};

}  // namespace

const Architecture& find_architecture(std::string_view name) {
  const auto found = std::ranges::find(architectures, name, &Architecture::name);
  GQA_CHECK(found != std::end(architectures), gqa::format_error,
            "the architecture " << name << " is not supported (llama, qwen2, qwen3 and gemma3 are)");
  return *found;
}

std::span<const KnownKey> common_keys() { return keys_of_all; }

}  // namespace generate
