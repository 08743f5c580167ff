// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "gqa/core/arena.hpp"
#include "gqa/core/scalar.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa {

/// The natural-log sum of exponentials of a row kept as max and sum: max + ln(sum); -inf for a row that saw
/// nothing.
template <class Acc>
Acc lse_of(Acc max, Acc sum) {
  return static_cast<Acc>(static_cast<double>(max) + std::log(static_cast<double>(sum)));
}

namespace detail {

/// The unnormalised attention of some rows over some keys, {o, max, sum} as in OnlineSoftmax, in memory of
/// somebody else's: `stride` elements of o a row, whole vectors.
template <class Acc>
struct RowState {
  Acc* o = nullptr;
  Acc* max = nullptr;
  Acc* sum = nullptr;
  Index stride = 0;

  RowState() = default;
  RowState(Acc* outputs, Acc* maxima, Acc* sums, Index row_stride)
      : o(outputs), max(maxima), sum(sums), stride(row_stride) {}
  RowState(Arena& arena, Index rows, Index row_stride)
      : o(arena.take<Acc>(rows, row_stride)),
        max(arena.take<Acc>(rows)),
        sum(arena.take<Acc>(rows)),
        stride(row_stride) {}

  explicit operator bool() const { return o != nullptr; }
  RowState from(Index row) const { return {o + row * stride, max + row, sum + row, stride}; }

  void clear(Index rows) const {
    std::fill(o, o + rows * stride, Acc{0});
    std::fill(max, max + rows, -std::numeric_limits<Acc>::infinity());
    std::fill(sum, sum + rows, Acc{0});
  }

  /// Its first row sees one position with this score, the value 0, and this weight: a learned sink.
  void see_one(Acc score, Acc weight) const {
    clear(1);
    max[0] = score;
    sum[0] = weight;
  }

  /// Takes over the first rows of `other`, whose weights are kept `factor` times as large here.
  void copy(const RowState& other, Index rows, Acc factor = 1) const {
    for (Index i = 0; i < rows * stride; ++i) o[i] = other.o[i] * factor;
    for (Index i = 0; i < rows; ++i) {
      max[i] = other.max[i];
      sum[i] = other.sum[i] * factor;
    }
  }

  void merge(const RowState& other, Index rows, const simd::RowKernels<Acc>& kernels) const {
    kernels.merge({.o = o,
                   .max = max,
                   .sum = sum,
                   .block_o = other.o,
                   .block_max = other.max,
                   .block_sum = other.sum,
                   .rows = rows,
                   .dim = stride,
                   .stride = stride,
                   .block_stride = other.stride});
  }
};

}  // namespace detail

/// The attention of rows of queries over some set of positions, in a form that merges with that over any
/// other set (Milakov and Gimelshein 2018; Rabe and Staats 2021):
///
///     m = max_j s_j,   l = sum_j e^{s_j - m},   o = sum_j e^{s_j - m} v_j;   output o / l,  lse = m + ln(l)
///
/// Split keys, shared prefixes, several machines: all of it is `merge`. Merging is commutative and
/// associative up to rounding (two merge to the same bits whichever takes in the other), and a default state
/// (of no positions) is its identity, exactly. Sums of values must fit in Acc: merging n states needs |v|
/// below its largest number / n. It is what attention keeps by itself: state_into(state) asks it for one, and
/// resume(state) lets it go on from one.
template <class Acc = float>
class OnlineSoftmax {
 public:
  /// `rows` rows of `dim` values that have seen nothing.
  OnlineSoftmax(Index rows, Index dim)
      : rows_(rows),
        dim_(dim),
        stride_(round_up(dim, simd::padding)),
        o_(size(rows, stride_)),
        m_(size(rows, 1), -std::numeric_limits<Acc>::infinity()),
        l_(size(rows, 1)) {}

