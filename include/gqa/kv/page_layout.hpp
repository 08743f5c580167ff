// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/kv/cache_shape.hpp"
#include "gqa/kv/packed_block.hpp"

namespace gqa::detail {

/// What some tiles of tokens look like in one piece of memory, for all layers and heads:
/// [layer][head]{a block of keys each tile, a block of values each}. What one head of one layer reads of it
/// is one stream.
template <Scalar T>
class PageLayout {
 public:
  /// Throws std::length_error where the sizes overflow.
  PageLayout(const CacheShape& shape, Index tiles)
      : shape_(shape), tiles_(tiles), blocks_(shape.head_dim, shape.value_dim) {
    // Checked before they are rounded up, or the blocks multiply them.
    checked_mul(shape.elements_per_token(), sizeof(T), "cache");
    const Index tokens = checked_mul(tiles, tile_keys, "cache");
    const Index keys = checked_mul(round_up(shape.head_dim, BlockLayout<T>::E), tokens, "cache");
    const Index values = checked_mul(round_up(shape.value_dim, simd::padding), tokens, "cache");
    head_elements_ = checked_add(keys, values, "cache");
    elements_ =
        checked_mul(checked_mul(shape.num_layers, shape.num_kv_heads, "cache"), head_elements_, "cache");
    checked_mul(elements_, sizeof(T), "cache");
  }

  const CacheShape& shape() const { return shape_; }
  const BlockLayout<T>& blocks() const { return blocks_; }
  Index tiles() const { return tiles_; }
  Index tokens() const { return tiles_ * tile_keys; }
  Index elements() const { return elements_; }
  Index bytes() const { return elements_ * Index{sizeof(T)}; }
  /// Of one token, without padding.
  Index bytes_per_token() const { return shape_.elements_per_token() * Index{sizeof(T)}; }

  PackedBlock<T> block_at(T* page, Index layer, Index head, Index tile) const {
    T* base = page + (layer * shape_.num_kv_heads + head) * head_elements_;
    return {base + tile * blocks_.key_elements(),
            base + tiles_ * blocks_.key_elements() + tile * blocks_.value_elements()};
  }

 private:
  CacheShape shape_;
  Index tiles_;
  BlockLayout<T> blocks_;
  Index head_elements_ = 0, elements_ = 0;
};

}  // namespace gqa::detail
