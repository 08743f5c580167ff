// SPDX-License-Identifier: Apache-2.0
// What the ring and the hybrid cache have in common: everything but how they are described.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>

#include "gqa/core/tensor.hpp"
#include "gqa/kv/layer_view.hpp"
#include "gqa/kv/read_tokens.hpp"
#include "gqa/kv/state_owner.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa {

namespace detail {

template <gqa::Scalar T, Index G, Index D>
class LayeredCache;

}  // namespace detail

/// A cache at one moment: what truncating cannot bring back. See checkpoint().
template <Scalar T>
class CacheCheckpoint {
 public:
  Index size() const { return saved_.config == nullptr ? 0 : saved_.sequence.size(); }
  /// The memory that the copied tokens take.
  Index allocated_bytes() const {
    Index bytes = 0;
    for (const auto& group : saved_.groups) bytes += group.allocated_bytes();
    return bytes;
  }

 private:
  template <gqa::Scalar, Index, Index>
  friend class detail::LayeredCache;
  explicit CacheCheckpoint(detail::SavedState<T> saved) : saved_(std::move(saved)) {}

  detail::SavedState<T> saved_;
};

namespace detail {

/// The operations of a cache whose layers keep all tokens or a window of them. Not a cache by itself.
template <gqa::Scalar T, Index G, Index D>
class LayeredCache : StateOwner<LayeredState<T>> {
  using Owner = StateOwner<LayeredState<T>>;

 protected:
  using State = LayeredState<T>;
  using Owner::state;

 public:
  using Scalar = T;
  using View = LayerView<T, G, D>;
  using Checkpoint = CacheCheckpoint<T>;

  /// Makes room for n more tokens in every layer; they are there once they are written. Windowed layers drop
  /// for it what no query will see, all at once. Throws std::length_error beyond max_tokens or memory_limit,
  /// and where more than max_span tokens would wait to be written; std::invalid_argument for a negative n;
  /// std::bad_alloc. Nothing has changed then.
  Span extend(Index n) { return state("extend").extend("extend", n); }

  /// Stores the keys (tokens x G x D) and values (tokens x G x Dv) of a span's tokens in one layer, each the
  /// nearest T. Throws std::invalid_argument for wrong sizes, a span of another cache, one that was truncated
  /// away or dropped, or one that leaves a gap before it; std::out_of_range for an absent layer.
  template <TensorLike K, TensorLike V>
  void write(Index layer, const Span& span, const K& k, const V& v) {
    State& s = state("write");
    const auto keys = as_view(k);
    const auto values = as_view(v);
    s.sequence().check_write(layer, span);
    s.check_kept("span", layer, span.positions, s.group(layer).retained(s.sequence().size()));
    check_tokens(s.group(layer).shape(), keys, values, span.size());
    const auto& kernels = simd::kernels<T>(isa());  // may throw: before anything is written
    store(s, layer, span.positions, keys, values, kernels);
  }

  /// extend and write for a cache of one layer. Throws as they do, and std::invalid_argument for more layers.
  template <TensorLike K, TensorLike V>
  Span append(const K& k, const V& v) {
    State& s = state("append");
    GQA_CHECK(num_layers() == 1, std::invalid_argument,
              "append: num_layers is " << num_layers() << ", expected 1; use extend and write");
    const auto keys = as_view(k);
    const auto values = as_view(v);
    check_tokens(s.group(0).shape(), keys, values, keys.tokens);
    s.sequence().check_room(keys.tokens);
    s.check_span(keys.tokens);
    s.sequence().check_gap(0, {s.sequence().size(), s.sequence().size() + keys.tokens});
    const auto& kernels = simd::kernels<T>(isa());
    const Span span = s.extend("append", keys.tokens);
    store(s, 0, span.positions, keys, values, kernels);
    return span;
  }

