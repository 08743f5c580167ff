// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>

#include "gqa/core/memory.hpp"
#include "gqa/core/ranges.hpp"
#include "gqa/kv/page_layout.hpp"

namespace gqa {

/// How many tokens behind the sinks a windowed layer has memory for: window + max_span - 1 + rollback, so
/// that every query of a span finds its window, also after a rollback, in whole tiles of 64, and one tile
/// more, since tiles are dropped whole. Throws std::invalid_argument for sizes that cannot be,
/// std::length_error where they overflow.
constexpr Index ring_tokens(Index window, Index max_span = 1, Index rollback = 0) {
  GQA_CHECK(window >= 1, std::invalid_argument, "window is " << window << ", expected at least 1");
  GQA_CHECK(max_span >= 1, std::invalid_argument, "max_span is " << max_span << ", expected at least 1");
  GQA_CHECK(rollback >= 0, std::invalid_argument, "rollback is " << rollback << ", expected at least 0");
  const Index needed = checked_add(checked_add(window, max_span - 1, "ring"), rollback, "ring");
  return round_down(checked_add(needed, 2 * tile_keys - 1, "ring"), tile_keys);
}

namespace detail {

/// The placement of one sequence's blocks for layers that keep the first `sinks` tokens and a window of the
/// last: one piece of memory in which the sinks' tiles stay, and tile t behind them is in slot t % slots.
template <Scalar T>
class RingTiles {
 public:
  /// Takes nothing yet. `ring` is how many tokens behind the sinks there is to be room for, a multiple of
  /// tile_keys. Throws std::length_error where the sizes overflow.
  RingTiles(const CacheShape& shape, Index window, Index sinks, Index ring, Index max_tokens)
      : window_(window),
        sinks_(std::min(sinks, max_tokens)),
        sink_tiles_(ceil_div(sinks_, tile_keys)),
        slots_(std::min(ring / tile_keys, ceil_div(max_tokens, tile_keys) - sink_tiles_)),
        first_(sink_tiles_),
        layout_(shape, sink_tiles_ + slots_) {}

  const CacheShape& shape() const { return layout_.shape(); }
  const BlockLayout<T>& blocks() const { return layout_.blocks(); }
  Index sinks() const { return sinks_; }
  Index bytes_per_token() const { return layout_.bytes_per_token(); }
  Index allocated_bytes() const { return memory_ == nullptr ? 0 : layout_.bytes(); }
  /// What is allocated for any tokens at all.
  Index most_bytes() const { return layout_.bytes(); }

  bool has_room(Index tokens) const { return tokens == 0 || memory_ != nullptr; }
  /// All the memory there will be. Throws std::bad_alloc.
  AlignedArray<T> grow() const { return allocate_aligned<T>(static_cast<std::size_t>(layout_.bytes())); }
  /// Takes in what grow() gave.
  void add(AlignedArray<T>&& memory) noexcept { memory_ = std::move(memory); }

  void release() noexcept {
    memory_.reset();
    first_ = sink_tiles_;
  }

  /// The tokens of another of the same sizes. There is room for them, if there are any.
  void copy(const RingTiles& other) noexcept {
    first_ = other.first_;
    if (memory_ != nullptr && other.memory_ != nullptr)
      std::memcpy(static_cast<void*>(memory_.get()), static_cast<const void*>(other.memory_.get()),
                  static_cast<std::size_t>(layout_.bytes()));
  }

  /// Drops the tiles whose slots `tokens` in all need.
  void drop(Index tokens) noexcept { first_ = std::max(first_, ceil_div(tokens, tile_keys) - slots_); }

  /// What there is of the first `written` tokens.
  Ranges retained(Index written) const {
    if (!dropped()) return Range{0, written};
    const Range recent = {first_kept(), written};
    if (sinks_ == 0) return recent;
    return {{0, sinks_}, recent};
  }

  /// Has the tiles of the ranges, of `tokens` in all; false where a ring of these sizes cannot, or would miss
  /// some.
  bool assign(const Ranges& ranges, Index tokens) noexcept {
    first_ = std::max(sink_tiles_, ranges[ranges.size() - 1].begin / tile_keys);
    return retained(ranges.hull().end) == ranges && ceil_div(tokens, tile_keys) - first_ <= slots_ &&
           can_truncate(tokens);
  }

  /// Whether the next query would find all that it sees, were there n tokens.
  bool can_truncate(Index n) const { return n <= sinks_ || n >= oldest_truncation(); }
  /// From how many tokens on it would.
  Index oldest_truncation() const { return dropped() ? first_kept() + window_ - 1 : 0; }
  /// Forgets all but the first n tokens.
  void truncate(Index n) noexcept {
    if (n <= sinks_) first_ = sink_tiles_;
  }

  /// The block of tokens [64 tile, 64 tile + 64).
  PackedBlock<T> block_at(Index layer, Index head, Index tile) const {
    return layout_.block_at(memory_.get(), layer, head,
                            tile < sink_tiles_ ? tile : sink_tiles_ + tile % slots_);
  }

 private:
  bool dropped() const { return first_ > sink_tiles_; }
  Index first_kept() const { return first_ * tile_keys; }

  Index window_, sinks_, sink_tiles_, slots_;
  Index first_;  // tile that is there behind the sinks' own; those between are dropped
  PageLayout<T> layout_;
  AlignedArray<T> memory_;
};

}  // namespace detail

}  // namespace gqa
