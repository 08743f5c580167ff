// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <utility>

#include "gqa/core/tensor.hpp"
#include "gqa/kv/read_tokens.hpp"
#include "gqa/kv/sequence.hpp"
#include "gqa/kv/slabs.hpp"
#include "gqa/kv/view.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa::detail {

/// What is kept of one sequence that grows, in all layers: its tokens, and where they are. Checks nothing
/// that is asked of it.
template <Scalar T>
struct CacheState {
  CacheState(Index max_tokens, Slabs<T> empty)
      : slabs(std::move(empty)), sequence(max_tokens, slabs.shape().num_layers) {}

  Slabs<T> slabs;
  Sequence sequence;

  KVTile tile(Index layer, Index head, Range want) const {
    return slabs.blocks().tile(slabs.block_at(layer, head, want.begin / tile_keys), tokens_of_block(want));
  }

  template <class TK, class TV>
  void store(Index layer, Range positions, const TensorView<TK>& k, const TensorView<TV>& v,
             const simd::Kernels<Accumulator<T>>& kernels) noexcept {
    const auto block_at = [&](Index head, Index tile) { return slabs.block_at(layer, head, tile); };
    store_tokens(slabs.blocks(), block_at, positions, k, v, sequence.written(layer), kernels);
    sequence.note_written(layer, positions);
  }

  template <class TK, class TV>
  void read(Index layer, Range positions, const TensorView<TK>& k, const TensorView<TV>& v) const {
    const auto tile_at = [&](Index head, Range want) { return tile(layer, head, want); };
    read_tokens<T>(positions, tile_at, k, v);
  }

  void truncate(Index n) noexcept {
    if (n == sequence.size()) return;
    sequence.truncate(n);
    forget_token(slabs.blocks(), slabs.shape().num_layers, slabs.shape().num_kv_heads, n,
                 [&](Index layer, Index head) { return slabs.block_at(layer, head, n / tile_keys); });
  }

  /// Becomes a copy of another one of the same sizes. Throws std::bad_alloc, but not where there is room.
  void copy(const CacheState& other) {
    slabs.copy(other.slabs, other.sequence.size());
    sequence.copy_lengths(other.sequence);
  }

  void clear() noexcept {
    slabs.release();
    sequence.clear();
  }

  /// Holds nothing, and views say so.
  void close() noexcept {
    clear();
    sequence.close();
  }

  Index bytes() const { return sequence.size() * slabs.bytes_per_token(); }
  /// What a copy would have allocated.
  Index allocated_at_least() const { return slabs.bytes_for(sequence.size()); }
  /// What would be allocated once there are n more tokens.
  Index allocated_with(Index n) const {
    return std::max(slabs.allocated_bytes(), slabs.bytes_for(sequence.size() + n));
  }
};

}  // namespace gqa::detail