  /// Copies the tokens at `positions` of one layer to k (tokens x G x D) and v (tokens x G x Dv), each
  /// element the nearest of the caller's type, and to the bit where that is T. Throws std::invalid_argument
  /// for wrong sizes and for positions that are not written or were dropped, std::out_of_range for an absent
  /// layer.
  template <TensorLike K, TensorLike V>
  void read(Index layer, Range positions, K&& k, V&& v) const {
    const State& s = state("read");
    const auto keys = as_output(k);
    const auto values = as_output(v);
    s.sequence().check_read(layer, positions);
    s.check_kept("read", layer, positions, s.retained(layer));
    check_tokens(s.group(layer).shape(), keys, values, positions.size());
    const View view = this->layer(layer);
    const auto tile_at = [&](Index head, Range want) { return view.tile(0, head, want, nullptr); };
    read_tokens<T>(positions, tile_at, keys, values);
  }

  /// One layer, for attention to read with the layer's mask, `sinks(s) | sliding_window(W)` where it is
  /// windowed: tiles are dropped whole, so more is there than a query sees. Throws std::out_of_range.
  View layer(Index i) const { return view(i, Part::all); }

  /// The two parts of a layer, its sinks and what is kept behind them, for scores whose positions are those
  /// within the cache (StreamingLLM, Xiao et al. 2023). The window of query i begins at
  /// b = max(i - W + 1, s): to the sinks it is the query at position i - b + s, to the others itself. So with
  /// q turned for i - b + s in the first call and for i in the second,
  ///
  ///     attention(q_sinks, cache.sinks(l), out, sinks(s), options, state_into(state));
  ///     attention(q, cache.recent(l), out, sliding_window(W), options, resume(state));
  ///
  /// with `options.q_offset` the position of the first query in both. Throw std::out_of_range.
  View sinks(Index i) const { return view(i, Part::sinks); }
  View recent(Index i) const { return view(i, Part::recent); }

  /// Forgets all but the first n tokens, in every layer; their memory is kept for the next. Throws
  /// std::invalid_argument for a negative n, more tokens than there are, and where the window of the next
  /// query was dropped: n is at least oldest_truncation(), or no more than the sinks.
  void truncate(Index n) {
    GQA_CHECK(n >= 0 && n <= size(), std::invalid_argument,
              "truncate: n is " << n << ", expected 0 to the " << size() << " tokens there are");
    if (n == size()) return;
    GQA_CHECK(state_->can_truncate(n), std::invalid_argument,
              "truncate: n is " << n << ", expected at least " << oldest_truncation()
                                << ", from where on windows are still there");
    state_->truncate(n);
  }

  /// The fewest tokens that truncate() can go back to, but for those of the sinks: the window of the query
  /// that comes next is still there. At most the largest size there was less `rollback`.
  Index oldest_truncation() const { return state_ == nullptr ? 0 : state_->oldest_truncation(); }

  /// What truncating cannot bring back: a copy of all that windowed layers hold. Layers that keep every token
  /// are not copied. Throws std::bad_alloc, and std::invalid_argument where there are such layers and a token
  /// is not yet written in all of them.
  Checkpoint checkpoint() { return Checkpoint(state("checkpoint").save()); }

  /// Returns to the state of the checkpoint, which may be restored again. Spans of before are no longer
  /// valid. It may be of another cache of the same sizes, unless layers keep every token: these are
  /// truncated, so the checkpoint's tokens must not have been truncated or written anew. Throws
  /// std::invalid_argument for what cannot be restored, std::length_error beyond memory_limit,
  /// std::bad_alloc; nothing has changed then.
  void restore(const Checkpoint& checkpoint) { state("restore").restore(checkpoint.saved_); }

  /// Forgets every token and gives the memory back.
  void clear() {
    if (state_ != nullptr) state_->clear();
  }

  Index size() const { return state_ == nullptr ? 0 : state_->sequence().size(); }
  /// How many tokens there may be in all, those that were dropped included.
  Index capacity() const { return state_ == nullptr ? 0 : state_->limits().max_tokens; }
  Index num_layers() const { return state_ == nullptr ? 0 : std::ssize(state_->config()->layers); }
  Index max_span() const { return state_ == nullptr ? 0 : state_->limits().max_span; }

