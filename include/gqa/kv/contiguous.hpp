// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "gqa/core/ragged.hpp"
#include "gqa/core/tensor.hpp"
#include "gqa/kv/view.hpp"

namespace gqa {

/// Keys and values in the caller's own tensors, tokens x num_kv_heads x dim with any strides and a contiguous
/// dim: a batch of equal lengths, or packed sequences with offsets. Positions count from 0 in each sequence.
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
    check_heads();
  }

  /// Throws std::invalid_argument where k and v disagree in offsets or heads.
  ContiguousKV(const Ragged<const T>& k, const Ragged<const T>& v)
      : k_(k.tensor), v_(v.tensor), offsets_(k.offsets) {
    GQA_CHECK(std::equal(k.offsets.begin(), k.offsets.end(), v.offsets.begin(), v.offsets.end()),
              std::invalid_argument, "v: offsets differ from those of k");
    check_heads();
  }

  Index num_seqs() const { return offsets_.empty() ? k_.batch : static_cast<Index>(offsets_.size()) - 1; }
  Index num_kv_heads() const { return k_.heads; }
  Index head_dim() const { return k_.dim; }
  Index value_dim() const { return v_.dim; }
  Range retained(Index seq) const {
    return {0, offsets_.empty() ? k_.tokens : first_token(seq + 1) - first_token(seq)};
  }
  Index scratch_bytes() const { return 0; }

  KVTile tile(Index seq, Index kv_head, Range want, void*) const {
    const Index batch = offsets_.empty() ? seq : 0;
    const Index token = want.begin + (offsets_.empty() ? 0 : first_token(seq));
    return {.k = tile_side(k_.at(batch, token, kv_head), k_.token_stride),
            .v = tile_side(v_.at(batch, token, kv_head), v_.token_stride),
            .size = want.size(),
            .layout = TileLayout::token_major};
  }

 private:
  Index first_token(Index seq) const { return offsets_[static_cast<std::size_t>(seq)]; }

  void check_heads() const {
    GQA_CHECK(v_.heads == k_.heads, std::invalid_argument,
              "v: heads is " << v_.heads << ", expected " << k_.heads << " as in k");
  }

  TensorView<const T> k_, v_;
  std::span<const Index> offsets_ = {};  // none: a batch
};

}  // namespace gqa
