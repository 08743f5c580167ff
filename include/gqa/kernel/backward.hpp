// SPDX-License-Identifier: Apache-2.0
// What one call of attention_backward is asked to compute, and the way of it, beside that of attend.hpp:
//   make_backward_call       checks everything before anything is written
//   run_backward             slices of queries, memory, partial gradients merged in ascending order
//   backward_worker          a thread's slices: steps of keys, blocks of rows
//   backward_keys            reads a step's keys in both orders, and its values
//   backward_block           the five products of a block with a step
#pragma once

#include "gqa/core/parallel.hpp"
#include "gqa/kernel/call.hpp"
#include "gqa/kernel/gradient_outputs.hpp"
#include "gqa/kernel/workspace.hpp"

namespace gqa::detail {

/// The way back through a score function, behind a pointer; null where there is nothing to do.
template <class Acc>
struct ScoreGradient {
  const void* score = nullptr;
  void (*pull_back)(const void* score, std::span<const Acc> scores, std::span<Acc> d, const ScoreRow& at,
                    const ParameterSums& sums) = nullptr;

  explicit operator bool() const { return pull_back != nullptr; }
};

/// A call of backward, with sums in Acc.
template <class Acc>
struct BackwardCall {
  Call<Acc> forward;  // its out and lse are read
  StridedRows d_out, dq, dk, dv;
  RowFormat<Acc> d_out_format, dq_format, dk_format, dv_format;
  std::span<const Index> kv_offsets = {};  // of packed dk and dv; none: a batch of kv_tokens each
  Index kv_tokens = 0;

  ScoreGradient<Acc> score;
  AttentionExtent extent;  // of all sequences
  ParametersApart apart;
  ParameterOutput score_parameters, sinks;

  /// The rows of dk and dv that a sequence has, and the position of the first.
  Index kv_rows(Index seq) const { return kv_offsets.empty() ? kv_tokens : at(seq + 1) - at(seq); }
  Index first_kv_position(Index seq) const {
    return forward.kv.padded_tokens > 0 ? 0 : forward.kv.retained(seq).hull().begin;
  }
  std::byte* kv_row(const StridedRows& of, Index seq, Index kv_head, Index row) const {
    return kv_offsets.empty() ? of.at(seq, row, kv_head) : of.at(0, at(seq) + row, kv_head);
  }

 private:
  Index at(Index seq) const { return kv_offsets[static_cast<std::size_t>(seq)]; }
};

/// Runs a call: the executor gets one task a worker, and the workers share the items out among themselves.
template <class Acc>
void attend_backward(const ExecutorRef& executor, const BackwardCall<Acc>& call, Workspace& workspace);

}  // namespace gqa::detail

#ifdef GQA_COMPILED  // they are in the library that gqa::compiled links
#define GQA_EXTERN extern
#include "gqa/kernel/instantiate_backward.inl"
#undef GQA_EXTERN
#else
#include "gqa/kernel/run_backward.hpp"
#endif
