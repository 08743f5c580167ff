// SPDX-License-Identifier: Apache-2.0
// The definitions behind backward.hpp.
#pragma once

#include <atomic>

#include "gqa/kernel/backward_worker.hpp"

namespace gqa::detail {

/// Cuts a call into items: a slice of one sequence's queries that share a KV head, against all keys. Slices
/// depend on lengths alone. Splits are of slices that share their keys; a slot is one step of keys.
template <class Acc>
Index plan_backward(const BackwardCall<Acc>& call, Index num_threads, Plan& plan) {
  const Call<Acc>& forward = call.forward;
  plan.items.clear();
  plan.splits.clear();
  plan.num_slots = plan.max_rows = 0;
  double total_ns = 0;
  Index most_slices = 1;
  for (Index seq = 0; seq < forward.num_seqs; ++seq) {
    const Range kv = forward.kv.retained(seq).hull();
    const Index tokens = forward.batch.tokens(seq);
    for (Index kv_head = 0; kv_head < forward.heads.num_kv_heads; ++kv_head) {
      const Index group_size = forward.heads.size(kv_head);
      const Index slices = group_size == 0 ? 1 : tuning::backward_slices(tokens, group_size, kv.size());
      most_slices = std::max(most_slices, slices);
      Split split;
      split.num_items = slices;
      split.first_slot = plan.num_slots;
      split.num_slots = ceil_div(kv.end, tuning::backward_keys) - kv.begin / tuning::backward_keys;
      // The last queries of a causal call see the most keys: they go first.
      for (Index part = slices - 1; part >= 0; --part) {
        const Range q = {tokens * part / slices, tokens * (part + 1) / slices};
        plan.items.push_back({.seq = seq,
                              .kv_head = kv_head,
                              .q = q,
                              .kv = kv,
                              .split = slices == 1 ? -1 : static_cast<Index>(plan.splits.size()),
                              .part = part,
                              .slot = split.first_slot + part * split.num_slots});
        plan.max_rows = std::max(plan.max_rows, checked_mul(q.size(), group_size, "workspace"));
        const double pairs = static_cast<double>(q.size() * group_size) * static_cast<double>(kv.size());
        total_ns += tuning::backward_ns(pairs, forward.kv.head_dim, forward.kv.value_dim);
      }
      if (slices == 1) continue;
      plan.num_slots =
          checked_add(plan.num_slots, checked_mul(slices, split.num_slots, "workspace"), "workspace");
      plan.splits.push_back(split);
    }
  }
  const Index threads = std::clamp<Index>(num_threads, 1, tuning::most_threads);
  const bool parallel = threads > 1 && total_ns >= tuning::min_parallel_ns;
  plan.num_workers = parallel ? std::min<Index>(threads, static_cast<Index>(plan.items.size())) : 1;
  return most_slices;
}

/// Sums of parameters that tasks add up each for itself, as far as they are not apart anyway.
class ParameterCopies {
 public:
  ParameterCopies(Arena& arena, Index size, ParametersApart apart, Index num_seqs, Index num_kv_heads,
                  Index num_slices)
      : size_(size),
        seqs_(apart.by_seq ? 1 : num_seqs),
        heads_(apart.by_kv_head ? 1 : num_kv_heads),
        slices_(apart.by_query ? 1 : num_slices),
        sums_(arena.take<double>(copies(), size)) {}

  void clear() const { std::fill_n(sums_, copies() * size_, 0.0); }

  /// Those of a task; none where there are no parameters.
  std::span<double> of(const WorkItem& item) const {
    if (size_ == 0) return {};
    const Index seq = seqs_ == 1 ? 0 : item.seq, head = heads_ == 1 ? 0 : item.kv_head;
    const Index slice = slices_ == 1 ? 0 : item.part;
    return {sums_ + ((seq * heads_ + head) * slices_ + slice) * size_, static_cast<std::size_t>(size_)};
  }

  /// All tasks' sums, in ascending order.
  void write(const ParameterOutput& to) const {
    for (Index i = 0; i < size_; ++i) {
      double sum = 0;
      for (Index copy = 0; copy < copies(); ++copy) sum += sums_[copy * size_ + i];
      to.write(i, sum);
    }
  }

 private:
  Index copies() const { return checked_mul(checked_mul(seqs_, heads_, "workspace"), slices_, "workspace"); }

  Index size_, seqs_, heads_, slices_;
  double* sums_;
};

/// The memory of a call, laid out in one arena: what the workers share, then each worker's own.
template <class Acc>
struct BackwardMemory {
  Index step_size;  // elements of a step's dk and dv
  Index* unfinished;
  bool* seen;  // of each slot
  Acc* slots;
  ParameterCopies score_sums, sink_sums;
  Index worker_bytes = 0;
  std::byte* workers = nullptr;

