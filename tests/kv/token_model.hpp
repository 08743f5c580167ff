// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "gqa/kv/layer_group.hpp"
#include "kv/cache_reader.hpp"

namespace gqa::test {

/// A sequence as a plain list of tokens, each with a number that is never given again, and what keys and
/// values of a token are: a function of its number.
template <class T>
class TokenModel {
 public:
  explicit TokenModel(std::vector<CacheLayer> layers) : layers_(std::move(layers)) {
    for (CacheLayer& l : layers_)
      if (l.value_dim == Dynamic) l.value_dim = l.head_dim;
  }

  Index size() const { return std::ssize(tokens); }
  const std::vector<CacheLayer>& layers() const { return layers_; }
  const CacheLayer& layer(Index i) const { return layers_[static_cast<std::size_t>(i)]; }

  static T value(Index token, Index layer, Index head, Index dim, bool is_key) {
    auto x = static_cast<std::uint64_t>((((token * 71 + layer) * 67 + head) * 259 + dim) * 2 + is_key);
    x = (x ^ x >> 31) * 0x9e3779b97f4a7c15u;
    return static_cast<T>(static_cast<double>(static_cast<Index>(x >> 53) - 1024) / 512);
  }
  /// Of tokens [positions), tokens x heads x dims.
  std::vector<T> values(Index i, Range positions, bool is_key) const {
    const CacheLayer& l = layer(i);
    std::vector<T> all;
    for (Index p = positions.begin; p < positions.end; ++p)
      for (Index head = 0; head < l.num_kv_heads; ++head)
        for (Index d = 0; d < (is_key ? l.head_dim : l.value_dim); ++d)
          all.push_back(value(tokens[static_cast<std::size_t>(p)], i, head, d, is_key));
    return all;
  }

  template <class Cache>
  void write(Cache& cache, Index i, const Span& span) const {
    const CacheLayer& l = layer(i);
    const auto k = values(i, span.positions, true), v = values(i, span.positions, false);
    cache.write(i, span, TensorView<const T>(k.data(), span.size(), l.num_kv_heads, l.head_dim),
                TensorView<const T>(v.data(), span.size(), l.num_kv_heads, l.value_dim));
  }
  /// n new tokens, which are not written.
  template <class Cache>
  Span extend(Cache& cache, Index n) {
    const Span span = cache.extend(n);
    for (Index i = 0; i < n; ++i) tokens.push_back(next_++);
    return span;
  }
  template <class Cache>
  Span add(Cache& cache, Index n) {
    const Span span = extend(cache, n);
    for (Index i = 0; i < std::ssize(layers_); ++i) write(cache, i, span);
    return span;
  }
  template <class Cache>
  void truncate(Cache& cache, Index n) {
    cache.truncate(n);
    tokens.resize(static_cast<std::size_t>(n));
  }

  /// Whether what a layer's view shows at the positions it retains is the model's, and read() gives the same.
  template <class Cache>
  void expect_layer(const Cache& cache, Index i) const {
    const CacheLayer& l = layer(i);
    const auto view = cache.layer(i);
    ASSERT_EQ(view.num_kv_heads(), l.num_kv_heads);
    ASSERT_EQ(view.head_dim(), l.head_dim);
    ASSERT_EQ(view.value_dim(), l.value_dim);
    for (const Range r : Ranges(view.retained(0))) {
      ASSERT_LE(r.end, size());
      std::vector<T> k(static_cast<std::size_t>(r.size() * l.num_kv_heads * l.head_dim)),
          v(static_cast<std::size_t>(r.size() * l.num_kv_heads * l.value_dim));
      cache.read(i, r, TensorView<T>(k.data(), r.size(), l.num_kv_heads, l.head_dim),
                 TensorView<T>(v.data(), r.size(), l.num_kv_heads, l.value_dim));
      ASSERT_TRUE(k == values(i, r, true)) << "keys of layer " << i << " from " << r.begin;
      ASSERT_TRUE(v == values(i, r, false)) << "values of layer " << i << " from " << r.begin;
      const Index step = r.size() < 40 ? 1 : 7;
      // Back from the last, which has no neighbour.
      for (Index p = r.end - 1; p >= r.begin; p -= step)
        for (Index head = 0; head < l.num_kv_heads; ++head) {
          const Token token(view, 0, head, p);
          const Index id = tokens[static_cast<std::size_t>(p)];
          for (Index d = 0; d < l.head_dim; ++d) ASSERT_EQ(token.k(d), value(id, i, head, d, true)) << p;
          for (Index d = 0; d < l.value_dim; ++d) ASSERT_EQ(token.v(d), value(id, i, head, d, false)) << p;
          if constexpr (element_group<T> == 2) {
            if (p + 1 == size() && p % 2 == 0) {  // kernels multiply the second of its pair by 0
              ASSERT_EQ((&token.v(0))[1], T{}) << p;
            }
          }
        }
    }
  }
  template <class Cache>
  void expect_in(const Cache& cache) const {
    ASSERT_EQ(cache.size(), size());
    for (Index i = 0; i < std::ssize(layers_); ++i) ASSERT_NO_FATAL_FAILURE(expect_layer(cache, i));
  }

  std::vector<Index> tokens;

 private:
  std::vector<CacheLayer> layers_;
  Index next_ = 1;
};

/// Whether a layer has all of these positions.
template <class View>
bool has(const View& view, Range positions) {
  for (Index p = positions.begin; p < positions.end; ++p) {
    bool found = false;
    for (const Range r : Ranges(view.retained(0))) found |= r.contains(p);
    if (!found) return false;
  }
  return true;
}

}  // namespace gqa::test
