// SPDX-License-Identifier: Apache-2.0
// Tokens in memory as the kernels read them.
#pragma once

#include <algorithm>
#include <cstring>
#include <iterator>
#include <type_traits>
#include <vector>

#include "gqa/core/memory.hpp"
#include "gqa/core/tensor.hpp"
#include "gqa/kv/view.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa::detail {

/// Memory for the keys and values of all layers, taken 512 tokens at a time; what is taken never moves.
///
/// A slab of 512 tokens is [layer][head]{8 key tiles [D/E][64][E], values [512/E][Dv][E]}, D padded to E and
/// Dv to whole vectors: what one head of one layer reads is one stream.
template <Scalar T>
class PackedTokens {
 public:
  /// Takes nothing yet. Throws std::length_error where max_tokens of these sizes overflow.
  PackedTokens(Index max_tokens, Index num_layers, Index num_kv_heads, Index head_dim, Index value_dim)
      : num_layers_(num_layers), num_kv_heads_(num_kv_heads), head_dim_(head_dim), value_dim_(value_dim) {
    checked_mul(bytes_per_token(), max_tokens, "max_tokens");
    const Index key_tile = checked_mul(round_up(head_dim, E), tile_keys, "KVCache");
    const Index head = checked_add(checked_mul(key_tile, slab_tokens / tile_keys, "KVCache"),
                                   checked_mul(value_row(), slab_tokens, "KVCache"), "KVCache");
    slab_elements_ = checked_mul(checked_mul(num_layers, num_kv_heads, "KVCache"), head, "KVCache");
    checked_mul(checked_mul(slab_elements_, sizeof(T), "KVCache"), ceil_div(max_tokens, slab_tokens),
                "max_tokens");
  }

  /// One of the same sizes, without memory.
  PackedTokens like() const { return {0, num_layers_, num_kv_heads_, head_dim_, value_dim_}; }

