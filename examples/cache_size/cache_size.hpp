// SPDX-License-Identifier: Apache-2.0
// The arithmetic of a KV cache: how many bytes one sequence's keys and values take.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "gqa/core/error.hpp"
#include "gqa/core/shape.hpp"

namespace cache_size {

using gqa::checked_add;
using gqa::checked_mul;
using gqa::Index;

/// What decides a cache's size.
struct Shape {
  Index layers;
  Index q_heads;
  Index kv_heads;
  Index head_dim;
  Index value_dim = head_dim;
  Index local_layers = 0;  ///< how many of the layers attend to a window only
  Index window = 0;        ///< tokens a local layer keeps
  Index latent_dim = 0;  ///< MLA: elements kept a token and layer (latent + rotary key), in place of K and V
  Index local_kv_heads = 0, local_head_dim = 0;  ///< of a local layer, whose values are as wide; 0: as in all

  /// Whether local layers keep something else of a token than the others.
  constexpr bool layers_differ() const {
    return local_layers > 0 &&
           (kv_heads_of_local() != kv_heads || (local_head_dim > 0 && local_head_dim != head_dim));
  }
  constexpr Index kv_heads_of_local() const { return local_kv_heads > 0 ? local_kv_heads : kv_heads; }
};

inline void check_at_least(const char* name, Index value, Index least) {
  GQA_CHECK(value >= least, std::invalid_argument,
            name << " is " << value << ", expected at least " << least);
}

/// More layers than any model has are a mistake wherever each of them is looked at.
inline constexpr Index most_layers = 1 << 16;

/// Throws std::invalid_argument naming what is wrong.
inline void check(const Shape& s) {
  check_at_least("layers", s.layers, 1);
  check_at_least("heads", s.q_heads, 1);
  check_at_least("kv-heads", s.kv_heads, 1);
  check_at_least("head-dim", s.head_dim, 1);
  check_at_least("value-dim", s.value_dim, 1);
  check_at_least("latent-dim", s.latent_dim, 0);
  GQA_CHECK(s.q_heads % s.kv_heads == 0, std::invalid_argument,
            "heads is " << s.q_heads << ", expected a multiple of kv-heads = " << s.kv_heads);
  GQA_CHECK(s.local_layers >= 0 && s.local_layers <= s.layers, std::invalid_argument,
            "local-layers is " << s.local_layers << ", expected 0 to layers = " << s.layers);
  check_at_least("window", s.window, s.local_layers > 0 && !s.layers_differ() ? 1 : 0);
  check_at_least("local kv-heads", s.local_kv_heads, 0);
  check_at_least("local head-dim", s.local_head_dim, 0);
  GQA_CHECK(s.q_heads % s.kv_heads_of_local() == 0, std::invalid_argument,
            "heads is " << s.q_heads << ", expected a multiple of local kv-heads = " << s.local_kv_heads);
}

/// What is kept of one token in one layer that is not local: G (D + Dv) elements, or the latent.
inline Index elements_per_token_and_layer(const Shape& s) {
  if (s.latent_dim > 0) return s.latent_dim;
  return checked_mul(s.kv_heads, checked_add(s.head_dim, s.value_dim, "head-dim + value-dim"), "KV heads");
}

/// The same of a local layer.
inline Index elements_per_token_and_local_layer(const Shape& s) {
  Shape local = s;
  local.kv_heads = s.kv_heads_of_local();
  if (s.local_head_dim > 0) local.head_dim = local.value_dim = s.local_head_dim;
  return elements_per_token_and_layer(local);
}

/// `elements` of `bits` each, rounded up to a whole byte.
inline Index bytes_of(Index elements, Index bits) {
  return checked_add(checked_mul(elements, bits, "bits of the cache"), 7, "bits of the cache") / 8;
}

/// Elements of one sequence that has `tokens` in all layers and `local_tokens` of them in local ones.
inline Index elements(const Shape& s, Index tokens, Index local_tokens) {
  const auto layers = [](Index count, Index kept, Index each) {
    return checked_mul(checked_mul(count, kept, "tokens of all layers"), each, "elements a sequence");
  };
  return checked_add(layers(s.layers - s.local_layers, tokens, elements_per_token_and_layer(s)),
                     layers(s.local_layers, local_tokens, elements_per_token_and_local_layer(s)),
                     "elements a sequence");
}

/// Bytes that one more token takes while every layer keeps it.
inline Index bytes_per_token(const Shape& s, Index bits) { return bytes_of(elements(s, 1, 1), bits); }

/// Bytes of one sequence of `tokens`: a local layer keeps at most its window.
inline Index bytes_per_sequence(const Shape& s, Index bits, Index tokens) {
  return bytes_of(elements(s, tokens, s.window > 0 ? std::min(tokens, s.window) : tokens), bits);
}

/// The same model, every layer keeping every token.
inline Shape without_window(Shape s) {
  if (!s.layers_differ()) s.local_layers = 0;
  s.window = 0;
  return s;
}

/// The same model with other KV heads in every layer, which keeps every token: MHA is kv_heads = q_heads, MQA
/// 1. Local layers stay what they are where their heads have another size.
inline Shape with_kv_heads(Shape s, Index kv_heads) {
  s.kv_heads = kv_heads;
  s.local_kv_heads = s.latent_dim = 0;
  return without_window(s);
}

/// The same model with a latent of the size that DeepSeek's is to its heads: 4 times a head and half a head
/// of rotary key.
inline Shape with_latent(Shape s) {
  s = with_kv_heads(s, 1);
  s.latent_dim = 4 * s.head_dim + s.head_dim / 2;
  s.local_layers = s.local_head_dim = 0;
  return s;
}

/// "MHA", "GQA", "MQA" or "MLA".
inline const char* kind(const Shape& s) {
  if (s.latent_dim > 0) return "MLA";
  const Index most = s.local_layers > 0 ? std::max(s.kv_heads, s.kv_heads_of_local()) : s.kv_heads;
  const Index least = s.local_layers > 0 ? std::min(s.kv_heads, s.kv_heads_of_local()) : s.kv_heads;
  if (least == s.q_heads) return "MHA";
  return most == 1 ? "MQA" : "GQA";
}

/// Bits of one element. Throws std::invalid_argument for an unknown name.
inline Index bits_of(const std::string& dtype) {
  if (dtype == "f64") return 64;
  if (dtype == "f32") return 32;
  if (dtype == "f16" || dtype == "bf16") return 16;
  if (dtype == "fp8" || dtype == "int8") return 8;
  if (dtype == "int4") return 4;
  GQA_CHECK(false, std::invalid_argument,
            "dtype is '" << dtype << "', expected f64, f32, f16, bf16, fp8, int8 or int4");
}

}  // namespace cache_size
