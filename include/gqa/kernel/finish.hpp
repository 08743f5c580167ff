// SPDX-License-Identifier: Apache-2.0
// From the state of rows to what the caller gets.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "gqa/core/memory.hpp"
#include "gqa/kernel/chunk.hpp"
#include "gqa/kernel/item.hpp"

namespace gqa::detail {

/// Writes the outputs, log-sum-exps and kept states of rows that are done.
template <class Acc>
class Finisher {
 public:
  Finisher(Arena& arena, const Call<Acc>& call, const CallKernels<Acc>& kernels, Index max_rows)
      : call_(call),
        kernels_(kernels),
        overflowed_(arena.take<bool>(max_rows)),
        sink_(arena, 1, call.value_stride()) {}

  /// Whether sums of a row that has been written were no numbers: an infinite or NaN value, or an overflow.
  /// Such rows are left for write_again().
  bool some_overflowed() const { return some_overflowed_; }

  /// The rows of a block: output = o / sum and lse, with the learned sink as one more exponential in the sum.
  /// May change the state.
  void write(const Item<Acc>& item, const Block& block, const RowState<Acc>& state) {
    if (!call_.write_output) {
      for (Index i = 0; i < block.rows; ++i) keep(item, block.first_row + i, state.from(i), 1);
      return;
    }
    note_overflows(block, state);
    for (Index i = 0; i < block.rows; ++i)
      if (!overflowed_[block.first_row + i]) write_row(item, block, i, state.from(i), 1);
  }

  /// The rows that were left, computed once more with `one` as what a weight of 1 is kept as.
  void write_again(const Item<Acc>& item, const Block& block, const RowState<Acc>& state, Acc one) {
    for (Index i = 0; i < block.rows; ++i)
      if (overflowed_[block.first_row + i]) write_row(item, block, i, state.from(i), one);
  }
  void forget_overflows() { some_overflowed_ = false; }

 private:
  void note_overflows(const Block& block, const RowState<Acc>& state) {
    // What stands behind a row's value_dim, in values and so in sums, may be anything.
    const Index dim = call_.kv.value_dim, whole = round_down(dim, simd::padding);
    const auto finite = [&](const RowState<Acc>& s, Index rows) {
      bool all = kernels_.wide.all_finite(s.o, s.stride, rows, whole);
      for (Index i = 0; i < rows; ++i)
        for (Index c = whole; c < dim; ++c) all &= std::isfinite(s.o[i * s.stride + c]);
      return all;
    };
    const bool none = finite(state, block.rows);
    some_overflowed_ |= !none;
    for (Index i = 0; i < block.rows; ++i)
      overflowed_[block.first_row + i] = !none && !finite(state.from(i), 1);
  }

  void keep(const Item<Acc>& item, Index row, const RowState<Acc>& state, Acc one) {
    if (call_.keep) call_.keep.from(item.call_row(row)).copy(state, 1, 1 / one);
  }

  void write_row(const Item<Acc>& item, const Block& block, Index i, const RowState<Acc>& state, Acc one) {
    const Index row = block.first_row + i, token = item.token(row), q_head = item.q_head(row);
    keep(item, row, state, one);
    if (call_.sinks != nullptr) {
      sink_.see_one(static_cast<Acc>((*call_.sinks)(q_head)), one);
      state.merge(sink_, 1, kernels_.rows);
    }
    const Acc sum = state.sum[0];
    const Index out_bytes = call_.kv.value_dim * call_.out_format.bytes;
    std::byte* out = item.queries.out.at(0, token, q_head);
    if (token + tuning::rows_ahead < block.tokens.end)
      prefetch(out + tuning::rows_ahead * item.queries.out.token_stride, static_cast<std::size_t>(out_bytes));
    if (sum == Acc{0})
      std::fill(out, out + out_bytes, std::byte{});
    else if (one == Acc{1})
      call_.out_format.convert->narrow(state.o, call_.kv.value_dim, Acc{1} / sum, out);
    else
      call_.out_format.convert->narrow(mean_of(state.o, sum), call_.kv.value_dim, Acc{1}, out);
    if (item.queries.lse.data != nullptr)
      *reinterpret_cast<Acc*>(item.queries.lse.at(0, token, q_head)) = lse_of(state.max[0], sum / one);
  }

  /// o / sum, in place; a mean of finite values is finite, however it was rounded.
  Acc* mean_of(Acc* o, Acc sum) const {
    constexpr Acc largest = std::numeric_limits<Acc>::max();
    for (Index c = 0; c < call_.kv.value_dim; ++c)
      o[c] = std::isfinite(o[c]) ? std::clamp(o[c] / sum, -largest, largest) : o[c] / sum;
    return o;
  }

  const Call<Acc>& call_;
  const CallKernels<Acc>& kernels_;
  bool* overflowed_;  // a row of the item
  RowState<Acc> sink_;
  bool some_overflowed_ = false;
};

}  // namespace gqa::detail
