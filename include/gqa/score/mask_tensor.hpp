// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/score/mask_concept.hpp"
#include "gqa/score/score_tensor.hpp"

namespace gqa {

/// One sequence's and head's plane of a boolean tensor; a position outside it sees nothing.
class MaskPlane {
 public:
  MaskPlane(const ScoreTensor<bool>& tensor, Index seq, Index q_head)
      : tensor_(tensor), seq_(seq), q_head_(q_head) {}

  bool operator()(Index q_pos, Index kv_pos) const {
    return tensor_.q_positions().contains(q_pos) && tensor_.kv_positions().contains(kv_pos) &&
           tensor_.row(seq_, q_head_, q_pos)[kv_pos];
  }

  /// Exact: reads the block, until it has met both a true and a false.
  Coverage coverage(Range q, Range kv) const {
    if (q.empty() || kv.empty()) return Coverage::none;
    const Range rows = intersect(q, tensor_.q_positions()), columns = intersect(kv, tensor_.kv_positions());
    bool some = false, all = rows == q && columns == kv;
    const bool one_row = tensor_.sizes().q_tokens == 1;  // counts for all
    for (Index i = rows.begin; i < (one_row ? rows.begin + 1 : rows.end) && !(some && !all); ++i) {
      const bool* row = tensor_.row(seq_, q_head_, i);
      for (Index j = columns.begin; j < columns.end; ++j) {
        some |= row[j];
        all &= row[j];
      }
    }
    return !some ? Coverage::none : all ? Coverage::full : Coverage::partial;
  }

  Range bounds(Range) const { return tensor_.kv_positions(); }

  std::uint64_t bits(Index q_pos, Index kv_begin, Index count) const {
    if (!tensor_.q_positions().contains(q_pos)) return 0;
    const bool* row = tensor_.row(seq_, q_head_, q_pos);
    const Range columns = intersect({kv_begin, kv_begin + count}, tensor_.kv_positions());
    std::uint64_t bits = 0;
    for (Index j = columns.begin; j < columns.end; ++j) bits |= std::uint64_t{row[j]} << (j - kv_begin);
    return bits;
  }

 private:
  ScoreTensor<bool> tensor_;
  Index seq_, q_head_;
};

/// The mask of a boolean tensor; refers to the caller's memory, which must outlive it.
class TensorMask {
 public:
  explicit TensorMask(const ScoreTensor<bool>& tensor) : tensor_(tensor) {}

  MaskPlane at(Index seq, Index q_head) const { return {tensor_, seq, q_head}; }
  bool varies_by_seq() const { return tensor_.sizes().batch != 1; }
  bool varies_by_head() const { return tensor_.sizes().heads != 1; }
  void check(const AttentionExtent& extent) const { tensor_.check(extent, "mask tensor"); }

 private:
  ScoreTensor<bool> tensor_;
};

/// True attends. See ScoreTensor for the layout, broadcasting and which row is which position; attention
/// throws std::invalid_argument for a shape that does not fit.
inline TensorMask tensor_mask(const ScoreTensor<bool>& tensor) { return TensorMask(tensor); }

/// The same for an Eigen tensor or map of bool: heads x queries x keys, or batch x heads x queries x keys.
template <TensorLike Tensor>
TensorMask tensor_mask(const Tensor& tensor, std::optional<Index> first_q_position = {}) {
  return TensorMask(detail::as_score_tensor(tensor, first_q_position));
}

}  // namespace gqa
