// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "gqa/kv/cache.hpp"
#include "gqa/kv/kept_slots.hpp"

namespace gqa {

/// The keys and values of one sequence of which each KV head of each layer keeps its own choice: what tokens
/// are worth their memory is said by evict(), by attention mass (H2O, Zhang et al. 2023, arXiv 2306.14048;
/// SnapKV, Li et al. 2024, arXiv 2404.14469) or anything else. All heads of a layer keep equally many, in
/// slots without gaps, in ascending order of their positions; what comes later takes the slots behind them.
///
/// One pass of a model is as with any cache: `extend(n)` once, `write(layer, span, k, v)`, attention over
/// `layer(i)`. Spans and size() count all tokens there have been, so that a layer rotates new keys by their
/// true positions, which kept keys have been rotated by. Attention sees slots: causal() with the last query
/// on the last slot is right, as everything kept is in the past; masks and score functions of other positions
/// (windows, documents, ALiBi) would take slots for positions, and do not belong here.
///
/// Every operation either happens or throws and leaves the cache as it was. evict() puts the kept tokens in
/// new memory and gives the old back: views of that layer taken before throw std::invalid_argument from then
/// on; reading one while evict() runs is a race, as while anything is written. Not safe for concurrent
/// writing; any number of threads may read.
template <gqa::Scalar T>
class EvictingCache {
 public:
  using Scalar = T;
  using View = typename KVCache<T>::View;

  struct Config {
    Index max_tokens = 0;  ///< that a layer holds at once, before some are evicted
    Index num_layers = 1;
    Index num_kv_heads = 0;
    Index head_dim = 0;
    Index value_dim = Dynamic;  ///< head_dim where it is left Dynamic
  };

  /// Takes no memory for tokens yet. Throws as KVCache does.
  explicit EvictingCache(const Config& c) : config_(c) {
    GQA_CHECK(c.num_layers >= 1, std::invalid_argument,
              "num_layers is " << c.num_layers << ", expected at least 1");
    for (Index i = 0; i < c.num_layers; ++i) layers_.emplace_back(new_slots());
  }

  /// Makes room for n more tokens in every layer. Throws std::length_error where a layer would hold more than
  /// max_tokens: evict some before.
  Span extend(Index n) {
    GQA_CHECK(n >= 0, std::invalid_argument, "extend: n is " << n << ", expected at least 0");
    GQA_CHECK(n <= capacity() - seen_, std::length_error,
              "extend: a layer holds " << config_.max_tokens - (capacity() - seen_) << " of at most "
                                       << config_.max_tokens << " tokens, no room for " << n);
    std::size_t done = 0;
    try {
      for (; done < layers_.size(); ++done) layers_[done].slots.extend(n);
    } catch (...) {
      while (done-- > 0) layers_[done].slots.truncate(layers_[done].slots.size() - n);
      throw;
    }
    seen_ += n;
    return {{seen_ - n, seen_}, epoch_};
  }

  /// Stores the keys and values of a span's tokens in one layer. Throws as KVCache::write.
  template <TensorLike K, TensorLike V>
  void write(Index layer, const Span& span, const K& k, const V& v) {
    Layer& l = at(layer);
    l.kept.check_span(span, epoch_, seen_);
    // The slots' own epoch changes where an extension failed; what it is, one of nothing says.
    l.slots.write(0, Span{l.kept.slots_of(span.positions), l.slots.extend(0).epoch}, k, v);
  }

  /// Keeps some slots of one layer, `kept[g]` those of KV head g in ascending order, as many for each, and
  /// gives the memory of the others back. Throws std::invalid_argument for none, slots that are not there or
  /// not in order, numbers that differ, and in the middle of a pass; std::bad_alloc.
  void evict(Index layer, std::span<const std::vector<Index>> kept) {
    Layer& l = at(layer);
    const Index slots = l.slots.layer(0).retained(0).size(), heads = num_kv_heads();
    GQA_CHECK(slots == l.slots.size(), std::invalid_argument,
              "evict: layer " << layer << " is written up to " << slots << " of its " << l.slots.size()
                              << " slots");
    const Index count = detail::checked_kept(kept, heads, slots);

    const Index dim = head_dim(), dv = value_dim();
    std::vector<T> k(size_of(slots, dim)), v(size_of(slots, dv)), k_kept(size_of(count, dim)),
        v_kept(size_of(count, dv));
    const TensorView<T> all_k(k.data(), slots, heads, dim), all_v(v.data(), slots, heads, dv),
        some_k(k_kept.data(), count, heads, dim), some_v(v_kept.data(), count, heads, dv);
    l.slots.read(0, {0, slots}, all_k, all_v);
    detail::copy_kept(kept, all_k, some_k);
    detail::copy_kept(kept, all_v, some_v);
    Layer next(new_slots());
    next.slots.append(TensorView<const T>(some_k), TensorView<const T>(some_v));
    next.kept = l.kept.after(kept, seen_);
    l = std::move(next);
  }

