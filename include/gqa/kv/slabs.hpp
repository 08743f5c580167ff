// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <iterator>
#include <vector>

#include "gqa/core/memory.hpp"
#include "gqa/kv/packed_block.hpp"

namespace gqa::detail {

/// The placement of one sequence's blocks for all layers: memory is taken a slab of 512 tokens at a time, and
/// what is taken never moves. A slab is [layer][head]{8 blocks of keys, 8 of values}: what one head of one
/// layer reads is one stream, a chunk of attention.
template <Scalar T>
class Slabs {
 public:
  /// Takes nothing yet. Throws std::length_error where max_tokens of these sizes overflow.
  Slabs(Index max_tokens, Index num_layers, Index num_kv_heads, Index head_dim, Index value_dim)
      : num_layers_(num_layers), num_kv_heads_(num_kv_heads), layout_(head_dim, value_dim) {
    checked_mul(bytes_per_token(), max_tokens, "max_tokens");
    // Checked before the layout multiplies them.
    const Index keys = checked_mul(round_up(head_dim, BlockLayout<T>::E), slab_tokens, "KVCache");
    const Index values = checked_mul(round_up(value_dim, simd::padding), slab_tokens, "KVCache");
    slab_elements_ = checked_mul(checked_mul(num_layers, num_kv_heads, "KVCache"),
                                 checked_add(keys, values, "KVCache"), "KVCache");
    checked_mul(checked_mul(slab_elements_, sizeof(T), "KVCache"), ceil_div(max_tokens, slab_tokens),
                "max_tokens");
  }

  /// One of the same sizes, without memory.
  Slabs like() const { return {0, num_layers_, num_kv_heads_, layout_.head_dim(), layout_.value_dim()}; }

  Index num_layers() const { return num_layers_; }
  Index num_kv_heads() const { return num_kv_heads_; }
  const BlockLayout<T>& layout() const { return layout_; }
  Index bytes_per_token() const {
    return checked_mul(
        checked_mul(num_layers_, num_kv_heads_, "KVCache"),
        checked_mul(checked_add(layout_.head_dim(), layout_.value_dim(), "KVCache"), sizeof(T), "KVCache"),
        "KVCache");
  }
  Index allocated_bytes() const {
    return static_cast<Index>(slabs_.size()) * slab_elements_ * Index{sizeof(T)};
  }
  Index bookkeeping_bytes() const { return static_cast<Index>(slabs_.capacity() * sizeof(Slab)); }

  /// Room for this many tokens in all. Throws std::bad_alloc; nothing has changed then.
  void reserve(Index tokens) {
    const auto wanted = static_cast<std::size_t>(ceil_div(tokens, slab_tokens));
    if (wanted <= slabs_.size()) return;
    std::vector<Slab> more(wanted - slabs_.size());
    for (Slab& slab : more) slab = allocate_aligned<T>(static_cast<std::size_t>(slab_elements_) * sizeof(T));
    slabs_.reserve(wanted);
    std::move(more.begin(), more.end(), std::back_inserter(slabs_));
  }

  void release() noexcept { slabs_ = std::vector<Slab>(); }

  /// Copies the first `tokens` of others of the same sizes. Throws std::bad_alloc; nothing has changed then.
  void copy(const Slabs& other, Index tokens) {
    reserve(tokens);
    const auto slabs = static_cast<std::size_t>(ceil_div(tokens, slab_tokens));
    for (std::size_t i = 0; i < slabs; ++i)
      std::memcpy(static_cast<void*>(slabs_[i].get()), static_cast<const void*>(other.slabs_[i].get()),
                  static_cast<std::size_t>(slab_elements_) * sizeof(T));
  }

  /// The block of tokens [64 tile, 64 tile + 64).
  PackedBlock<T> block_at(Index layer, Index head, Index tile) const {
    const Index keys = layout_.key_elements() * slab_tiles, values = layout_.value_elements() * slab_tiles;
    T* base = slabs_[static_cast<std::size_t>(tile / slab_tiles)].get() +
              (layer * num_kv_heads_ + head) * (keys + values);
    const Index t = tile % slab_tiles;
    return {base + t * layout_.key_elements(), base + keys + t * layout_.value_elements()};
  }

 private:
  static constexpr Index slab_tiles = 8, slab_tokens = slab_tiles * tile_keys;
  using Slab = AlignedArray<T>;

  Index num_layers_, num_kv_heads_;
  BlockLayout<T> layout_;
  Index slab_elements_ = 0;
  std::vector<Slab> slabs_;
};

}  // namespace gqa::detail
