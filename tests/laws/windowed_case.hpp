// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "attention/attend.hpp"
#include "gqa/attention.hpp"
#include "gqa/kv/cache.hpp"
#include "gqa/mask/any_mask.hpp"
#include "gqa/mask/compose.hpp"
#include "gqa/mask/sinks.hpp"
#include "kv/token_model.hpp"
#include "support/random.hpp"

namespace gqa::test {

/// The mask of a layer.
inline AnyMask mask_of(const CacheLayer& layer) {
  if (layer.window == 0) return AnyMask(causal());
  if (layer.sinks == 0) return AnyMask(sliding_window(layer.window));
  return AnyMask(sinks(layer.sinks) | sliding_window(layer.window));
}

/// Attention of random queries at the last `n` positions over one layer.
template <class T, class View>
Result<T> last_queries(const View& view, const CacheLayer& layer, Index n, std::uint64_t seed,
                       Index group = 3) {
  const Index heads = layer.num_kv_heads * group;
  const auto q = random_values<T>(seed, n * heads * layer.head_dim);
  Result<T> result{std::vector<T>(static_cast<std::size_t>(n * heads * layer.value_dim), T(7)),
                   std::vector<Accumulator<T>>(static_cast<std::size_t>(n * heads), 7)};
  attention(TensorView<const T>(q.data(), n, heads, layer.head_dim), view,
            TensorView<T>(result.out.data(), n, heads, layer.value_dim), mask_of(layer),
            LseOutput<Accumulator<T>>{{result.lse.data(), 1, n, heads, n * heads, heads, 1}});
  return result;
}

/// One cache that keeps everything for each layer of a model.
template <class T>
std::vector<KVCache<T>> unbounded(const TokenModel<T>& model, Index max_tokens) {
  std::vector<KVCache<T>> caches;
  for (const CacheLayer& l : model.layers())
    caches.emplace_back(typename KVCache<T>::Config{.max_tokens = max_tokens,
                                                    .num_kv_heads = l.num_kv_heads,
                                                    .head_dim = l.head_dim,
                                                    .value_dim = l.value_dim});
  return caches;
}

/// Writes the model's last n tokens, or takes back what the model has no more, in each of them.
template <class T>
void follow(const TokenModel<T>& model, std::vector<KVCache<T>>& caches) {
  for (Index i = 0; i < std::ssize(caches); ++i) {
    KVCache<T>& cache = caches[static_cast<std::size_t>(i)];
    const CacheLayer& l = model.layer(i);
    if (cache.size() > model.size()) cache.truncate(model.size());
    const Range more = {cache.size(), model.size()};
    const auto k = model.values(i, more, true), v = model.values(i, more, false);
    cache.append(TensorView<const T>(k.data(), more.size(), l.num_kv_heads, l.head_dim),
                 TensorView<const T>(v.data(), more.size(), l.num_kv_heads, l.value_dim));
  }
}

/// Whether the last n queries of each layer get the same bits from a cache and from one that keeps
/// everything.
template <class T, class Cache>
void expect_same_bits(const TokenModel<T>& model, const Cache& cache, const std::vector<KVCache<T>>& all,
                      Index n, std::uint64_t seed) {
  for (Index i = 0; i < std::ssize(all); ++i) {
    const CacheLayer& l = model.layer(i);
    const auto expected = last_queries<T>(all[static_cast<std::size_t>(i)].layer(0), l, n, seed);
    ASSERT_TRUE(same(last_queries<T>(cache.layer(i), l, n, seed), expected))
        << "layer " << i << ", " << n << " queries at the end of " << model.size();
  }
}

/// Spans of every length and truncations between them, each followed by attention of the span's queries.
template <class T, class Cache>
void expect_law(TokenModel<T>& model, Cache& cache, Index max_span, Index rollback, Index tokens,
                std::uint64_t seed) {
  Random random(seed);
  auto all = unbounded(model, tokens + max_span);
  Index highest = 0, next_truncation = 0;
  while (model.size() < tokens) {
    const Index n = random.flip(0.3) ? 1 : random.integer(1, max_span);
    model.add(cache, n);
    follow(model, all);
    highest = std::max(highest, model.size());
    ASSERT_NO_FATAL_FAILURE(expect_same_bits(model, cache, all, n, seed + 1)) << "seed " << seed;
    if (highest >= next_truncation && random.flip(0.4)) {
      next_truncation = highest + 1 + rollback / 2;  // so that it gets on
      const Index back = random.integer(std::max<Index>(0, highest - rollback), highest);
      if (back < model.size()) model.truncate(cache, back);
      follow(model, all);
      if (back > 0) {
        ASSERT_NO_FATAL_FAILURE(expect_same_bits(model, cache, all, 1, seed + 2)) << "seed " << seed;
      }
    }
  }
}

}  // namespace gqa::test
