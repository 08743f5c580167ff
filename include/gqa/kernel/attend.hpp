// SPDX-License-Identifier: Apache-2.0
// One attention call, from its plan to its last merge; what happens inside an item is the worker's.
#pragma once

#include "gqa/core/parallel.hpp"
#include "gqa/kernel/call.hpp"
#include "gqa/kernel/workspace.hpp"

namespace gqa::detail {

/// Runs a call: the executor gets one task a worker, and the workers share the items out among themselves.
template <class Acc>
void attend(const ExecutorRef& executor, const Call<Acc>& call, Workspace& workspace);

/// What a workspace comes to hold by a call, in bytes.
template <class Acc>
Index call_bytes(const Call<Acc>& call, Index num_threads, Workspace& workspace);

}  // namespace gqa::detail

#ifdef GQA_COMPILED  // they are in the library that gqa::compiled links
#define GQA_EXTERN extern
#include "gqa/kernel/instantiate.inl"
#undef GQA_EXTERN
#else
#include "gqa/kernel/run_call.hpp"
#endif
