// SPDX-License-Identifier: Apache-2.0
// The definitions behind attend.hpp.
#pragma once

#include <atomic>

#include "gqa/kernel/attend.hpp"
#include "gqa/kernel/make_call.hpp"
#include "gqa/kernel/make_plan.hpp"
#include "gqa/kernel/worker.hpp"

namespace gqa::detail {

/// The memory of a call, laid out in one arena: what the workers share, then each worker's own.
template <class Acc>
struct CallMemory {
  Index* unfinished = nullptr;  // items of each split
  RowState<Acc> slots;
  std::byte* workers = nullptr;
  Index worker_bytes = 0;

  CallMemory(Arena& arena, const Call<Acc>& call, const CallKernels<Acc>& kernels, const Plan& plan,
             Index block_rows) {
    unfinished = arena.take<Index>(static_cast<Index>(plan.splits.size()));
    slots =
        RowState<Acc>(arena, checked_mul(plan.num_slots, plan.max_rows, "workspace"), call.value_stride());
    Arena measure;
    Worker<Acc>(measure, call, kernels, plan, block_rows);
    worker_bytes = measure.used();
    workers = arena.take<std::byte>(worker_bytes, plan.num_workers);
  }
};

/// What a sequence's queries may see at all. Masks that differ by head are not asked: each of a group's would
/// have to be.
template <class Acc>
PlanSequence plan_sequence(const Call<Acc>& call, Index seq) {
  const Ranges retained = call.kv.retained(seq);
  const auto queries = call.queries(seq, retained.hull().end);
  PlanSequence planned{queries.tokens, retained, queries.position_shift};
  if (call.mask.variation != HeadVariation::none || queries.tokens == 0) return planned;
  alignas(64) std::byte memory[1024];
  const bool fits = call.mask.bytes(1) <= Index{sizeof memory};
  const AlignedArray<std::byte> more =
      fits ? AlignedArray<std::byte>()
           : allocate_aligned<std::byte>(static_cast<std::size_t>(call.mask.bytes(1)));
  const GroupMask mask(call.mask, call.heads, seq, 0, queries.first_position, queries.position_shift,
                       fits ? memory : more.get());
  planned.kv = visible_ranges(mask, queries.positions(), retained);
  return planned;
}

/// Plans a call for `num_threads` threads. Returns the rows of a block.
template <class Acc>
Index plan_call(const Call<Acc>& call, Index num_threads, Plan& plan) {
  PlanSizes sizes{.num_kv_heads = call.heads.num_kv_heads,
                  .group_size = call.heads.group_size,
                  .head_dim = call.kv.head_dim,
                  .value_dim = call.kv.value_dim,
                  .kv_bytes = call.kv.format->bytes,
                  .num_threads = num_threads,
                  .blocks = tuning::block_sizes(call.kv.head_dim, call.kv.value_dim, sizeof(Acc))};
  apply(call.tuning, sizes);
  make_plan(
      sizes, call.num_seqs, [&](Index seq) { return plan_sequence(call, seq); }, plan);
  return sizes.blocks.block_rows;
}

template <class Acc>
CallKernels<Acc> call_kernels(const Call<Acc>& call) {
  return {*call.kv.format, call.q_format.is_bf16, isa()};
}

template <class Acc>
Index call_bytes(const Request<Acc>& request, Index num_threads) {
  const Call<Acc> call = checked_call(request);
  return with_workspace(*request.options, [&](Workspace& workspace) {
    Plan& plan = workspace.plan();
    const Index block_rows = plan_call(call, num_threads, plan);
    if (plan.items.empty()) return workspace.bytes();
    Arena measure;
    CallMemory<Acc>(measure, call, call_kernels(call), plan, block_rows);
    return workspace.bytes_with(measure.used());
  });
}

template <class Acc>
void attend(const ExecutorRef& executor, const Call<Acc>& call, Workspace& workspace) {
  Plan& plan = workspace.plan();
  const Index block_rows = plan_call(call, executor.num_threads, plan);
  if (plan.items.empty()) return;
  const auto kernels = call_kernels(call);
  Arena measure;
  CallMemory<Acc>(measure, call, kernels, plan, block_rows);
  Arena arena(workspace.reserve(measure.used()));
  const CallMemory<Acc> memory(arena, call, kernels, plan, block_rows);
  for (std::size_t i = 0; i < plan.splits.size(); ++i) memory.unfinished[i] = plan.splits[i].num_items;

  std::atomic<std::size_t> next{0};
  const auto work = [&](Index index) {
    Arena own(memory.workers + index * memory.worker_bytes);
    Worker<Acc> worker(own, call, kernels, plan, block_rows);
    for (std::size_t i = next++; i < plan.items.size(); i = next++) {
      const WorkItem& item = plan.items[i];
      if (item.split < 0) {
        worker.run(item);
        continue;
      }
      const Split& split = plan.splits[static_cast<std::size_t>(item.split)];
      // Whoever finishes a split's last item merges it; its writes to the slots are seen through the counter.
      worker.run_part(item, split, memory.slots, [&] {
        return std::atomic_ref(memory.unfinished[item.split]).fetch_sub(1, std::memory_order_acq_rel) == 1;
      });
    }
  };
  if (plan.num_workers == 1)
    work(0);
  else
    executor.parallel_for(plan.num_workers, work);
}

template <class Acc>
void attend(const ExecutorRef& executor, const Request<Acc>& request, const Results<Acc>& results) {
  const Call<Acc> call = checked_call(request, results);
  with_workspace(*request.options, [&](Workspace& workspace) { attend(executor, call, workspace); });
}

}  // namespace gqa::detail