  Index num_layers() const { return num_layers_; }
  Index num_kv_heads() const { return num_kv_heads_; }
  Index head_dim() const { return head_dim_; }
  Index value_dim() const { return value_dim_; }
  Index bytes_per_token() const {
    return checked_mul(checked_mul(num_layers_, num_kv_heads_, "KVCache"),
                       checked_mul(checked_add(head_dim_, value_dim_, "KVCache"), sizeof(T), "KVCache"),
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
  void copy(const PackedTokens& other, Index tokens) {
    reserve(tokens);
    const auto slabs = static_cast<std::size_t>(ceil_div(tokens, slab_tokens));
    for (std::size_t i = 0; i < slabs; ++i)
      std::memcpy(static_cast<void*>(slabs_[i].get()), static_cast<const void*>(other.slabs_[i].get()),
                  static_cast<std::size_t>(slab_elements_) * sizeof(T));
  }

  /// Positions `want`, which do not cross a multiple of tile_keys.
  KVTile<T> tile(Index layer, Index head, Range want) const {
    const auto [k, v] = tile_at(layer, head, want.begin / tile_keys);
    const Index j = want.begin % tile_keys;
    return {k + j * E,      tile_keys * E, v + j / E * value_stride(),
            value_stride(), want.size(),   TileLayout::packed};
  }

  /// Stores the tokens of `positions`, converted to T. Those there already, before `written`, keep their
  /// values.
  template <class TK, class TV>
  void store(Index layer, Range positions, const TensorView<TK>& k, const TensorView<TV>& v, Index written,
             const simd::Kernels<Accumulator<T>>& kernels) noexcept {
    for (Index head = 0; head < num_kv_heads_; ++head) {
      for (Index t = 0; t < positions.size();) {
        const Index position = positions.begin + t;
        Index n = store_run(layer, head, {position, positions.end}, k, v, t, written, kernels);
        if (n == 0) {
          store_one(layer, head, position, k.at(0, t, head), v.at(0, t, head), written);
          n = 1;
        }
        t += n;
      }
    }
  }

  /// Makes token n one that is not there. Where it shares pairs with the last token kept, its values become
  /// 0.
  void forget_from(Index n) noexcept {
    if (n % E == 0) return;
    for (Index layer = 0; layer < num_layers_; ++layer) {
      for (Index head = 0; head < num_kv_heads_; ++head) {
        const Index j = n % tile_keys;
        T* row = tile_at(layer, head, n / tile_keys).v + j / E * value_stride();
        for (Index c = 0; c < value_row(); ++c) row[c * E + j % E] = T{};
      }
    }
  }

 private:
  static constexpr Index E = element_group<T>;
  static constexpr Index slab_tokens = 8 * tile_keys;
  using Slab = AlignedArray<T>;

  Index key_tile_elements() const { return round_up(head_dim_, E) * tile_keys; }
  Index value_row() const { return round_up(value_dim_, simd::padding); }
  Index value_stride() const { return value_row() * E; }

  struct TileMemory {
    T* k;
    T* v;
  };
  TileMemory tile_at(Index layer, Index head, Index tile) const {
    constexpr Index tiles = slab_tokens / tile_keys;
    const Index key_elements = key_tile_elements() * tiles, value_elements = value_row() * slab_tokens;
    T* base = slabs_[static_cast<std::size_t>(tile / tiles)].get() +
              (layer * num_kv_heads_ + head) * (key_elements + value_elements);
    const Index t = tile % tiles;
    return {base + t * key_tile_elements(), base + key_elements + t * tile_keys * value_row()};
  }

  /// One token of one head. Padding gets zeros, as does the value beside it that an odd count leaves: kernels
  /// multiply both, by 0.
  template <class TK, class TV>
  void store_one(Index layer, Index head, Index position, const TK* k, const TV* v, Index written) {
    const auto [keys, values] = tile_at(layer, head, position / tile_keys);
    const Index j = position % tile_keys;
    for (Index d = 0; d < head_dim_; ++d) keys[(d / E * tile_keys + j) * E + d % E] = rounded_to<T>(k[d]);
    if (E == 2 && head_dim_ % 2 != 0) keys[(head_dim_ / E * tile_keys + j) * E + 1] = T{};
    T* row = values + j / E * value_stride();
    const bool last = position + 1 >= written;
    for (Index c = 0; c < value_row(); ++c) {
      row[c * E + j % E] = c < value_dim_ ? rounded_to<T>(v[c]) : T{};
      if (E == 2 && j % E == 0 && last) row[c * E + 1] = T{};
    }
  }

  // A kernel transposes as many tokens as a vector has lanes, wanted or not.
  static constexpr Index fewest_in_a_run = 4;

  /// Tokens [t, t + n) of one head at the beginning of `positions`, as many as a tile takes, by the kernels
  /// that pack a caller's rows; 0 where the elements are to be converted, or the bits of a neighbour kept.
  template <class TK, class TV>
  Index store_run(Index layer, Index head, Range positions, const TensorView<TK>& k, const TensorView<TV>& v,
                  Index t, Index written, const simd::Kernels<Accumulator<T>>& kernels) {
    if constexpr (std::is_same_v<std::remove_const_t<TK>, T> && std::is_same_v<std::remove_const_t<TV>, T>) {
      const Index j = positions.begin % tile_keys;
      Index n = std::min(tile_keys - j, positions.size());
      if (positions.begin + n < written) n = round_down(n, E);
      if (j % E != 0 || n < fewest_in_a_run) return 0;
      const auto [keys, values] = tile_at(layer, head, positions.begin / tile_keys);
      const T* rows = v.at(0, t, head);
      if constexpr (std::is_same_v<T, Accumulator<T>>)
        kernels.transpose_keys(k.at(0, t, head), k.token_stride, n, head_dim_, n, keys + j);
      else
        kernels.transpose_stored(k.at(0, t, head), k.token_stride, n, head_dim_, n, keys + j * E);
      if constexpr (E == 2) {
        kernels.interleave_pairs(rows, v.token_stride, n, value_dim_, values + j / E * value_stride(),
                                 value_stride());
      } else {
        for (Index i = 0; i < n; ++i) {
          T* row = values + (j + i) * value_row();
          std::copy_n(rows + i * v.token_stride, value_dim_, row);
          std::fill(row + value_dim_, row + value_row(), T{});
        }
      }
      return n;
    }
    return 0;
  }

  Index num_layers_, num_kv_heads_, head_dim_, value_dim_;
  Index slab_elements_ = 0;
  std::vector<Slab> slabs_;
};

}  // namespace gqa::detail
