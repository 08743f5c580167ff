// SPDX-License-Identifier: Apache-2.0
// What a cache holds of every token, and the checks that all caches share.
#pragma once

#include "gqa/core/tensor.hpp"

namespace gqa::detail {

/// The sizes of a token in a cache: keys num_kv_heads x head_dim and values num_kv_heads x value_dim, in each
/// layer.
struct CacheShape {
  Index num_layers = 1;
  Index num_kv_heads = 0;
  Index head_dim = 0;
  Index value_dim = 0;

  friend bool operator==(const CacheShape&, const CacheShape&) = default;

  /// Throws std::length_error where they overflow.
  Index elements_per_token() const {
    return checked_mul(checked_mul(num_layers, num_kv_heads, "cache"),
                       checked_add(head_dim, value_dim, "cache"), "cache");
  }
};

template <Index Static>
Index static_or(Index given, const char* name) {
  GQA_CHECK(Static == Dynamic || given == Static, std::invalid_argument,
            name << " is " << given << ", expected " << Static);
  GQA_CHECK(given > 0, std::invalid_argument, name << " is " << given << ", expected at least 1");
  return given;
}

/// The shape that a Config asks for, of a cache whose template says G, D and Dv or leaves them Dynamic; a
/// value_dim that nobody gives is head_dim. Throws std::invalid_argument.
template <Index G, Index D, Index Dv, class Config>
CacheShape checked_shape(const Config& c) {
  CacheShape shape;
  shape.num_kv_heads = static_or<G>(c.num_kv_heads, "num_kv_heads");
  shape.head_dim = static_or<D>(c.head_dim, "head_dim");
  shape.value_dim = static_or<Dv>(c.value_dim == Dynamic ? shape.head_dim : c.value_dim, "value_dim");
  GQA_CHECK(c.num_layers > 0, std::invalid_argument,
            "num_layers is " << c.num_layers << ", expected at least 1");
  shape.num_layers = c.num_layers;
  return shape;
}

/// k is tokens x G x D and v tokens x G x Dv. Throws std::invalid_argument.
template <class TK, class TV>
void check_tokens(const CacheShape& shape, const TensorView<TK>& k, const TensorView<TV>& v, Index tokens) {
  const auto check = [&](const char* name, const auto& x, Index dim) {
    GQA_CHECK(x.batch == 1, std::invalid_argument, name << ": batch is " << x.batch << ", expected 1");
    GQA_CHECK(x.tokens == tokens, std::invalid_argument,
              name << ": tokens is " << x.tokens << ", expected " << tokens);
    GQA_CHECK(x.heads == shape.num_kv_heads, std::invalid_argument,
              name << ": heads is " << x.heads << ", expected " << shape.num_kv_heads);
    GQA_CHECK(x.dim == dim, std::invalid_argument, name << ": dim is " << x.dim << ", expected " << dim);
  };
  check("k", k, shape.head_dim);
  check("v", v, shape.value_dim);
}

/// Throws std::out_of_range.
inline void check_layer(Index layer, Index num_layers) {
  GQA_CHECK(layer >= 0 && layer < num_layers, std::out_of_range,
            "layer is " << layer << ", expected less than " << num_layers);
}
inline void check_seq(const char* wanted_by, Index seq, Index num_seqs) {
  GQA_CHECK(seq >= 0 && seq < num_seqs, std::out_of_range,
            wanted_by << ": seq is " << seq << ", expected less than " << num_seqs);
}

/// Throws std::length_error where `bytes` are more than a limit that is not 0.
inline void check_limit(const char* wanted_by, Index bytes, Index limit) {
  GQA_CHECK(
      limit == 0 || bytes <= limit, std::length_error,
      wanted_by << ": the cache would take " << bytes << " bytes, more than the memory_limit of " << limit);
}

/// The limit of a Config. Throws std::invalid_argument.
inline Index checked_limit(Index memory_limit) {
  GQA_CHECK(memory_limit >= 0, std::invalid_argument,
            "memory_limit is " << memory_limit << ", expected at least 0");
  return memory_limit;
}

}  // namespace gqa::detail
