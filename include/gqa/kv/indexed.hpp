// SPDX-License-Identifier: Apache-2.0
// A cache that knows of every page of keys how large a score it can give at most.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "gqa/core/scalar.hpp"
#include "gqa/kv/cache_concept.hpp"

namespace gqa {

/// A cache of one sequence with the largest and the smallest element of every dim of the keys beside each
/// page of 64 tokens (Quest, Tang et al. 2024, arXiv 2406.10774): what sparse_attention() chooses pages by.
///
///     gqa::IndexedCache cache(gqa::KVCache<gqa::bfloat16>({.max_tokens = 32768, ...}));
///
/// It is a cache as any other, and forwards to the one it holds: everything is written through it, so that a
/// page's bounds hold for every key that may be there. Tokens that are truncated or overwritten may leave a
/// page's bounds wider than its keys until the page is begun anew, never narrower. It takes
/// 2 D / (64 (D + Dv)) of the cache's memory more, 1.6 % where D = Dv. For caches that keep every token from
/// position 0 on; a key that is NaN has no bound, and its page is read always.
template <Cache C>
class IndexedCache {
 public:
  using Scalar = typename C::Scalar;
  static constexpr Index page_tokens = tile_keys;

  /// Takes a cache, and reads the keys that it holds.
  explicit IndexedCache(C cache)
      : cache_(std::move(cache)),
        bounds_(static_cast<std::size_t>(cache_.num_layers() * cache_.num_kv_heads())) {
    filled_.resize(static_cast<std::size_t>(cache_.num_layers()));
    make_room(cache_.size());
    std::vector<Scalar> k(static_cast<std::size_t>(page_tokens * cache_.num_kv_heads() * cache_.head_dim())),
        v(static_cast<std::size_t>(page_tokens * cache_.num_kv_heads() * cache_.value_dim()));
    for (Index layer = 0; layer < cache_.num_layers(); ++layer) {
      const Ranges retained = cache_.layer(layer).retained(0);
      GQA_CHECK(retained.size() == 1 && retained[0].begin == 0, std::invalid_argument,
                "cache: layer " << layer << " does not keep every token from position 0 on");
      for (Index begin = 0; begin < retained[0].end; begin += page_tokens) {
        const Range page = {begin, std::min(begin + page_tokens, retained[0].end)};
        const TensorView<Scalar> keys(k.data(), page.size(), cache_.num_kv_heads(), cache_.head_dim());
        cache_.read(layer, page, keys,
                    TensorView<Scalar>(v.data(), page.size(), cache_.num_kv_heads(), cache_.value_dim()));
        take_in(layer, page, TensorView<const Scalar>(keys));
      }
    }
  }

  const C& cache() const { return cache_; }

  Span extend(Index n) {
    GQA_CHECK(n >= 0, std::invalid_argument, "extend: n is " << n << ", expected at least 0");
    make_room(std::min(n, cache_.capacity() - cache_.size()) + cache_.size());
    return cache_.extend(n);
  }
  template <TensorLike K, TensorLike V>
  void write(Index layer, const Span& span, const K& k, const V& v) {
    cache_.write(layer, span, k, v);
    take_in(layer, span.positions, as_view(k));
  }
  template <TensorLike K, TensorLike V>
  void read(Index layer, Range positions, K&& k, V&& v) const {
    cache_.read(layer, positions, k, v);
  }
  void truncate(Index n) {
    cache_.truncate(n);
    for (Index& filled : filled_) filled = std::min(filled, n);
  }
  void clear() {
    cache_.clear();
    std::fill(filled_.begin(), filled_.end(), Index{0});
    for (Bounds& bounds : bounds_) bounds = Bounds();
  }
  IndexedCache clone() const requires requires(const C& c) { c.clone(); }
  { return IndexedCache(cache_.clone(), bounds_, filled_); }

