// SPDX-License-Identifier: Apache-2.0
// How a call of attention is cut into work. Pure functions of sizes: nothing here can change a bit of any
// result.
#pragma once

#include <algorithm>
#include <utility>

#include "gqa/kernel/plan.hpp"

namespace gqa::detail {

/// One sequence as the planner sees it: how many query tokens, and which positions its queries can see at
/// all.
struct PlanSequence {
  Index num_q_tokens = 0;
  Ranges kv;
  Index shift = 0;  ///< see Split
};

struct PlanSizes {
  Index num_kv_heads = 1;
  Index group_size = 1;
  Index head_dim = 1;
  Index value_dim = 1;
  Index kv_bytes = 4;  ///< of one stored element
  Index num_threads = 1;
  tuning::BlockSizes blocks = {768, 192};
  Index tasks_per_thread = tuning::tasks_per_thread;
  double min_parallel_ns = tuning::min_parallel_ns;  ///< less than this is one thread's work
};

/// Puts what the caller said about cutting the work in place of what was chosen.
inline void apply(const Tuning& given, PlanSizes& sizes) {
  if (given.threads > 0) {
    sizes.num_threads = std::min(sizes.num_threads, given.threads);
    sizes.min_parallel_ns = 0;
  }
  if (given.block_rows > 0) sizes.blocks = {16 * given.block_rows, given.block_rows};
  if (given.task_rows > 0) sizes.blocks.task_rows = given.task_rows;
  if (given.tasks_per_thread > 0) sizes.tasks_per_thread = given.tasks_per_thread;
}

/// Nanoseconds one thread takes for one sequence.
inline double estimate_ns(const PlanSizes& sizes, const PlanSequence& sequence) {
  const double elements = static_cast<double>(sequence.kv.positions()) *
                          static_cast<double>(sizes.head_dim + sizes.value_dim) *
                          static_cast<double>(sizes.num_kv_heads);
  return tuning::estimate_ns(elements, static_cast<double>(sizes.kv_bytes),
                             static_cast<double>(sequence.num_q_tokens * sizes.group_size));
}

/// Sequences as the planner sees them, one asked for again and again where there is but one.
class PlanSequences {
 public:
  explicit PlanSequences(FunctionRef<PlanSequence(Index)> sequence) : sequence_(sequence) {}

  [[gnu::noinline]] const PlanSequence& operator[](Index seq) {
    if (seq != std::exchange(last_seq_, seq)) last_ = sequence_(seq);
    return last_;
  }

 private:
  FunctionRef<PlanSequence(Index)> sequence_;
  PlanSequence last_;
  Index last_seq_ = -1;
};

/// Cuts `num_seqs` sequences into work items, into `plan` (whose memory is reused). `sequence(i)` is a
/// PlanSequence. A task has at most blocks.task_rows query rows; where that leaves too few for the threads,
/// first the queries and then the keys are cut finer, down to one block of rows and one chunk of keys.
inline void make_plan(const PlanSizes& sizes, Index num_seqs, FunctionRef<PlanSequence(Index)> sequence,
                      Plan& plan) {
  PlanSequences sequences(sequence);
  plan.items.clear();
  plan.splits.clear();
  plan.num_slots = plan.max_rows = 0;
  plan.several_units = false;
  double total_ns = 0;
  Index task_tokens = std::max<Index>(1, sizes.blocks.task_rows / sizes.group_size);
  const Index block_tokens = std::max<Index>(1, sizes.blocks.block_rows / sizes.group_size);
  Index num_tasks = 0;
  for (Index seq = 0; seq < num_seqs; ++seq) {
    const PlanSequence& s = sequences[seq];
    total_ns += estimate_ns(sizes, s);
    num_tasks += ceil_div(s.num_q_tokens, task_tokens) * sizes.num_kv_heads;
  }
  const Index num_threads = std::clamp<Index>(sizes.num_threads, 1, tuning::most_threads);
  const bool parallel = num_threads > 1 && total_ns >= sizes.min_parallel_ns;
  const Index wanted = parallel ? sizes.tasks_per_thread * num_threads : 1;
  for (; parallel && num_tasks < wanted && task_tokens > block_tokens;) {
    task_tokens = std::max(block_tokens, ceil_div(task_tokens, 2));
    num_tasks = 0;
    for (Index seq = 0; seq < num_seqs; ++seq)
      num_tasks += ceil_div(sequences[seq].num_q_tokens, task_tokens) * sizes.num_kv_heads;
  }
  const Index splits_wanted = num_tasks == 0 ? 1 : ceil_div(wanted, num_tasks);

  for (Index seq = 0; seq < num_seqs; ++seq) {
    const PlanSequence& s = sequences[seq];
    const Range hull = s.kv.hull();
    Split split{.chunks = ChunkList(s.kv), .shift = s.shift};
    split.num_items = std::max<Index>(1, std::min(splits_wanted, split.chunks.size()));
    plan.several_units |=
        !hull.empty() && (hull.begin + s.shift) / merge_keys != (hull.end - 1 + s.shift) / merge_keys;
    // The last queries of a causal prefill see the most keys: they go first, so that the end is made of small
    // tasks.
    for (Index begin = round_down(std::max<Index>(s.num_q_tokens - 1, 0), task_tokens);
         begin >= 0 && s.num_q_tokens > 0; begin -= task_tokens) {
      const Range q = {begin, std::min(begin + task_tokens, s.num_q_tokens)};
      plan.max_rows = std::max(plan.max_rows, q.size() * sizes.group_size);
      for (Index kv_head = 0; kv_head < sizes.num_kv_heads; ++kv_head) {
        const bool whole = split.num_items == 1;
        split.first_slot = plan.num_slots;
        for (Index part = 0; part < split.num_items; ++part) {
          WorkItem item{.seq = seq, .kv_head = kv_head, .q = q, .kv = hull};
          if (!whole) {
            const Range numbers = split.part(part);
            item.kv = intersect(hull, {split.chunks[numbers.begin] * chunk_keys,
                                       (split.chunks[numbers.end - 1] + 1) * chunk_keys});
            item.split = static_cast<Index>(plan.splits.size());
            item.part = part;
            item.slot = plan.num_slots;
            plan.num_slots += split.for_slots(part, plan.num_slots, [](const Slot&) {});
          }
          plan.items.push_back(item);
        }
        if (whole) continue;
        split.num_slots = plan.num_slots - split.first_slot;
        plan.splits.push_back(split);
      }
    }
  }
  plan.num_workers = parallel ? std::min<Index>(num_threads, static_cast<Index>(plan.items.size())) : 1;
}

}  // namespace gqa::detail
