// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstring>

#include "gqa/mask/mask_concept.hpp"
#include "gqa/mask/score_tensor.hpp"

namespace gqa {

/// One sequence's and head's plane of a boolean tensor; a position outside it sees nothing.
class MaskPlane {
 public:
  MaskPlane(const ScoreTensor<bool>& tensor, Index seq, Index q_head, std::optional<Index> first_query = {})
      : plane_(tensor, seq, q_head, first_query) {}

  bool operator()(Index q_pos, Index kv_pos) const {
    return plane_.q_positions().contains(q_pos) && plane_.kv_positions().contains(kv_pos) &&
           plane_.row(q_pos)[plane_.one_key() ? 0 : kv_pos];
  }

  /// Exact: reads the block, until it has met both a true and a false.
  Coverage coverage(Range q, Range kv) const {
    if (q.empty() || kv.empty()) return Coverage::none;
    const Range rows = intersect(q, plane_.q_positions()), columns = intersect(kv, plane_.kv_positions());
    if (columns.empty()) return Coverage::none;
    bool some = false, all = rows == q && columns == kv;
    const Index end = plane_.one_row() ? std::min(rows.begin + 1, rows.end) : rows.end;  // it counts for all
    for (Index i = rows.begin; i < end && !(some && !all); ++i) {
      const Scanned row =
          plane_.one_key() ? scan(plane_.row(i), 1) : scan(plane_.row(i) + columns.begin, columns.size());
      some |= row.any;
      all &= row.all;
    }
    return !some ? Coverage::none : all ? Coverage::full : Coverage::partial;
  }

  Range bounds(Range) const { return plane_.kv_positions(); }

  std::uint64_t bits(Index q_pos, Index kv_begin, Index count) const {
    if (!plane_.q_positions().contains(q_pos)) return 0;
    if (plane_.one_key()) return *plane_.row(q_pos) ? range_bits(all_positions, kv_begin, count) : 0;
    const Range columns = intersect({kv_begin, kv_begin + count}, plane_.kv_positions());
    if (columns.empty()) return 0;
    return pack(plane_.row(q_pos) + columns.begin, columns.size()) << (columns.begin - kv_begin);
  }

 private:
  // Eight booleans at a time: bytes of 0 or 1 in one word.
  static constexpr std::uint64_t ones = 0x0101010101010101;
  static std::uint64_t load(const bool* values) {
    std::uint64_t word;
    std::memcpy(&word, values, sizeof word);
    return word;
  }

  struct Scanned {
    bool any, all;
  };
  static Scanned scan(const bool* values, Index n) {
    std::uint64_t any = 0, all = ones;
    Index j = 0;
    for (; j + 8 <= n; j += 8) {
      any |= load(values + j);
      all &= load(values + j);
    }
    Scanned result{any != 0, all == ones};
    for (; j < n; ++j) {
      result.any |= values[j];
      result.all &= values[j];
    }
    return result;
  }

  /// Bit j is `values[j]`, n <= 64.
  static std::uint64_t pack(const bool* values, Index n) {
    std::uint64_t bits = 0;
    Index j = 0;
    if constexpr (std::endian::native == std::endian::little) {
      // The product moves the byte at 8 i to bit 56 + i: 8 i + 7 (8 - i) = 56 + i, and no two sums meet.
      for (; j + 8 <= n; j += 8) bits |= (load(values + j) * 0x0102040810204080 >> 56) << j;
    }
    for (; j < n; ++j) bits |= std::uint64_t{values[j]} << j;
    return bits;
  }

  detail::ScorePlane<bool> plane_;
};

/// The mask of a boolean tensor; refers to the caller's memory, which must outlive it.
class TensorMask {
 public:
  explicit TensorMask(const ScoreTensor<bool>& tensor) : tensor_(tensor) {}

  MaskPlane at(Index seq, Index q_head, std::optional<Index> first_query = {}) const {
    tensor_.check_plane(seq, q_head, "mask tensor");
    return {tensor_, seq, q_head, first_query};
  }
  bool varies_by_seq() const { return tensor_.sizes().batch != 1; }
  bool varies_by_head() const { return tensor_.sizes().heads != 1; }
  void check(const AttentionExtent& extent) const { tensor_.check(extent, "mask tensor"); }

 private:
  ScoreTensor<bool> tensor_;
};

/// True attends; whatever a masked key or value holds, NaN and infinity included, does not count. See
/// ScoreTensor for the layout, broadcasting and which row is which position; attention throws
/// std::invalid_argument for a shape that does not fit.
inline TensorMask tensor_mask(const ScoreTensor<bool>& tensor) { return TensorMask(tensor); }

/// The same for an Eigen tensor or map of bool, which must outlive the mask: keys, queries x keys, heads x
/// queries x keys, or batch x heads x queries x keys (column-major ones in reverse), any of them 1 for all.
template <TensorLike Tensor>
TensorMask tensor_mask(const Tensor& tensor, std::optional<Index> first_q_position = {}) {
  const auto scores = detail::as_score_tensor(tensor, first_q_position);
  static_assert(std::is_same_v<decltype(scores), const ScoreTensor<bool>>,
                "gqa: a mask tensor holds bool, true attends; numbers to add are a tensor_bias");
  return TensorMask(scores);
}

/// A temporary's memory would be gone before it is read: keep the tensor in a variable.
template <detail::TemporaryTensor Tensor>
TensorMask tensor_mask(const Tensor&& temporary, std::optional<Index> first_q_position = {}) = delete;

}  // namespace gqa