  BackwardMemory(Arena& arena, const BackwardCall<Acc>& call, const CallKernels<Acc>& kernels,
                 const Plan& plan, Index most_slices)
      : step_size(checked_mul(tuning::backward_keys,
                              round_up(call.forward.kv.head_dim, simd::padding) + call.forward.value_stride(),
                              "workspace")),
        unfinished(arena.take<Index>(static_cast<Index>(plan.splits.size()))),
        seen(arena.take<bool>(plan.num_slots)),
        slots(arena.take<Acc>(plan.num_slots, step_size)),
        score_sums(arena, call.score_parameters.size, call.apart, call.forward.num_seqs,
                   call.forward.heads.num_kv_heads, most_slices),
        sink_sums(arena, call.sinks.size, {.by_kv_head = true}, call.forward.num_seqs,
                  call.forward.heads.num_kv_heads, most_slices) {
    Arena measure;
    BackwardWorker<Acc>(measure, call, kernels, plan.max_rows);
    worker_bytes = measure.used();
    workers = arena.take<std::byte>(worker_bytes, plan.num_workers);
  }

  KeyGradients<Acc> slot(const WorkItem& item) const {
    if (item.split < 0) return {};
    return {slots + item.slot * step_size, seen + item.slot, item.kv.begin / tuning::backward_keys,
            step_size};
  }
};

/// Adds up what the slices of a split kept of each step, in ascending order, and writes it.
template <class Acc>
void merge_slices(const BackwardCall<Acc>& call, const CallKernels<Acc>& kernels,
                  const BackwardMemory<Acc>& memory, const WorkItem& item, const Split& split) {
  KeyGradientWriter<Acc> writer(call, item.seq, item.kv_head);
  const Index first_step = item.kv.begin / tuning::backward_keys;
  for (Index i = 0; i < split.num_slots; ++i) {
    Acc* sum = nullptr;
    for (Index part = 0; part < split.num_items; ++part) {
      const Index slot = split.first_slot + part * split.num_slots + i;
      if (!memory.seen[slot]) continue;
      Acc* kept = memory.slots + slot * memory.step_size;
      if (sum == nullptr)
        sum = kept;
      else
        simd::score_kernels<Acc>(kernels.set).add(sum, memory.step_size, kept);
    }
    if (sum == nullptr) continue;
    PackedRows<Acc> dk, dv;
    dk.data = sum;
    dk.stride = round_up(call.forward.kv.head_dim, simd::padding);
    dv.data = sum + tuning::backward_keys * dk.stride;
    dv.stride = call.forward.value_stride();
    writer.write((first_step + i) * tuning::backward_keys, dk, dv);
  }
  writer.finish();
}

template <class Acc>
void attend_backward(const ExecutorRef& executor, const BackwardCall<Acc>& call, Workspace& workspace) {
  Plan& plan = workspace.plan();
  const Index most_slices = plan_backward(call, executor.num_threads, plan);
  const CallKernels<Acc> kernels(*call.forward.kv.format, false, isa());
  Arena measure;
  BackwardMemory<Acc>(measure, call, kernels, plan, most_slices);
  Arena arena(workspace.reserve(measure.used()));
  const BackwardMemory<Acc> memory(arena, call, kernels, plan, most_slices);
  for (std::size_t i = 0; i < plan.splits.size(); ++i) memory.unfinished[i] = plan.splits[i].num_items;
  std::fill_n(memory.seen, plan.num_slots, false);
  memory.score_sums.clear();
  memory.sink_sums.clear();

  std::atomic<std::size_t> next{0};
  const auto work = [&](Index index) {
    Arena own(memory.workers + index * memory.worker_bytes);
    BackwardWorker<Acc> worker(own, call, kernels, plan.max_rows);
    for (std::size_t i = next++; i < plan.items.size(); i = next++) {
      const WorkItem& item = plan.items[i];
      worker.run(item, {.keep = memory.slot(item),
                        .score_sums = {memory.score_sums.of(item), &call.extent},
                        .sink_sums = memory.sink_sums.of(item).data()});
      if (item.split < 0) continue;
      // Whoever finishes a split's last slice merges it; the others' writes are seen through the counter.
      if (std::atomic_ref(memory.unfinished[item.split]).fetch_sub(1, std::memory_order_acq_rel) == 1)
        merge_slices(call, kernels, memory, item, plan.splits[static_cast<std::size_t>(item.split)]);
    }
  };
  if (plan.num_workers == 1)
    work(0);
  else
    executor.parallel_for(plan.num_workers, work);
  if (call.score_parameters.data != nullptr) memory.score_sums.write(call.score_parameters);
  if (call.sinks.data != nullptr) memory.sink_sums.write(call.sinks);
}

}  // namespace gqa::detail
