// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gguf_writer.hpp"
#include "vocabulary.hpp"

namespace generate::test {

/// The weights of data/make_architecture_scores.py: drawn by a generator that starts with the tensor's name.
inline std::vector<std::byte> named_values(std::string_view name, std::uint64_t count) {
  std::uint32_t state = 2166136261U;
  for (const char c : name) state = (state ^ static_cast<unsigned char>(c)) * 16777619U;
  Bytes bytes;
  for (std::uint64_t i = 0; i < count; ++i) {
    state = state * 1664525U + 1013904223U;
    const float x = static_cast<float>(state >> 16) / 65536 - 0.5F;
    bytes.number(name.ends_with("norm.weight") ? x + 1 : name.ends_with("weight") ? x / 2 : x);
  }
  return bytes.get();
}

/// The models of data/make_architecture_scores.py, as converters write them: all f32, 4 query heads, without
/// a tokeniser.
inline GgufWriter small_architecture(const std::string& name, std::uint32_t layers) {
  const bool qwen2 = name == "qwen2", gemma3 = name == "gemma3";
  const std::uint32_t dim = 48, ffn = 80, heads = 4, kv_heads = gemma3 ? 1 : 2;
  const std::uint32_t head_dim = qwen2 || name == "llama" ? 12 : 16;
  GgufWriter w;
  w.text("general.architecture", name);
  w.integer(name + ".block_count", layers);
  w.integer(name + ".context_length", 200);
  w.integer(name + ".embedding_length", dim);
  w.integer(name + ".feed_forward_length", ffn);
  w.integer(name + ".attention.head_count", heads);
  w.integer(name + ".attention.head_count_kv", kv_heads);
  w.real(name + ".attention.layer_norm_rms_epsilon", 1e-5F);
  w.real(name + ".rope.freq_base", gemma3 ? 1e6F : 1e3F);
  if (head_dim * heads != dim) {
    w.integer(name + ".attention.key_length", head_dim);
    w.integer(name + ".attention.value_length", head_dim);
  }
  if (gemma3) w.integer("gemma3.attention.sliding_window", 8);
  if (layers == 62) {
    w.text("gemma3.rope.scaling.type", "linear");
    w.real("gemma3.rope.scaling.factor", 8);
  }
  const auto add = [&](const std::string& tensor, std::uint64_t columns, std::uint64_t rows = 1) {
    w.tensor(tensor, {columns, rows}, TensorType::f32, named_values(tensor, columns * rows));
  };
  add("token_embd.weight", dim, 97);
  add("output_norm.weight", dim);
  if (qwen2) add("output.weight", dim, 97);
  for (std::uint32_t i = 0; i < layers; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    for (const std::string part : {"attn_q", "attn_k", "attn_v"}) {
      const std::uint32_t rows = (part == "attn_q" ? heads : kv_heads) * head_dim;
      add(block + part + ".weight", dim, rows);
      if (qwen2) add(block + part + ".bias", rows);
      if (part != "attn_v" && (gemma3 || name == "qwen3")) add(block + part + "_norm.weight", head_dim);
    }
    add(block + "attn_norm.weight", dim);
    add(block + "attn_output.weight", heads * head_dim, dim);
    add(block + "ffn_norm.weight", dim);
    add(block + "ffn_gate.weight", dim, ffn);
    add(block + "ffn_up.weight", dim, ffn);
    add(block + "ffn_down.weight", ffn, dim);
    if (gemma3) {
      add(block + "post_attention_norm.weight", dim);
      add(block + "post_ffw_norm.weight", dim);
    }
  }
  return w;
}

/// The text they were given.
inline std::vector<TokenId> small_text() {
  std::vector<TokenId> tokens;
  for (TokenId i = 0; i < 25; ++i) tokens.push_back((7 * i * i + 3 * i + 5) % 97);
  return tokens;
}

}  // namespace generate::test
