// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "gqa/core/memory.hpp"
#include "gqa/kv/page_layout.hpp"

namespace gqa::detail {

/// The placement of one sequence's blocks for all layers: memory is taken a slab of 512 tokens, a chunk of
/// attention, at a time, and what is taken never moves.
template <Scalar T>
class Slabs {
 public:
  using Slab = AlignedArray<T>;

  /// Takes nothing yet. Throws std::length_error where max_tokens of these sizes overflow.
  Slabs(const CacheShape& shape, Index max_tokens) : layout_(shape, slab_tiles) {
    checked_mul(layout_.bytes_per_token(), max_tokens, "max_tokens");
    checked_mul(layout_.bytes(), ceil_div(max_tokens, layout_.tokens()), "max_tokens");
  }

  /// One of the same sizes, without memory.
  Slabs like() const { return {layout_.shape(), 0}; }

  const CacheShape& shape() const { return layout_.shape(); }
  const BlockLayout<T>& blocks() const { return layout_.blocks(); }
  Index bytes_per_token() const { return layout_.bytes_per_token(); }
  Index allocated_bytes() const { return static_cast<Index>(slabs_.size()) * layout_.bytes(); }
  Index bookkeeping_bytes() const { return static_cast<Index>(slabs_.capacity() * sizeof(Slab)); }
  /// What would be allocated for this many tokens in all.
  Index bytes_for(Index tokens) const { return ceil_div(tokens, layout_.tokens()) * layout_.bytes(); }

  bool has_room(Index tokens) const { return slabs_for(tokens) <= slabs_.size(); }
  /// Memory that is yet to be added: empty, or a place for each slab with the new ones at the end.
  using Growth = std::vector<Slab>;
  /// What is missing for this many tokens in all. Throws std::bad_alloc.
  Growth grow(Index tokens) const {
    if (has_room(tokens)) return {};
    Growth more(slabs_for(tokens));
    for (std::size_t i = slabs_.size(); i < more.size(); ++i)
      more[i] = allocate_aligned<T>(static_cast<std::size_t>(layout_.bytes()));
    return more;
  }
  void add(Growth more) noexcept {
    if (more.empty()) return;
    std::move(slabs_.begin(), slabs_.end(), more.begin());
    slabs_ = std::move(more);
  }

  /// Room for this many tokens in all. Throws std::bad_alloc; nothing has changed then.
  void reserve(Index tokens) { add(grow(tokens)); }

  /// Gives back what is not needed for this many tokens.
  void shrink(Index tokens) noexcept {
    if (slabs_for(tokens) < slabs_.size()) slabs_.resize(slabs_for(tokens));
  }
  void release() noexcept { slabs_ = std::vector<Slab>(); }

  /// Copies the first `tokens` of others of the same sizes. Throws std::bad_alloc; nothing has changed then.
  void copy(const Slabs& other, Index tokens) {
    reserve(tokens);
    for (std::size_t i = 0; i < slabs_for(tokens); ++i)
      std::memcpy(static_cast<void*>(slabs_[i].get()), static_cast<const void*>(other.slabs_[i].get()),
                  static_cast<std::size_t>(layout_.bytes()));
  }

  /// The block of tokens [64 tile, 64 tile + 64).
  PackedBlock<T> block_at(Index layer, Index head, Index tile) const {
    return layout_.block_at(slabs_[static_cast<std::size_t>(tile / slab_tiles)].get(), layer, head,
                            tile % slab_tiles);
  }

 private:
  static constexpr Index slab_tiles = 8;

  std::size_t slabs_for(Index tokens) const {
    return static_cast<std::size_t>(ceil_div(tokens, layout_.tokens()));
  }

  PageLayout<T> layout_;
  std::vector<Slab> slabs_;
};

}  // namespace gqa::detail
