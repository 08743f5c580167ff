// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>
#include <variant>
#include <vector>

#include "gqa/kv/ring_tiles.hpp"
#include "gqa/kv/slabs.hpp"

namespace gqa {

/// What one layer of a cache holds of every token, and which tokens.
struct CacheLayer {
  Index num_kv_heads = Dynamic;
  Index head_dim = Dynamic;
  Index value_dim = Dynamic;  ///< head_dim where it is left Dynamic
  Index window = 0;           ///< how many tokens a query sees, itself included; 0: all of them
  Index sinks = 0;            ///< how many first tokens it sees beside its window

  friend bool operator==(const CacheLayer&, const CacheLayer&) = default;
};

namespace detail {

/// How far the tokens of a cache of windowed layers go.
struct SpanLimits {
  Index max_tokens = 0;  ///< in all
  Index max_span = 1;    ///< between two passes
  Index rollback = 0;    ///< that truncating takes back at least

  friend bool operator==(const SpanLimits&, const SpanLimits&) = default;
};

/// The blocks of all layers of one description: slabs where they keep every token, a ring where they keep a
/// window.
template <Scalar T>
class LayerGroup {
  using SlabList = std::vector<typename Slabs<T>::Slab>;

 public:
  /// Memory that a group has yet to take in.
  using Memory = std::variant<std::monostate, SlabList, AlignedArray<T>>;

  /// Takes nothing yet. Throws std::length_error where the sizes overflow.
  LayerGroup(const CacheLayer& layer, Index num_layers, const SpanLimits& limits)
      : placement_(placement({.num_layers = num_layers,
                              .num_kv_heads = layer.num_kv_heads,
                              .head_dim = layer.head_dim,
                              .value_dim = layer.value_dim},
                             layer, limits)) {}

  bool windowed() const { return ring() != nullptr; }
  const CacheShape& shape() const {
    return visit([](const auto& p) -> const CacheShape& { return p.shape(); });
  }
  const BlockLayout<T>& blocks() const {
    return visit([](const auto& p) -> const BlockLayout<T>& { return p.blocks(); });
  }
  Index bytes_per_token() const {
    return visit([](const auto& p) { return p.bytes_per_token(); });
  }
  Index allocated_bytes() const {
    return visit([](const auto& p) { return p.allocated_bytes(); });
  }
  Index bookkeeping_bytes() const { return windowed() ? 0 : slabs()->bookkeeping_bytes(); }
  /// What is allocated for this many tokens in all, of which there are some.
  Index bytes_for(Index tokens) const {
    return windowed() ? ring()->most_bytes() : slabs()->bytes_for(tokens);
  }

  bool has_room(Index tokens) const {
    return visit([&](const auto& p) { return p.has_room(tokens); });
  }
  /// The memory for this many tokens in all. Throws std::bad_alloc.
  Memory grow(Index tokens) const {
    if (has_room(tokens)) return {};
    if (windowed()) return ring()->grow();
    return slabs()->grow(tokens);
  }
  /// Takes in what grow() gave.
  void add(Memory&& memory) noexcept {
    if (auto* list = std::get_if<SlabList>(&memory)) slabs()->add(std::move(*list));
    if (auto* array = std::get_if<AlignedArray<T>>(&memory)) ring()->add(std::move(*array));
  }
  void release() noexcept {
    if (windowed())
      ring()->release();
    else
      slabs()->release();
  }

  /// Drops what `tokens` in all leave no room for.
  void drop(Index tokens) noexcept {
    if (windowed()) ring()->drop(tokens);
  }
  /// What there is of the first `written` tokens.
  Ranges retained(Index written) const { return windowed() ? ring()->retained(written) : Range{0, written}; }
  /// Has what the ranges say, of `tokens` in all; false where a group of this description cannot.
  bool assign(const Ranges& ranges, Index tokens) noexcept {
    return windowed() ? ring()->assign(ranges, tokens) : ranges == Ranges(Range{0, ranges.hull().end});
  }
  /// How many first tokens stay whatever is dropped behind them.
  Index sinks() const { return windowed() ? ring()->sinks() : 0; }

  bool can_truncate(Index n) const { return !windowed() || ring()->can_truncate(n); }
  Index oldest_truncation() const { return windowed() ? ring()->oldest_truncation() : 0; }
  /// Forgets all but the first n tokens.
  void truncate(Index n) noexcept {
    if (windowed()) ring()->truncate(n);
    forget(n);
  }
  /// Makes token n one that is not there, of as many as there are.
  void forget(Index n) noexcept {
    forget_token(blocks(), shape().num_layers, shape().num_kv_heads, n,
                 [&](Index layer, Index head) { return block_at(layer, head, n / tile_keys); });
  }

  /// The first `tokens` of another of the same sizes. Throws std::bad_alloc; nothing has changed then.
  void copy(const LayerGroup& other, Index tokens) {
    if (windowed()) {
      add(grow(tokens));
      ring()->copy(*other.ring());
    } else {
      slabs()->copy(*other.slabs(), tokens);
    }
  }
  /// The same of a windowed one, for which there is room.
  void copy_ring(const LayerGroup& other) noexcept { ring()->copy(*other.ring()); }

  /// The block of tokens [64 tile, 64 tile + 64), of one of the group's layers.
  PackedBlock<T> block_at(Index layer, Index head, Index tile) const {
    const RingTiles<T>* const windowed = ring();
    return windowed != nullptr ? windowed->block_at(layer, head, tile) : slabs()->block_at(layer, head, tile);
  }

 private:
  using Placement = std::variant<Slabs<T>, RingTiles<T>>;

  static Placement placement(const CacheShape& shape, const CacheLayer& layer, const SpanLimits& limits) {
    if (layer.window == 0) return Slabs<T>(shape, limits.max_tokens);
    const Index ring = ring_tokens(layer.window, limits.max_span, limits.rollback);
    return RingTiles<T>(shape, layer.window, layer.sinks, ring, limits.max_tokens);
  }

  const RingTiles<T>* ring() const { return std::get_if<RingTiles<T>>(&placement_); }
  RingTiles<T>* ring() { return std::get_if<RingTiles<T>>(&placement_); }
  const Slabs<T>* slabs() const { return std::get_if<Slabs<T>>(&placement_); }
  Slabs<T>* slabs() { return std::get_if<Slabs<T>>(&placement_); }
  template <class F>
  decltype(auto) visit(F&& f) const {
    return windowed() ? f(*ring()) : f(*slabs());
  }

  Placement placement_;
};

}  // namespace detail

}  // namespace gqa
