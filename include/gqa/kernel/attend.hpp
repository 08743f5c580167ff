// SPDX-License-Identifier: Apache-2.0
// One attention call, from its plan to its last merge; what happens inside an item is the worker's.
#pragma once

#include <atomic>
#include <type_traits>

#include "gqa/core/parallel.hpp"
#include "gqa/kernel/worker.hpp"

namespace gqa::detail {

/// The memory of a call, laid out in one arena: what the workers share, then each worker's own.
template <class Call>
struct CallMemory {
  using Acc = typename Call::Acc;
  using Worker = detail::Worker<Call>;

  Index* unfinished = nullptr;  // items of each split
  RowState<Acc> slots;
  std::byte* workers = nullptr;
  Index worker_bytes = 0;

  CallMemory(Arena& arena, const Call& call, const ProductKernels<typename Call::T>& products,
             const PlanSizes& sizes, const Plan& plan) {
    unfinished = arena.take<Index>(static_cast<Index>(plan.splits.size()));
    slots =
        RowState<Acc>(arena, checked_mul(plan.num_slots, plan.max_rows, "workspace"), call.value_stride());
    Arena measure;
    Worker(measure, call, products, sizes.blocks, plan.max_rows);
    worker_bytes = measure.used();
    workers = arena.take<std::byte>(checked_mul(worker_bytes, plan.num_workers, "workspace"));
  }
};

/// Plans a call for `num_threads` threads.
template <class Call>
PlanSizes plan_call(const Call& call, Index num_threads, Plan& plan) {
  PlanSizes sizes;
  sizes.num_kv_heads = call.heads.num_kv_heads;
  sizes.group_size = call.heads.group_size;
  sizes.head_dim = call.view.head_dim();
  sizes.value_dim = call.view.value_dim();
  sizes.kv_bytes = sizeof(typename Call::T);
  sizes.num_threads = num_threads;
  sizes.blocks = block_sizes(sizes.head_dim, sizes.value_dim, sizeof(typename Call::Acc), cache_bytes);
  make_plan(
      sizes, call.num_seqs,
      [&](Index seq) {
        const auto queries = call.queries(seq);
        Range kv = call.view.retained(seq);
        if (!varies_by_head(call.mask)) {
          const Range q = {queries.first_position, queries.first_position + queries.tokens};
          using PlannedMask = GroupMask<typename Call::MaskType>;
          typename PlannedMask::Memory memory;
          const PlannedMask mask(call.mask, call.heads, seq, 0, queries.first_position,
                                 queries.position_shift, &memory);
          kv = intersect(kv, mask.bounds(q));
        }
        return PlanSequence{queries.tokens, kv};
      },
      plan);
  return sizes;
}

template <class Call>
ProductKernels<typename Call::T> product_kernels(const Call& call) {
  using TQ = std::remove_const_t<std::remove_pointer_t<decltype(call.queries(0).q)>>;
  return {isa(), std::is_same_v<TQ, bfloat16>};
}

/// The memory a call needs, in bytes.
template <class Call>
Index call_bytes(const Call& call, Index num_threads) {
  Plan plan;
  const PlanSizes sizes = plan_call(call, num_threads, plan);
  if (plan.items.empty()) return 0;
  Arena measure;
  CallMemory<Call>(measure, call, product_kernels(call), sizes, plan);
  return measure.used() + static_cast<Index>(plan.items.capacity() * sizeof(WorkItem) +
                                             plan.splits.capacity() * sizeof(Split));
}

/// Runs a call: `executor` gets one task a worker, and the workers share the items out among themselves.
template <Executor E, class Call>
void attend(E& executor, const Call& call, Workspace& workspace) {
  Plan& plan = workspace.plan();
  const PlanSizes sizes = plan_call(call, executor.num_threads(), plan);
  if (plan.items.empty()) return;
  const auto products = product_kernels(call);
  Arena measure;
  CallMemory<Call>(measure, call, products, sizes, plan);
  Arena arena(workspace.reserve(measure.used()));
  const CallMemory<Call> memory(arena, call, products, sizes, plan);
  for (std::size_t i = 0; i < plan.splits.size(); ++i) memory.unfinished[i] = plan.splits[i].num_items;

  std::atomic<std::size_t> next{0};
  const auto work = [&](Index index) {
    Arena own(memory.workers + index * memory.worker_bytes);
    Worker<Call> worker(own, call, products, sizes.blocks, plan.max_rows);
    for (std::size_t i = next++; i < plan.items.size(); i = next++) {
      const WorkItem& item = plan.items[i];
      worker.run(item, memory.slots, plan.max_rows);
      if (item.split < 0) continue;
      // Whoever finishes a split's last item merges it; its writes to the slots are seen through the counter.
      if (std::atomic_ref(memory.unfinished[item.split]).fetch_sub(1, std::memory_order_acq_rel) == 1)
        worker.finish_split(item, plan.splits[static_cast<std::size_t>(item.split)], memory.slots,
                            plan.max_rows);
    }
  };
  if (plan.num_workers == 1)
    work(0);
  else
    executor.parallel_for(plan.num_workers, work);
}

}  // namespace gqa::detail