  /// The state of an attention result: `output` rows x dim, packed, and `lse` a row, as attention() gives
  /// them. Throws std::invalid_argument where the sizes do not fit.
  OnlineSoftmax(Index rows, Index dim, std::span<const Acc> output, std::span<const Acc> lse)
      : OnlineSoftmax(rows, dim) {
    GQA_CHECK(static_cast<Index>(output.size()) == rows * dim, std::invalid_argument,
              "output: size is " << output.size() << ", expected " << rows << " x " << dim);
    GQA_CHECK(static_cast<Index>(lse.size()) == rows, std::invalid_argument,
              "lse: size is " << lse.size() << ", expected " << rows);
    for (Index r = 0; r < rows; ++r) {
      const Acc row_lse = lse[static_cast<std::size_t>(r)];
      if (row_lse == -std::numeric_limits<Acc>::infinity()) continue;
      m_[static_cast<std::size_t>(r)] = row_lse;
      l_[static_cast<std::size_t>(r)] = 1;
      for (Index d = 0; d < dim; ++d)
        o_[size(r, stride_) + static_cast<std::size_t>(d)] =
            output[size(r, dim) + static_cast<std::size_t>(d)];
    }
  }

  Index rows() const { return rows_; }
  Index dim() const { return dim_; }

  /// Adds one position to one row: its score (natural units) and its value. -inf adds nothing, and the value
  /// is not read.
  void update(Index row, Acc score, std::span<const Acc> value) {
    GQA_CHECK(row >= 0 && row < rows_, std::invalid_argument,
              "row is " << row << ", expected less than " << rows_);
    if (score == -std::numeric_limits<Acc>::infinity()) return;
    GQA_CHECK(static_cast<Index>(value.size()) == dim_, std::invalid_argument,
              "value: size is " << value.size() << ", expected " << dim_);
    OnlineSoftmax one(1, dim_, value, std::span<const Acc>(&score, 1));
    merge_rows(state().from(row), one, 1);
  }

  /// Takes in the positions of `other`, which this must not share. Throws std::invalid_argument where the
  /// sizes differ.
  void merge(const OnlineSoftmax& other) {
    GQA_CHECK(
        other.rows_ == rows_ && other.dim_ == dim_, std::invalid_argument,
        "other: size is " << other.rows_ << " x " << other.dim_ << ", expected " << rows_ << " x " << dim_);
    merge_rows(state(), other, rows_);
  }

  /// rows x dim, packed: o / l; 0 in rows that saw nothing.
  std::vector<Acc> output() const {
    std::vector<Acc> result(size(rows_, dim_));
    for (Index r = 0; r < rows_; ++r) {
      const Acc l = l_[static_cast<std::size_t>(r)];
      for (Index d = 0; d < dim_; ++d)
        result[size(r, dim_) + static_cast<std::size_t>(d)] =
            l == 0 ? Acc{0} : o_[size(r, stride_) + static_cast<std::size_t>(d)] / l;
    }
    return result;
  }

  /// Natural logarithm of each row's sum of exponentials; -inf in rows that saw nothing.
  std::vector<Acc> lse() const {
    std::vector<Acc> result(size(rows_, 1));
    for (std::size_t r = 0; r < result.size(); ++r) result[r] = lse_of(m_[r], l_[r]);
    return result;
  }

  /// The memory itself, for the kernels. Reading does not change it.
  detail::RowState<Acc> state() const {
    auto& self = const_cast<OnlineSoftmax&>(*this);
    return {self.o_.data(), self.m_.data(), self.l_.data(), stride_};
  }

 private:
  static std::size_t size(Index a, Index b) {
    return static_cast<std::size_t>(checked_mul(a, b, "OnlineSoftmax"));
  }

  static void merge_rows(const detail::RowState<Acc>& into, const OnlineSoftmax& other, Index count) {
    into.merge(other.state(), count, simd::row_kernels<Acc>(isa()));
  }

  Index rows_, dim_, stride_;
  std::vector<Acc> o_, m_, l_;
};

}  // namespace gqa
