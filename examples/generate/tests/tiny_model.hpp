// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <array>
#include <random>
#include <string>
#include <vector>

#include "gguf_writer.hpp"
#include "gqa/core/scalar.hpp"

namespace generate::test {

/// A random tensor of a type, values of about 0.1.
inline std::vector<std::byte> random_blocks(TensorType type, std::uint64_t num_values, std::mt19937& random) {
  const BlockFormat format = *block_format(static_cast<std::uint32_t>(type));
  const auto scale = [&](float size) {
    std::uniform_real_distribution<float> uniform(-size, size);
    return Eigen::half(uniform(random));
  };
  Bytes out;
  std::uniform_int_distribution<int> byte(0, 255);
  const auto bytes = [&](int count) {
    for (int i = 0; i < count; ++i) out.number(static_cast<std::uint8_t>(byte(random)));
  };
  for (std::uint64_t i = 0; i < num_values / static_cast<std::uint64_t>(format.values); ++i) {
    switch (type) {
      case TensorType::f32:
        out.number(static_cast<float>(scale(0.2F)));
        break;
      case TensorType::f16:
        out.number(scale(0.2F));
        break;
      case TensorType::bf16:
        out.number(Eigen::bfloat16(static_cast<float>(scale(0.2F))));
        break;
      case TensorType::q4_0:
        out.number(scale(0.03F));
        bytes(16);
        break;
      case TensorType::q4_1:
        out.number(scale(0.02F)).number(scale(0.1F));
        bytes(16);
        break;
      case TensorType::q5_0:
        out.number(scale(0.015F));
        bytes(4 + 16);
        break;
      case TensorType::q5_1:
        out.number(scale(0.01F)).number(scale(0.1F));
        bytes(4 + 16);
        break;
      case TensorType::q4_k:
        out.number(scale(0.0005F)).number(scale(0.003F));
        bytes(12 + 128);
        break;
      case TensorType::q5_k:
        out.number(scale(0.0003F)).number(scale(0.003F));
        bytes(12 + 32 + 128);
        break;
      case TensorType::q8_0:
        out.number(scale(0.002F));
        bytes(32);
        break;
      case TensorType::q6_k:
        bytes(128 + 64 + 16);
        out.number(scale(0.0001F));
        break;
    }
  }
  return out.get();
}

/// What a byte is spelled as in a byte-level vocabulary.
inline std::string spelled_byte(int b) {
  const auto utf8 = [](int c) {
    if (c < 0x80) return std::string{static_cast<char>(c)};
    return std::string{static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
  };
  const auto printable = [](int c) { return (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174; };
  if (printable(b)) return utf8(b);
  int next = 0x100;
  for (int c = 0; c < b; ++c) next += printable(c) ? 0 : 1;
  return utf8(next);
}

/// The vocabulary of the tiny models: 3 special tokens, 256 bytes, a token for each merge and padding to 272.
struct TinyVocabulary {
  std::vector<std::string> tokens{"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  std::vector<std::int32_t> types{3, 3, 3};
  std::vector<std::string> merges{"t h", "th e", "\u0120 the", "a a", "1 2", "\u0120 \u0120"};

  TinyVocabulary() {
    for (int b = 0; b < 256; ++b) tokens.push_back(spelled_byte(b));
    for (std::string token : merges) tokens.push_back(token.erase(token.find(' '), 1));
    while (tokens.size() < 272) tokens.push_back("[padding" + std::to_string(tokens.size()) + "]");
    types.resize(tokens.size(), 1);
  }
};

/// A llama model of 2 layers with random weights in all the types there are: 4 query heads, 2 KV heads,
/// head_dim 16, context 200.
inline GgufWriter tiny_model(unsigned seed = 1) {
  std::mt19937 random(seed);
  GgufWriter writer;
  const TinyVocabulary vocabulary;
  writer.text("general.architecture", "llama");
  writer.text("general.name", "tiny");
  writer.integer("llama.block_count", 2);
  writer.integer("llama.context_length", 200);
  writer.integer("llama.embedding_length", 64);
  writer.integer("llama.feed_forward_length", 256);
  writer.integer("llama.attention.head_count", 4);
  writer.integer("llama.attention.head_count_kv", 2);
  writer.integer("llama.rope.dimension_count", 16);
  writer.real("llama.rope.freq_base", 1000);
  writer.real("llama.attention.layer_norm_rms_epsilon", 1e-5F);
  writer.text("tokenizer.ggml.model", "gpt2");
  writer.text("tokenizer.ggml.pre", "smollm");
  writer.texts("tokenizer.ggml.tokens", vocabulary.tokens);
  writer.numbers("tokenizer.ggml.token_type", 5, vocabulary.types);
  writer.texts("tokenizer.ggml.merges", vocabulary.merges);
  writer.integer("tokenizer.ggml.bos_token_id", 1);
  writer.integer("tokenizer.ggml.eos_token_id", 2);
  writer.text("tokenizer.chat_template", "<|im_start|>system\nYou are tiny<|im_end|>");

  const auto add = [&](const std::string& name, std::vector<std::uint64_t> sizes, TensorType type) {
    const std::uint64_t values = sizes[0] * (sizes.size() > 1 ? sizes[1] : 1);
    writer.tensor(name, std::move(sizes), type, random_blocks(type, values, random));
  };
  using enum TensorType;
  add("token_embd.weight", {64, vocabulary.tokens.size()}, q8_0);
  add("output_norm.weight", {64}, f32);
  for (const std::string block : {"blk.0.", "blk.1."}) {
    add(block + "attn_norm.weight", {64}, f32);
    add(block + "attn_q.weight", {64, 64}, q4_0);
    add(block + "attn_k.weight", {64, 32}, q4_1);
    add(block + "attn_v.weight", {64, 32}, q8_0);
    add(block + "attn_output.weight", {64, 64}, f16);
    add(block + "ffn_norm.weight", {64}, f32);
    add(block + "ffn_gate.weight", {64, 256}, bf16);
    add(block + "ffn_up.weight", {64, 256}, f32);
    add(block + "ffn_down.weight", {256, 64}, q6_k);
  }
  return writer;
}

}  // namespace generate::test
