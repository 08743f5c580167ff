// SPDX-License-Identifier: Apache-2.0
// Scores and probabilities of chosen rows, for those who want to look at them.
#pragma once

#include "gqa/core/parallel.hpp"
#include "gqa/kernel/call.hpp"
#include "gqa/kernel/item.hpp"
#include "gqa/kernel/make_call.hpp"
#include "gqa/kernel/workspace.hpp"

namespace gqa::detail {

/// What is wanted of some rows. Keys that are not seen are -inf among scores and 0 among probabilities.
template <class Acc>
struct RowsWanted {
  bool probabilities = false;
  /// Where the values of a row of the item go, from its first retained key on, or null: they are told.
  FunctionRef<Acc*(const WorkItem& work, const Item<Acc>& item, Index row)> place;
  /// Part of a row: the row of the item, its keys, and their values, or none of those where nothing is seen.
  /// All that is retained is told once, in ascending order.
  FunctionRef<void(const WorkItem& work, const Item<Acc>& item, Index row, Range keys, std::span<const Acc>)>
      tell;
  /// The lse of a row, where probabilities are wanted.
  FunctionRef<void(const WorkItem& work, const Item<Acc>& item, Index row, Acc lse)> tell_lse;
};

/// Query tokens that are multiplied at once.
template <class Acc>
Index score_rows_tokens(const Call<Acc>& call) {
  const Index rows = tuning::block_sizes(call.kv.head_dim, 0, sizeof(Acc)).block_rows;
  return std::max<Index>(1, rows / call.heads.group_size);
}

/// Tells the rows of `items`, of at most score_rows_tokens() tokens each, on the executor's threads.
template <class Acc>
void score_rows(const ExecutorRef& executor, const Call<Acc>& call, std::span<const WorkItem> items,
                const RowsWanted<Acc>& wanted, Workspace& workspace);

}  // namespace gqa::detail

#ifdef GQA_COMPILED  // they are in the library that gqa::compiled links
#define GQA_EXTERN extern
#include "gqa/kernel/instantiate_score_rows.inl"
#undef GQA_EXTERN
#else
#include "gqa/kernel/run_score_rows.hpp"
#endif
