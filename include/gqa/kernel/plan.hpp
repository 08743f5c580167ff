// SPDX-License-Identifier: Apache-2.0
// How a call of attention is cut into work. Pure functions of sizes: nothing here can change a bit of any
// result.
#pragma once

#include <algorithm>
#include <vector>

#include "gqa/core/shape.hpp"
#include "gqa/simd/product.hpp"

namespace gqa {

using simd::tile_keys;

/// The KV axis is cut into chunks at multiples of this position, whatever the threads, the batch or the
/// cache. A chunk's softmax is taken whole and chunks merge in ascending order, so how work is split shows in
/// no bit. 512 keys: a merge (2 FMAs an element of the output) costs 1/256 of the products of a chunk, and
/// the 6 score rows of a register tile (12 kB) leave L1 to the keys.
inline constexpr Index chunk_tiles = 8;
inline constexpr Index chunk_keys = chunk_tiles * tile_keys;

/// What one task computes: the queries `q` (indices into the sequence's own) of one sequence that share
/// `kv_head`, against the positions `kv`. Prefill slices q, decode slices kv; nothing else differs.
struct WorkItem {
  Index seq = 0;
  Index kv_head = 0;
  Range q;
  Range kv;
  Index split = -1;  ///< which group of items shares these queries; -1: this item has all their keys
  Index slot = 0;    ///< where its first chunk's result is kept until the split's other items are done
};

/// Items that share their queries: how many are to finish before their chunks, in consecutive slots, can
/// merge.
struct Split {
  Index num_items = 0;
  Index first_slot = 0;
  Index num_slots = 0;
};

/// Block sizes in query rows: of a task, and of the part of it whose scores stay in the second-level cache.
struct BlockSizes {
  Index task_rows;
  Index block_rows;
};

/// Rows a block has: its scores (chunk_keys floats a row), queries, outputs and chunk outputs (head_dim or
/// value_dim floats each) fill at most half of `cache_bytes`; the other half holds the chunk's keys and
/// values. A task has enough blocks to share the packing of a chunk, which costs as much as about 30 rows
/// where a caller's rows lie pages apart, until it is about 1 %.
constexpr BlockSizes block_sizes(Index head_dim, Index value_dim, Index scalar_bytes, Index cache_bytes) {
  // Sizes that overflow are refused elsewhere; here they only must not.
  constexpr Index enough = Index{1} << 32;
  const Index row_bytes =
      (chunk_keys + std::min(head_dim, enough) + 2 * std::min(value_dim, enough)) * scalar_bytes;
  const Index block =
      std::clamp<Index>(round_down(cache_bytes / 2 / std::max<Index>(row_bytes, 1), 24), 24, 192);
  return {16 * block, block};
}

/// One sequence as the planner sees it: how many query tokens, and which positions its queries can see at
/// all.
struct PlanSequence {
  Index num_q_tokens = 0;
  Range kv;
};

struct PlanSizes {
  Index num_kv_heads = 1;
  Index group_size = 1;
  Index head_dim = 1;
  Index value_dim = 1;
  Index kv_bytes = 4;  ///< of one stored element
  Index num_threads = 1;
  BlockSizes blocks = {768, 192};
};

/// The tasks of a call and what they need.
struct Plan {
  std::vector<WorkItem> items;
  Index num_workers = 0;
  std::vector<Split> splits;
  Index num_slots = 0;  ///< chunk results to keep until their split is complete
  Index max_rows = 0;   ///< query rows of the largest item
};

/// A call worth less than this runs on one thread: waking another takes about 10 us here, and what the caches
/// hold takes a third of the estimate below.
inline constexpr double min_parallel_ns = 50000;

/// More threads than this are not told apart: what an executor claims to have must not overflow.
inline constexpr Index most_threads = Index{1} << 16;

namespace detail {

/// Nanoseconds one thread takes: the keys and values at 16 bytes a ns, or the two products at 80 FLOP a ns.
inline double estimate_ns(const PlanSizes& sizes, Index q_tokens, Index keys) {
  const double elements = static_cast<double>(keys) * static_cast<double>(sizes.head_dim + sizes.value_dim);
  const double bytes = elements * static_cast<double>(sizes.kv_bytes * sizes.num_kv_heads);
  const double flops = 2 * elements * static_cast<double>(q_tokens * sizes.group_size * sizes.num_kv_heads);
  return std::max(bytes / 16, flops / 80);
}

}  // namespace detail

/// Cuts `num_seqs` sequences into work items, into `plan` (whose memory is reused). `sequence(i)` is a
/// PlanSequence. A task has at most blocks.task_rows query rows; where that leaves too few for the threads,
/// first the queries and then the keys are cut finer, down to one block of rows and one chunk of keys.
template <class SequenceAt>
void make_plan(const PlanSizes& sizes, Index num_seqs, SequenceAt&& sequence, Plan& plan) {
  plan.items.clear();
  plan.splits.clear();
  plan.num_slots = plan.max_rows = 0;
  double total_ns = 0;
  Index task_tokens = std::max<Index>(1, sizes.blocks.task_rows / sizes.group_size);
  const Index block_tokens = std::max<Index>(1, sizes.blocks.block_rows / sizes.group_size);
  Index num_tasks = 0;
  for (Index seq = 0; seq < num_seqs; ++seq) {
    const PlanSequence s = sequence(seq);
    total_ns += detail::estimate_ns(sizes, s.num_q_tokens, s.kv.size());
    num_tasks += ceil_div(s.num_q_tokens, task_tokens) * sizes.num_kv_heads;
  }
  const Index num_threads = std::clamp<Index>(sizes.num_threads, 1, most_threads);
  const bool parallel = num_threads > 1 && total_ns >= min_parallel_ns;
  // Four tasks a thread leave at most a quarter of one thread's share to wait for at the end.
  const Index wanted = parallel ? 4 * num_threads : 1;
  for (; parallel && num_tasks < wanted && task_tokens > block_tokens;) {
    task_tokens = std::max(block_tokens, ceil_div(task_tokens, 2));
    num_tasks = 0;
    for (Index seq = 0; seq < num_seqs; ++seq)
      num_tasks += ceil_div(sequence(seq).num_q_tokens, task_tokens) * sizes.num_kv_heads;
  }
  const Index splits_wanted = num_tasks == 0 ? 1 : ceil_div(wanted, num_tasks);

  for (Index seq = 0; seq < num_seqs; ++seq) {
    const PlanSequence s = sequence(seq);
    const Range chunks = {s.kv.begin / chunk_keys, ceil_div(s.kv.end, chunk_keys)};
    const Index splits = s.kv.empty() ? 1 : std::min(splits_wanted, chunks.size());
    // The last queries of a causal prefill see the most keys: they go first, so that the end is made of small
    // tasks.
    for (Index begin = round_down(std::max<Index>(s.num_q_tokens - 1, 0), task_tokens);
         begin >= 0 && s.num_q_tokens > 0; begin -= task_tokens) {
      const Range q = {begin, std::min(begin + task_tokens, s.num_q_tokens)};
      plan.max_rows = std::max(plan.max_rows, q.size() * sizes.group_size);
      for (Index kv_head = 0; kv_head < sizes.num_kv_heads; ++kv_head) {
        if (splits == 1) {
          plan.items.push_back({seq, kv_head, q, s.kv, -1, 0});
          continue;
        }
        for (Index part = 0; part < splits; ++part) {
          const Index first = chunks.begin + chunks.size() * part / splits;
          const Index last = chunks.begin + chunks.size() * (part + 1) / splits;
          plan.items.push_back({seq, kv_head, q, intersect({first * chunk_keys, last * chunk_keys}, s.kv),
                                static_cast<Index>(plan.splits.size()),
                                plan.num_slots + first - chunks.begin});
        }
        plan.splits.push_back({splits, plan.num_slots, chunks.size()});
        plan.num_slots += chunks.size();
      }
    }
  }
  plan.num_workers = parallel ? std::min<Index>(num_threads, static_cast<Index>(plan.items.size())) : 1;
}

}  // namespace gqa
