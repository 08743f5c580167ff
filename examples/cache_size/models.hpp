// SPDX-License-Identifier: Apache-2.0
// Published models: what their caches are made of, and where that is written.
#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <stdexcept>
#include <string>
#include <string_view>

#include "cache_size.hpp"

namespace cache_size {

namespace source {
inline constexpr const char* litgpt = "Lightning-AI/litgpt, litgpt/config.py at 2685705";
inline constexpr const char* mistral =
    "Lightning-AI/litgpt, litgpt/config.py at 2685705; context as released";
inline constexpr const char* gemma = "google/gemma_pytorch, gemma/config.py at 014acb7";
inline constexpr const char* gemma_cpp = "google/gemma.cpp, gemma/configs.cc";
inline constexpr const char* gpt_oss =
    "openai/gpt-oss, gpt_oss/torch/model.py at 7b58334; 20b: its model card";
inline constexpr const char* deepseek =
    "deepseek-ai/DeepSeek-V3, inference/configs at 9b4e978; context: README";
inline constexpr const char* deepseek_67b = "DeepSeek LLM (arXiv:2401.02954), table 2";
inline constexpr const char* gemma_3n =
    "google-deepmind/gemma, gm/nn/gemma3n/_gemma3n.py at 14336db: the layers that have a cache of their own; "
    "context: transformers, configuration_gemma3n.py at 0185480";
inline constexpr const char* gemma_4 =
    "huggingface/transformers, convert_gemma4_weights.py at 0f3f063 and configuration_gemma4.py at 008e574: "
    "the "
    "layers that have a cache of their own";
inline constexpr const char* kimi =
    "huggingface.co/moonshotai/Kimi-K2-Instruct-0905, config.json; latent: docs.nvidia.com, Megatron Bridge, "
    "Kimi "
    "K2";
inline constexpr const char* gpt_3 = "Language Models are Few-Shot Learners (arXiv:2005.14165), table 2.1";
}  // namespace source

struct Model {
  std::string_view name;
  Shape shape;
  Index context;
  const char* source;
  Index parameters = 0;  ///< of its files on Hugging Face, September 2026; 0: not known here
};

constexpr Shape dense(Index layers, Index q_heads, Index kv_heads, Index head_dim) {
  return {.layers = layers, .q_heads = q_heads, .kv_heads = kv_heads, .head_dim = head_dim};
}
constexpr Shape windowed(Shape s, Index local_layers, Index window) {
  s.local_layers = local_layers;
  s.window = window;
  return s;
}
/// Gemma 4's local layers have other heads than those that see all.
constexpr Shape with_local_heads(Shape s, Index kv_heads, Index head_dim) {
  s.local_kv_heads = kv_heads;
  s.local_head_dim = head_dim;
  return s;
}
// DeepSeek's 128 heads have keys of 128 elements (and 64 shared rotary ones) and values of 128. The MHA it is
// compared with is the usual 2 x 128 x 128 elements.
constexpr Shape latent(Index layers, Index latent_dim, Index q_heads = 128) {
  Shape s = dense(layers, q_heads, q_heads, 128);
  s.latent_dim = latent_dim;
  return s;
}

inline constexpr std::array models{
    Model{"GPT-3-175B", dense(96, 96, 96, 128), 2048, source::gpt_3},
    Model{"Llama-2-7B", dense(32, 32, 32, 128), 4096, source::litgpt},
    Model{"Llama-2-70B", dense(80, 64, 8, 128), 4096, source::litgpt},
    Model{"Llama-3-8B", dense(32, 32, 8, 128), 8192, source::litgpt, 8'030'261'248},
    Model{"Llama-3.1-8B", dense(32, 32, 8, 128), 131072, source::litgpt, 8'030'261'248},
    Model{"Llama-3-70B", dense(80, 64, 8, 128), 8192, source::litgpt, 70'553'706'496},
    Model{"Llama-3.1-70B", dense(80, 64, 8, 128), 131072, source::litgpt, 70'553'706'496},
    Model{"Llama-3.1-405B", dense(126, 128, 8, 128), 131072, source::litgpt},
    Model{"Mistral-7B-v0.1", windowed(dense(32, 32, 8, 128), 32, 4096), 32768, source::mistral},
    Model{"Mistral-7B-v0.3", dense(32, 32, 8, 128), 32768, source::litgpt, 7'248'023'552},
    Model{"Gemma-1-2B", dense(18, 8, 1, 256), 8192, source::gemma},
    Model{"Gemma-1-7B", dense(28, 16, 16, 256), 8192, source::gemma},
    Model{"Gemma-2-2B", windowed(dense(26, 8, 4, 256), 13, 4096), 8192, source::gemma, 2'614'341'888},
    Model{"Gemma-2-9B", windowed(dense(42, 16, 8, 256), 21, 4096), 8192, source::gemma},
    Model{"Gemma-2-27B", windowed(dense(46, 32, 16, 128), 23, 4096), 8192, source::gemma},
    Model{"Gemma-3-270M", windowed(dense(18, 4, 1, 256), 15, 512), 32768, source::gemma_cpp},
    Model{"Gemma-3-1B", windowed(dense(26, 4, 1, 256), 22, 512), 32768, source::gemma, 999'885'952},
    Model{"Gemma-3-4B", windowed(dense(34, 8, 4, 256), 29, 1024), 131072, source::gemma},
    Model{"Gemma-3-12B", windowed(dense(48, 16, 8, 256), 40, 1024), 131072, source::gemma},
    Model{"Gemma-3-27B", windowed(dense(62, 32, 16, 128), 52, 1024), 131072, source::gemma},
    Model{"Gemma-3n-E2B", windowed(dense(20, 8, 2, 256), 16, 512), 32768, source::gemma_3n},
    Model{"Gemma-3n-E4B", windowed(dense(20, 8, 2, 256), 16, 512), 32768, source::gemma_3n},
    Model{"Gemma-4-E2B", with_local_heads(windowed(dense(15, 8, 1, 512), 12, 512), 1, 256), 131072,
          source::gemma_4},
    Model{"Gemma-4-E4B", with_local_heads(windowed(dense(24, 8, 2, 512), 20, 512), 2, 256), 131072,
          source::gemma_4},
    Model{"Gemma-4-26B-A4B", with_local_heads(windowed(dense(30, 16, 2, 512), 25, 1024), 8, 256), 262144,
          source::gemma_4},
    Model{"Gemma-4-31B", with_local_heads(windowed(dense(60, 32, 4, 512), 50, 1024), 16, 256), 262144,
          source::gemma_4},
    Model{"Qwen2.5-0.5B", dense(24, 14, 2, 64), 32768, source::litgpt, 494'032'768},
    Model{"Qwen2.5-7B", dense(28, 28, 4, 128), 131072, source::litgpt, 7'615'616'512},
    Model{"Qwen2.5-32B", dense(64, 40, 8, 128), 131072, source::litgpt},
    Model{"Qwen2.5-72B", dense(80, 64, 8, 128), 131072, source::litgpt},
    Model{"Qwen3-0.6B", dense(28, 16, 8, 128), 40960, source::litgpt},
    Model{"Qwen3-1.7B", dense(28, 16, 8, 128), 40960, source::litgpt},
    Model{"Qwen3-4B", dense(36, 32, 8, 128), 40960, source::litgpt, 4'022'468'096},
    Model{"Qwen3-8B", dense(36, 32, 8, 128), 40960, source::litgpt, 8'190'735'360},
    Model{"Qwen3-14B", dense(40, 40, 8, 128), 40960, source::litgpt},
    Model{"Qwen3-30B-A3B", dense(48, 32, 4, 128), 40960, source::litgpt},
    Model{"Qwen3-32B", dense(64, 64, 8, 128), 40960, source::litgpt, 32'762'123'264},
    Model{"Qwen3-235B-A22B", dense(94, 64, 4, 128), 40960, source::litgpt},
    Model{"Falcon-7B", dense(32, 71, 1, 64), 2048, source::litgpt},
    Model{"Falcon-40B", dense(60, 128, 8, 64), 2048, source::litgpt},
    Model{"Falcon-180B", dense(80, 232, 8, 64), 2048, source::litgpt},
    Model{"SmolLM2-135M", dense(30, 9, 3, 64), 8192, source::litgpt, 134'515'008},
    Model{"SmolLM2-360M", dense(32, 15, 5, 64), 8192, source::litgpt, 361'821'120},
    Model{"SmolLM2-1.7B", dense(24, 32, 32, 64), 8192, source::litgpt, 1'711'376'384},
    Model{"TinyLlama-1.1B", dense(22, 32, 4, 64), 2048, source::litgpt},
    Model{"gpt-oss-20b", windowed(dense(24, 64, 8, 64), 12, 128), 131072, source::gpt_oss, 20'914'757'184},
    Model{"gpt-oss-120b", windowed(dense(36, 64, 8, 64), 18, 128), 131072, source::gpt_oss, 116'829'156'672},
    Model{"DeepSeek-67B", dense(95, 64, 8, 128), 4096, source::deepseek_67b},
    Model{"DeepSeek-V2", latent(60, 512 + 64), 131072, source::deepseek},
    Model{"DeepSeek-V3", latent(61, 512 + 64), 131072, source::deepseek, 671'026'419'200},
    Model{"Kimi-K2-0905", latent(61, 512 + 64, 64), 262144, source::kimi},
};

/// The published model of that name, upper and lower case alike, or null.
inline const Model* find_published(std::string_view name) {
  const auto same_letter = [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) == std::tolower(static_cast<unsigned char>(b));
  };
  const auto found = std::find_if(models.begin(), models.end(), [&](const Model& model) {
    return std::equal(name.begin(), name.end(), model.name.begin(), model.name.end(), same_letter);
  });
  return found == models.end() ? nullptr : &*found;
}
inline bool is_published(std::string_view name) { return find_published(name) != nullptr; }

/// The same. Throws std::invalid_argument where there is none.
inline const Model& find_model(std::string_view name) {
  const Model* found = find_published(name);
  GQA_CHECK(found != nullptr, std::invalid_argument,
            "model is '" << name << "', expected one of those that --list shows");
  return *found;
}

}  // namespace cache_size