  /// The position of the token in a slot. Throws std::out_of_range.
  Index position(Index layer, Index kv_head, Index slot) const {
    const Layer& l = at(layer);
    detail::check_slot(kv_head, num_kv_heads(), slot, l.slots.size());
    return l.kept.position(kv_head, slot);
  }
  /// How many tokens a layer holds. Throws std::out_of_range.
  Index slots(Index layer) const { return at(layer).slots.size(); }

  /// The same as every cache has it, of tokens that no eviction has seen: those before may be gone.
  template <TensorLike K, TensorLike V>
  void read(Index layer, Range positions, K&& k, V&& v) const {
    const Layer& l = at(layer);
    GQA_CHECK(positions.begin >= l.kept.first_late, std::invalid_argument,
              "read: tokens from " << positions.begin << " on, expected those from " << l.kept.first_late
                                   << " on, where layer " << layer << " was last evicted from");
    l.slots.read(0, l.kept.slots_of(positions), k, v);
  }
  View layer(Index i) const { return at(i).slots.layer(0); }

  /// Forgets all but the first n tokens there have been, those that no eviction has seen or all. Throws
  /// std::invalid_argument for others: oldest_truncation() says how far back it goes.
  void truncate(Index n) {
    detail::check_truncation(n, seen_, oldest_truncation());
    if (n == 0) return clear();
    if (n == seen_) return;
    for (Layer& l : layers_) l.slots.truncate(n - l.kept.evicted());
    seen_ = n;
    epoch_ = detail::next_epoch();
  }
  Index oldest_truncation() const {
    Index oldest = 0;
    for (const Layer& l : layers_) oldest = std::max(oldest, l.kept.first_late);
    return oldest;
  }
  /// Forgets every token and gives the memory back.
  void clear() {
    for (Layer& l : layers_) {
      l.slots.clear();
      l.kept = {};
    }
    seen_ = 0;
    epoch_ = detail::next_epoch();
  }

  Index size() const { return seen_; }
  Index capacity() const {
    Index most = max_position;  // the layer with the fewest free slots
    for (const Layer& l : layers_) most = std::min(most, seen_ + config_.max_tokens - l.slots.size());
    return most;
  }
  Index num_layers() const { return std::ssize(layers_); }
  Index num_kv_heads() const { return layers_[0].slots.num_kv_heads(); }
  Index head_dim() const { return layers_[0].slots.head_dim(); }
  Index value_dim() const { return layers_[0].slots.value_dim(); }
  /// What the tokens that are held take.
  Index bytes() const {
    return sum([](const KVCache<T>& c) { return c.bytes(); });
  }
  Index allocated_bytes() const {
    return sum([](const KVCache<T>& c) { return c.allocated_bytes(); });
  }

 private:
  struct Layer {
    KVCache<T> slots;
    detail::KeptSlots kept = {};

    explicit Layer(KVCache<T> cache) : slots(std::move(cache)) {}
  };

  KVCache<T> new_slots() const {
    return KVCache<T>({.max_tokens = config_.max_tokens,
                       .num_kv_heads = config_.num_kv_heads,
                       .head_dim = config_.head_dim,
                       .value_dim = config_.value_dim});
  }
  std::size_t size_of(Index tokens, Index dim) const {
    return static_cast<std::size_t>(checked_mul(checked_mul(tokens, num_kv_heads(), "evict"), dim, "evict"));
  }
  Layer& at(Index layer) {
    detail::check_layer(layer, num_layers());
    return layers_[static_cast<std::size_t>(layer)];
  }
  const Layer& at(Index layer) const {
    detail::check_layer(layer, num_layers());
    return layers_[static_cast<std::size_t>(layer)];
  }
  template <class F>
  Index sum(F&& f) const {
    Index all = 0;
    for (const Layer& l : layers_) all += f(l.slots);
    return all;
  }

  Config config_;
  std::vector<Layer> layers_;
  Index seen_ = 0;
  std::uint64_t epoch_ = detail::next_epoch();
};

}  // namespace gqa
