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
};

inline void check_at_least(const char* name, Index value, Index least) {
  GQA_CHECK(value >= least, std::invalid_argument,
            name << " is " << value << ", expected at least " << least);
}

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
  check_at_least("window", s.window, s.local_layers > 0 ? 1 : 0);
}

/// What is kept of one token in one layer: G (D + Dv) elements, or the latent.
inline Index elements_per_token_and_layer(const Shape& s) {
  if (s.latent_dim > 0) return s.latent_dim;
  return checked_mul(s.kv_heads, checked_add(s.head_dim, s.value_dim, "head-dim + value-dim"), "KV heads");
}

/// `elements` of `bits` each, rounded up to a whole byte.
inline Index bytes_of(Index elements, Index bits) {
  return checked_add(checked_mul(elements, bits, "bits of the cache"), 7, "bits of the cache") / 8;
}

/// Bytes that one more token takes while every layer keeps it.
inline Index bytes_per_token(const Shape& s, Index bits) {
  return bytes_of(checked_mul(s.layers, elements_per_token_and_layer(s), "elements a token"), bits);
}

/// Bytes of one sequence of `tokens`: a local layer keeps at most its window.
inline Index bytes_per_sequence(const Shape& s, Index bits, Index tokens) {
  const Index global = checked_mul(s.layers - s.local_layers, tokens, "tokens of all layers");
  const Index local = checked_mul(s.local_layers, std::min(tokens, s.window), "tokens of all layers");
  const Index kept = checked_add(global, local, "tokens of all layers");
  return bytes_of(checked_mul(kept, elements_per_token_and_layer(s), "elements a sequence"), bits);
}

/// The same model with other KV heads, every layer keeping every token: MHA is kv_heads = q_heads, MQA 1.
inline Shape with_kv_heads(Shape s, Index kv_heads) {
  s.kv_heads = kv_heads;
  s.local_layers = s.window = s.latent_dim = 0;
  return s;
}

/// "MHA", "GQA", "MQA" or "MLA".
inline const char* kind(const Shape& s) {
  if (s.latent_dim > 0) return "MLA";
  if (s.kv_heads == s.q_heads) return "MHA";
  return s.kv_heads == 1 ? "MQA" : "GQA";
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
