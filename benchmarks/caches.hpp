// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gqa/cache.hpp>
#include <gqa/kv/cache.hpp>
#include <vector>

#include "inputs.hpp"

namespace bench {

/// Keys and values of some tokens of a sequence.
template <class T>
struct KV {
  gqa::TensorView<const T> k, v;
};

/// The tokens that a cache of so many takes memory for: it grows by slabs of 512.
inline Index taken(Index tokens) { return gqa::ceil_div(tokens, 512) * 512; }

/// A cache of one sequence that holds `parts` one after another, the same in each of its layers.
template <class T>
gqa::KVCache<T> cache_of(const std::vector<KV<T>>& parts, Index layers) {
  Index tokens = 0;
  for (const auto& part : parts) tokens += part.k.tokens;
  gqa::KVCache<T> cache({.max_tokens = tokens,
                         .num_layers = layers,
                         .num_kv_heads = parts[0].k.heads,
                         .head_dim = parts[0].k.dim});
  for (const auto& part : parts) {
    const gqa::Span span = cache.extend(part.k.tokens);
    for (Index layer = 0; layer < layers; ++layer) cache.write(layer, span, part.k, part.v);
  }
  return cache;
}

/// One layer of several caches, a sequence each.
template <class T>
auto layer_of(const std::vector<gqa::KVCache<T>>& caches, Index layer) {
  std::vector<typename gqa::KVCache<T>::View> views;
  for (const auto& cache : caches) views.push_back(cache.layer(layer));
  return gqa::KVList(std::move(views));
}

}  // namespace bench