  /// What the tokens that are kept take, each G * (D + Dv) * sizeof(T) bytes in a layer.
  Index bytes() const {
    Index bytes = 0;
    if (state_ == nullptr) return 0;
    for (const LayerGroup<T>& group : state_->groups())
      bytes += group.retained(size()).positions() * group.bytes_per_token();
    return bytes;
  }
  /// What has been taken from the system for tokens.
  Index allocated_bytes() const {
    Index bytes = 0;
    if (state_ == nullptr) return 0;
    for (const LayerGroup<T>& group : state_->groups()) bytes += group.allocated_bytes();
    return bytes;
  }
  /// Of that, what holds no token that is kept: room for others, and dims padded to whole vectors.
  Index padding_bytes() const { return allocated_bytes() - bytes(); }
  /// The cache's own bookkeeping.
  Index bookkeeping_bytes() const {
    return static_cast<Index>(sizeof *this) + (state_ == nullptr ? 0 : state_->bookkeeping_bytes());
  }

 protected:
  /// Of what has been checked. Takes no memory for tokens yet. Throws std::length_error where sizes overflow.
  LayeredCache(std::shared_ptr<const LayeredConfig> config, Index memory_limit)
      : Owner(std::make_shared<State>(std::move(config), checked_limit(memory_limit))) {}
  /// The same tokens. Throws std::bad_alloc.
  explicit LayeredCache(const State& other) : LayeredCache(other.config(), other.memory_limit()) {
    state_->copy(other);
  }

  LayeredCache(LayeredCache&&) noexcept = default;
  LayeredCache& operator=(LayeredCache&&) noexcept = default;
  ~LayeredCache() = default;

  /// The description of one layer.
  const CacheLayer& description(Index layer) const {
    const State& s = state("layer");
    s.sequence().check_layer(layer);
    return s.config()->layers[static_cast<std::size_t>(layer)];
  }
  /// One of its sizes in layer 0.
  Index of_first(Index CacheLayer::*size) const { return state_ == nullptr ? 0 : description(0).*size; }

  /// Throws std::invalid_argument for sizes that cannot be.
  static SpanLimits checked_limits(Index max_tokens, Index max_span, Index rollback) {
    GQA_CHECK(max_tokens >= 0 && max_tokens <= max_position, std::invalid_argument,
              "max_tokens is " << max_tokens << ", expected 0 to " << max_position);
    ring_tokens(1, max_span, rollback);
    return {max_tokens, max_span, rollback};
  }

 private:
  template <class C>
  friend struct LayeredBlocks;
  using Owner::state_;

  View view(Index layer, Part part) const {
    state("layer").sequence().check_layer(layer);
    return View(state_, layer, part);
  }

  template <class TK, class TV>
  static void store(State& s, Index layer, Range positions, const TensorView<TK>& k, const TensorView<TV>& v,
                    const simd::Kernels<Accumulator<T>>& kernels) noexcept {
    const LayerGroup<T>& group = s.group(layer);
    const Index layer_of_group = s.place(layer).layer;
    const auto block_at = [&](Index head, Index tile) { return group.block_at(layer_of_group, head, tile); };
    s.note_write(layer, positions);
    store_tokens(group.blocks(), block_at, positions, k, v, s.sequence().written(layer), kernels);
    s.sequence().note_written(layer, positions);
  }
};

/// CacheBlocks of the caches whose layers may differ.
template <class C>
struct LayeredBlocks {
  using Scalar = typename C::Scalar;
  using State = LayeredState<Scalar>;

  static Index num_layers(const C& c) { return std::ssize(c.state("packing").config()->layers); }
  static LayerShape shape(const C& c, Index layer) {
    const CacheLayer& l = c.state_->config()->layers[static_cast<std::size_t>(layer)];
    return {l.num_kv_heads, l.head_dim, l.value_dim};
  }
  static Ranges retained(const C& c, Index layer) { return c.state_->retained(layer); }
  static PackedBlock<Scalar> block_at(const C& c, Index layer, Index head, Index tile) {
    return block_at(*c.state_, layer, head, tile);
  }

  static State stage(const C& c, std::span<const Ranges> retained) { return c.state_->stage(retained); }
  static PackedBlock<Scalar> block_at(const State& s, Index layer, Index head, Index tile) {
    return s.group(layer).block_at(s.place(layer).layer, head, tile);
  }
  static void adopt(C& c, State&& staged, std::span<const Ranges> retained) noexcept {
    c.state_->adopt(std::move(staged), retained);
  }
};

}  // namespace detail

}  // namespace gqa