  auto layer(Index i) const { return cache_.layer(i); }
  Index size() const { return cache_.size(); }
  Index capacity() const { return cache_.capacity(); }
  Index num_layers() const { return cache_.num_layers(); }
  Index num_kv_heads() const { return cache_.num_kv_heads(); }
  Index head_dim() const { return cache_.head_dim(); }
  Index value_dim() const { return cache_.value_dim(); }
  Index bytes() const { return cache_.bytes(); }
  Index allocated_bytes() const { return cache_.allocated_bytes(); }
  /// Of the bounds, beside those of the cache.
  Index index_bytes() const {
    Index elements = 0;
    for (const Bounds& bounds : bounds_) elements += static_cast<Index>(bounds.pages.capacity());
    return elements * Index{sizeof(Scalar)};
  }

  /// How many pages a layer has, the last one perhaps in part. Throws std::out_of_range.
  Index num_pages(Index layer) const {
    detail::check_layer(layer, num_layers());
    return ceil_div(filled_[static_cast<std::size_t>(layer)], page_tokens);
  }
  /// The bounds of one head's pages: num_pages x (2 * head_dim), the largest of every dim and behind them the
  /// smallest. A score is at most sum_d (max(q_d, 0) largest_d + min(q_d, 0) smallest_d).
  const Scalar* bounds(Index layer, Index kv_head) const { return at(layer, kv_head).pages.data(); }
  /// No element of a head's keys is farther from 0, of those that are numbers.
  double largest_element(Index layer, Index kv_head) const { return at(layer, kv_head).largest; }

 private:
  /// Of one head in one layer.
  struct Bounds {
    std::vector<Scalar> pages = {};
    double largest = 0;
  };

  IndexedCache(C cache, std::vector<Bounds> bounds, std::vector<Index> filled)
      : cache_(std::move(cache)), bounds_(std::move(bounds)), filled_(std::move(filled)) {}

  const Bounds& at(Index layer, Index kv_head) const {
    return bounds_[static_cast<std::size_t>(layer * num_kv_heads() + kv_head)];
  }

  void make_room(Index tokens) {
    const auto elements =
        static_cast<std::size_t>(checked_mul(ceil_div(tokens, page_tokens), 2 * cache_.head_dim(), "index"));
    for (Bounds& bounds : bounds_)
      if (bounds.pages.size() < elements)
        bounds.pages.resize(std::max(elements, bounds.pages.size() + bounds.pages.size() / 2));
  }

  template <class TK>
  void take_in(Index layer, Range positions, const TensorView<TK>& k) noexcept {
    const Index dim = head_dim();
    Index& filled = filled_[static_cast<std::size_t>(layer)];
    for (Index h = 0; h < num_kv_heads(); ++h) {
      Bounds& bounds = bounds_[static_cast<std::size_t>(layer * num_kv_heads() + h)];
      for (Index t = 0; t < positions.size(); ++t) {
        const Index position = positions.begin + t;
        Scalar* const largest = bounds.pages.data() + position / page_tokens * 2 * dim;
        const bool begins = position % page_tokens == 0 && position >= filled;
        const double size = widen(k.at(0, t, h), dim, begins, largest, largest + dim);
        bounds.largest = std::max(bounds.largest, size);
      }
    }
    filled = std::max(filled, positions.end);
  }

  /// NaN stays where it has been. Returns how far from 0 the elements are.
  template <class TK>
  static double widen(const TK* key, Index dim, bool begins, Scalar* largest, Scalar* smallest) noexcept {
    double size = 0;
    for (Index d = 0; d < dim; ++d) {
      const auto x = rounded_to<Scalar>(key[d]);
      size = std::max(size, std::abs(static_cast<double>(x)));  // keeps size where x is NaN
      if (begins || x != x) {
        largest[d] = smallest[d] = x;
      } else {
        if (x > largest[d]) largest[d] = x;
        if (x < smallest[d]) smallest[d] = x;
      }
    }
    return size;
  }

  C cache_;
  std::vector<Bounds> bounds_;  // [layer][head]
  std::vector<Index> filled_;   // of each layer
};

}  // namespace gqa
