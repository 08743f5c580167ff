// SPDX-License-Identifier: Apache-2.0
// What a caller may say beside the tensors, but for masks and score functions.
#pragma once

#include <optional>
#include <span>
#include <type_traits>

#include "gqa/core/tensor.hpp"
#include "gqa/kernel/row_state.hpp"
#include "gqa/kernel/tuning.hpp"
#include "gqa/kernel/workspace.hpp"

namespace gqa {

/// What is not said by the tensors. Everything may be left out.
struct AttentionOptions {
  std::optional<double> scale = {};  ///< multiplies q k; 1 / sqrt(head_dim) unless given
  std::optional<Index> q_offset =
      {};  ///< position of the first query; the last query sits on the last key unless given
  std::span<const Index> q_offsets = {};  ///< the same, one for each sequence
  Workspace* workspace = nullptr;  ///< memory to work in, kept by the caller; none: allocated for the call
  Tuning tuning = {};  ///< how attention() and cascade_attention() cut their work; other calls refuse one
};

template <class T>
struct LseOutput {
  RowsView<T> rows;
};

/// Where the log-sum-exp of each row goes: tokens x num_q_heads (batch first, if any; column-major tensors in
/// reverse), float, or double for doubles. Refers to the tensor's memory, so a temporary that owns its own
/// does not compile.
template <class Tensor>
auto lse_into(Tensor&& tensor) {
  auto rows = as_rows(tensor);
  using T = std::remove_pointer_t<decltype(rows.data)>;
  static_assert(!std::is_const_v<T>, "gqa: lse is const, and is to be written");
  return LseOutput<T>{rows};
}
template <detail::TemporaryTensor Tensor>
void lse_into(Tensor&&) = delete;

template <class Acc>
struct StateOutput {
  OnlineSoftmax<Acc>* state;
};

/// Where the unnormalised state of each row goes, {o, max, sum} over the keys that it sees, without the
/// learned sink: row token * num_q_heads + q_head, the tokens of a batch one sequence after another, by the
/// accumulator's type. It merges with the states of other keys, and another call may resume it: an overflow
/// that attention() itself repairs (sums beyond the largest number) stands in it as inf.
template <class Acc>
StateOutput<Acc> state_into(OnlineSoftmax<Acc>& state) {
  return {&state};
}

template <class Acc>
struct ResumedState {
  const OnlineSoftmax<Acc>* state;
};

/// Lets a call go on from the state of its rows over other keys, as state_into() gives it; it may be the
/// same. Where the state's keys end and the call's begin at a multiple of merge_keys positions, the result
/// has the bits of one call over all of them; elsewhere it is the same up to rounding.
template <class Acc>
ResumedState<Acc> resume(const OnlineSoftmax<Acc>& state) {
  return {&state};
}
template <class Acc>
void resume(const OnlineSoftmax<Acc>&&) = delete;

}  // namespace gqa
