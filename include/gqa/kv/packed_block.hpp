// SPDX-License-Identifier: Apache-2.0
// What tokens look like in memory where the kernels read them as they are: how they are stored and forgotten.
// Where such blocks are is a placement's business.
#pragma once

#include <algorithm>
#include <type_traits>

#include "gqa/core/tensor.hpp"
#include "gqa/kv/view.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa::detail {

/// The memory of one head's keys and values of tile_keys tokens.
template <Scalar T>
struct PackedBlock {
  T* k;
  T* v;
};

/// Blocks of keys [D/E][64][E] and values [64/E][Dv][E], E the group of T, D padded to E and Dv to whole
/// vectors.
template <Scalar T>
class BlockLayout {
 public:
  static constexpr Index E = element_group<T>;

  BlockLayout(Index head_dim, Index value_dim) : head_dim_(head_dim), value_dim_(value_dim) {}

  Index head_dim() const { return head_dim_; }
  Index value_dim() const { return value_dim_; }
  Index key_elements() const { return round_up(head_dim_, E) * tile_keys; }
  Index value_elements() const { return value_row() * tile_keys; }

  /// Tokens `want` of a block.
  KVTile tile(const PackedBlock<T>& block, Range want) const {
    const T* k = block.k + want.begin * E;
    const T* v = block.v + want.begin / E * value_stride();
    return {.k = tile_side(k, tile_keys * E), .v = tile_side(v, value_stride()), .size = want.size()};
  }

  /// Stores rows [first, first + tokens.size()) of one head at `tokens` of a block, converted to T. Of the
  /// block's tokens those before `written` are there already, and keep their values where they are others.
  template <class TK, class TV>
  void store(const PackedBlock<T>& block, Range tokens, const TensorView<TK>& k, const TensorView<TV>& v,
             Index first, Index head, Index written, const simd::Kernels<Accumulator<T>>& kernels) const {
    while (!tokens.empty()) {
      Index n = store_run(block, tokens, k, v, first, head, written, kernels);
      if (n == 0) {
        store_one(block, tokens.begin, k.at(0, first, head), v.at(0, first, head), written);
        n = 1;
      }
      first += n;
      tokens.begin += n;
    }
  }

  /// Makes token n of a block one that is not there. Where it shares pairs with the one before, its values
  /// become 0.
  void forget(const PackedBlock<T>& block, Index n) const {
    if (n % E == 0) return;
    T* row = block.v + n / E * value_stride();
    for (Index c = 0; c < value_row(); ++c) row[c * E + n % E] = T{};
  }

  /// Makes every element of these tokens of a block 0.
  void zero(const PackedBlock<T>& block, Range tokens) const {
    for (Index j = tokens.begin; j < tokens.end; ++j) {
      for (Index d = 0; d < round_up(head_dim_, E); ++d) block.k[(d / E * tile_keys + j) * E + d % E] = T{};
      T* row = block.v + j / E * value_stride();
      for (Index c = 0; c < value_row(); ++c) row[c * E + j % E] = T{};
    }
  }

 private:
  Index value_row() const { return round_up(value_dim_, simd::padding); }
  Index value_stride() const { return value_row() * E; }

  /// One token. Padding gets zeros, as does the value beside it that an odd count leaves: kernels
  /// multiply both, by 0.
  template <class TK, class TV>
  void store_one(const PackedBlock<T>& block, Index j, const TK* k, const TV* v, Index written) const {
    for (Index d = 0; d < head_dim_; ++d) block.k[(d / E * tile_keys + j) * E + d % E] = rounded_to<T>(k[d]);
    if (E == 2 && head_dim_ % 2 != 0) block.k[(head_dim_ / E * tile_keys + j) * E + 1] = T{};
    T* row = block.v + j / E * value_stride();
    const bool last = j + 1 >= written;
    for (Index c = 0; c < value_row(); ++c) {
      row[c * E + j % E] = c < value_dim_ ? rounded_to<T>(v[c]) : T{};
      if (E == 2 && j % E == 0 && last) row[c * E + 1] = T{};
    }
  }

  // A kernel transposes as many tokens as a vector has lanes, wanted or not.
  static constexpr Index fewest_in_a_run = 4;

  /// As many of the tokens as there are by the kernels that pack a caller's rows; 0 where the elements are to
  /// be converted, or the bits of a neighbour kept.
  template <class TK, class TV>
  Index store_run(const PackedBlock<T>& block, Range tokens, const TensorView<TK>& k, const TensorView<TV>& v,
                  Index first, Index head, Index written,
                  const simd::Kernels<Accumulator<T>>& kernels) const {
    if constexpr (std::is_same_v<std::remove_const_t<TK>, T> && std::is_same_v<std::remove_const_t<TV>, T>) {
      const Index j = tokens.begin;
      Index n = tokens.size();
      if (tokens.end < written) n = round_down(n, E);
      if (j % E != 0 || n < fewest_in_a_run) return 0;
      const T* rows = v.at(0, first, head);
      if constexpr (std::is_same_v<T, Accumulator<T>>)
        kernels.transpose_keys(k.at(0, first, head), k.token_stride, n, head_dim_, n, block.k + j);
      else
        kernels.transpose_stored(k.at(0, first, head), k.token_stride, n, head_dim_, n, block.k + j * E);
      if constexpr (E == 2) {
        kernels.interleave_pairs(rows, v.token_stride, n, value_dim_, block.v + j / E * value_stride(),
                                 value_stride());
      } else {
        for (Index i = 0; i < n; ++i) {
          T* row = block.v + (j + i) * value_row();
          std::copy_n(rows + i * v.token_stride, value_dim_, row);
          std::fill(row + value_dim_, row + value_row(), T{});
        }
      }
      return n;
    }
    return 0;
  }

  Index head_dim_, value_dim_;
};

/// Stores the tokens of `positions`, k and v for all heads, converted to T, in the blocks that
/// `block_at(head, tile)` names. Those there already, before `written`, keep their values.
template <Scalar T, class BlockAt, class TK, class TV>
void store_tokens(const BlockLayout<T>& layout, BlockAt&& block_at, Range positions, const TensorView<TK>& k,
                  const TensorView<TV>& v, Index written, const simd::Kernels<Accumulator<T>>& kernels) {
  for (Index head = 0; head < k.heads; ++head) {
    for (Index position = positions.begin; position < positions.end;) {
      const Index tile = position / tile_keys, begin = tile * tile_keys;
      const Index end = std::min(begin + tile_keys, positions.end);
      layout.store(block_at(head, tile), {position - begin, end - begin}, k, v, position - positions.begin,
                   head, written - begin, kernels);
      position = end;
    }
  }
}

}  // namespace gqa::detail
