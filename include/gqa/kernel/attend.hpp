// SPDX-License-Identifier: Apache-2.0
// The way of a call, from what users write to the kernels and back:
//   attention.hpp            the entries; cascade, attention_weights and attention_scores stand beside it
//   extras, options          what is said beside the tensors, sorted once
//   make_request, request    puts tensors, views, masks and scores behind pointers: no types from here on
//   make_call, call          checks all of it
//   run_call, make_plan      memory, and items of work, by numbers that measurements chose (tuning)
//   worker, item             a thread's items: chunks of 512 keys, blocks of rows, merges
//   chunk                    reads a chunk's tiles (kv/view.hpp) and makes operands of them
//   score_block, seen_keys   Q K^T, softmax and P V of one block, where group_mask lets it see
//   row_state, finish        {o, max, sum} merged, then output and lse written
// Below it simd/product.hpp says what a kernel does, and simd/text/ does it for every instruction set.
#pragma once

#include "gqa/core/parallel.hpp"
#include "gqa/kernel/request.hpp"
#include "gqa/kernel/workspace.hpp"

namespace gqa::detail {

template <class Acc>
struct Call;

/// A call without an output, checked: queries at the end of each sequence, or where options say.
template <class Acc>
Call<Acc> checked_call(const Request<Acc>& request);

/// Checks a call and runs it.
template <class Acc>
void attend(const ExecutorRef& executor, const Request<Acc>& request, const Results<Acc>& results);

/// Runs a checked call: the executor gets one task a worker, and the workers share the items out among
/// themselves.
template <class Acc>
void attend(const ExecutorRef& executor, const Call<Acc>& call, Workspace& workspace);

/// What a workspace comes to hold by a call, in bytes.
template <class Acc>
Index call_bytes(const Request<Acc>& request, Index num_threads);

}  // namespace gqa::detail

#ifdef GQA_COMPILED  // they are in the library that gqa::compiled links
#define GQA_EXTERN extern
#include "gqa/kernel/instantiate.inl"
#undef GQA_EXTERN
#else
#include "gqa/kernel/run_call.hpp"
#endif
