// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/core/tensor.hpp"
#include "gqa/kv/view.hpp"

namespace gqa {

/// Keys and values in the caller's own tensors: batch x tokens x num_kv_heads x dim, any strides with a
/// contiguous dim. Positions count from 0 in each sequence.
template <gqa::Scalar T>
class ContiguousKV {
 public:
  using Scalar = T;

  /// Throws std::invalid_argument where k and v disagree in batch, tokens or heads.
  ContiguousKV(TensorView<const T> k, TensorView<const T> v) : k_(k), v_(v) {
    GQA_CHECK(v.batch == k.batch, std::invalid_argument,
              "v: batch is " << v.batch << ", expected " << k.batch << " as in k");
    GQA_CHECK(v.tokens == k.tokens, std::invalid_argument,
              "v: tokens is " << v.tokens << ", expected " << k.tokens << " as in k");
    GQA_CHECK(v.heads == k.heads, std::invalid_argument,
              "v: heads is " << v.heads << ", expected " << k.heads << " as in k");
  }

  Index num_seqs() const { return k_.batch; }
  Index num_kv_heads() const { return k_.heads; }
  Index head_dim() const { return k_.dim; }
  Index value_dim() const { return v_.dim; }
  Range retained(Index) const { return {0, k_.tokens}; }
  Index scratch_bytes() const { return 0; }

  KVTile tile(Index seq, Index kv_head, Range want, void*) const {
    return {.k = tile_side(k_.at(seq, want.begin, kv_head), k_.token_stride),
            .v = tile_side(v_.at(seq, want.begin, kv_head), v_.token_stride),
            .size = want.size(),
            .layout = TileLayout::token_major};
  }

 private:
  TensorView<const T> k_, v_;
};

}  // namespace gqa
