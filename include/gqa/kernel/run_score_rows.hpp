// SPDX-License-Identifier: Apache-2.0
// The definitions behind score_rows.hpp.
#pragma once

#include <algorithm>
#include <atomic>
#include <limits>

#include "gqa/kernel/score_block.hpp"
#include "gqa/kernel/score_rows.hpp"

namespace gqa::detail {

/// A chunk whose scores stay while their rows' maxima and sums are found.
struct KeptChunk {
  Index chunk;
  Range columns;  // that have scores
};

/// The keys of a source without its values: no dims of them are read.
inline KVSource keys_alone(KVSource source) {
  source.value_dim = 0;
  return source;
}

/// One thread's part: the worker's own products and softmax, for the scores, the maximum and the sum of each
/// row, and then P = e^(S - lse) of them. The scores of the first chunks stay meanwhile; those of the others
/// are computed once more.
template <class Acc>
class ScoreRowsWorker {
 public:
  ScoreRowsWorker(Arena& arena, const Call<Acc>& call, const CallKernels<Acc>& kernels,
                  const RowsWanted<Acc>& wanted, Index max_rows, Index most_kept)
      : call_(call),
        kernels_(kernels),
        gradients_(simd::gradient_kernels<Acc>(kernels.set)),
        wanted_(wanted),
        most_kept_(most_kept),
        keys_(keys_alone(call.kv)),
        queries_(arena, call, max_rows, false),
        scores_(arena, call, kernels, max_rows, most_kept + 1),
        kept_(arena.take<KeptChunk>(most_kept)),
        rows_(arena.take<Acc*>(max_rows)),
        mask_memory_(arena.take<std::byte>(call.mask.bytes(call.heads.group_size))),
        total_(arena, max_rows, 0),
        block_(arena, max_rows, 0),
        chunk_(arena, keys_, kernels) {}

  void run(const WorkItem& work) {
    if (call_.heads.size(work.kv_head) == 0) return;
    const Item<Acc> item(call_, work, mask_memory_);
    const Block block = item.block(0, item.tokens.size());
    queries_.pack(item, block);
    for (Index row = 0; row < block.rows; ++row) rows_[row] = wanted_.place(work, item, row);
    num_kept_ = 0;
    if (wanted_.probabilities) sum_up(work, item, block);
    tell_chunks(work, item, block);
  }

 private:
  template <class F>
  static void for_chunks(const Item<Acc>& item, F&& f) {
    const Range hull = item.retained.hull();
    for (Index chunk = hull.begin / chunk_keys; chunk * chunk_keys < hull.end; ++chunk) f(chunk);
  }

  /// The scores of a chunk, as far as softmax() makes them; false where the block sees nothing of it.
  bool score(const Item<Acc>& item, const Block& block, Index chunk, Index place) {
    chunk_.begin(chunk);
    const Range keys = {chunk_.begin(), chunk_.begin() + chunk_keys};
    if (intersect(keys, item.mask.bounds(block.positions)).empty() ||
        !scores_.look(item, block, chunk_.begin()))
      return false;
    for (Index t = scores_.seen().first_tile; t <= scores_.seen().last_tile; ++t) {
      const Index begin = chunk_.begin() + t * tile_keys;
      if (scores_.seen().tiles[t] == Coverage::none) continue;
      for_common(item.retained, {begin, begin + tile_keys},
                 [&](Range read) { chunk_.read(item.seq, item.kv_head, read, block.rows); });
    }
    scores_.work_in(place);
    scores_.multiply_keys(queries_, block, chunk_);
    scores_.softmax(item, block, block_, true);
    return true;
  }

  /// The maximum and the sum of each row.
  void sum_up(const WorkItem& work, const Item<Acc>& item, const Block& block) {
    total_.clear(block.rows);
    for_chunks(item, [&](Index chunk) {
      if (!score(item, block, chunk, num_kept_)) return;
      total_.merge(block_, block.rows, kernels_.rows);
      if (num_kept_ < most_kept_) kept_[num_kept_++] = {chunk, scores_.seen().columns()};
    });
    for (Index row = 0; row < block.rows; ++row) {
      if (call_.sinks != nullptr) {
        block_.from(row).see_one(static_cast<Acc>((*call_.sinks)(item.q_head(row))), 1);
        total_.from(row).merge(block_.from(row), 1, kernels_.rows);
      }
      wanted_.tell_lse(work, item, row, lse_of(total_.max[row], total_.sum[row]));
    }
  }

  void tell_chunks(const WorkItem& work, const Item<Acc>& item, const Block& block) {
    Index place = 0;
    for_chunks(item, [&](Index chunk) {
      Range columns;
      if (place < num_kept_) {  // what was not kept before it is not seen
        if (kept_[place].chunk == chunk) {
          scores_.work_in(place);
          columns = kept_[place++].columns;
        }
      } else if (score(item, block, chunk, num_kept_)) {
        columns = scores_.seen().columns();
      }
      const Index begin = chunk * chunk_keys;
      const Range all = intersect(item.retained.hull(), {begin, begin + chunk_keys});
      const Range seen = intersect(all, shifted(columns, begin));
      for (Index row = 0; row < block.rows; ++row) tell_row(work, item, row, all, seen, begin);
    });
  }

  /// A row of a chunk of which keys `all` are retained, and scores there are of `seen`.
  void tell_row(const WorkItem& work, const Item<Acc>& item, Index row, Range all, Range seen, Index begin) {
    Acc* scores = scores_.row(row) + seen.begin - begin;
    Acc* to = rows_[row] == nullptr ? scores : rows_[row] + seen.begin - item.retained.hull().begin;
    if (wanted_.probabilities)
      gradients_.probabilities(
          {.scores = scores, .p = to, .columns = seen.size(), .max = total_.max[row], .sum = total_.sum[row]});
    else if (to != scores)
      std::copy(scores, scores + seen.size(), to);
    const Range before = {all.begin, seen.empty() ? all.end : seen.begin};
    const Range after = {seen.empty() ? all.end : seen.end, all.end};
    if (rows_[row] == nullptr) {
      if (!before.empty()) wanted_.tell(work, item, row, before, {});
      if (!seen.empty()) wanted_.tell(work, item, row, seen, {scores, static_cast<std::size_t>(seen.size())});
      if (!after.empty()) wanted_.tell(work, item, row, after, {});
      return;
    }
    const Acc nothing = wanted_.probabilities ? Acc{0} : -std::numeric_limits<Acc>::infinity();
    Acc* first = rows_[row] - item.retained.hull().begin;
    std::fill(first + before.begin, first + before.end, nothing);
    std::fill(first + after.begin, first + after.end, nothing);
  }

  const Call<Acc>& call_;
  const CallKernels<Acc>& kernels_;
  const simd::GradientKernels<Acc>& gradients_;
  const RowsWanted<Acc>& wanted_;
  Index most_kept_;
  KVSource keys_;
  PackedQueries<Acc> queries_;
  ScoreBlock<Acc> scores_;
  KeptChunk* kept_;
  Acc** rows_;  // where each row goes, or null
  std::byte* mask_memory_;
  RowState<Acc> total_, block_;  // without outputs
  Chunk<Acc> chunk_;
  Index num_kept_ = 0;
};

template <class Acc>
void score_rows(const ExecutorRef& executor, const Call<Acc>& call, std::span<const WorkItem> items,
                const RowsWanted<Acc>& wanted, Workspace& workspace) {
  if (items.empty()) return;
  const Index num_items = static_cast<Index>(items.size());
  Index max_rows = 0, num_chunks = 0;
  for (const WorkItem& work : items) {
    max_rows = std::max(max_rows, work.q.size() * call.heads.group_size);
    num_chunks =
        std::max(num_chunks, ceil_div(work.kv.end, chunk_keys) - work.kv.begin / chunk_keys);
  }
  const Index most_kept = wanted.probabilities ? std::min(num_chunks, tuning::kept_chunks(max_rows, sizeof(Acc))) : 0;
  const Index num_workers =
      std::clamp<Index>(executor.num_threads, 1, std::min(num_items, tuning::most_threads));
  const CallKernels<Acc> kernels(*call.kv.format, false, isa());
  Arena measure;
  ScoreRowsWorker<Acc>(measure, call, kernels, wanted, max_rows, most_kept);
  std::byte* memory = workspace.reserve(checked_mul(measure.used(), num_workers, "workspace"));
  std::atomic<Index> next{0};
  const auto work = [&](Index index) {
    Arena own(memory + index * measure.used());
    ScoreRowsWorker<Acc> worker(own, call, kernels, wanted, max_rows, most_kept);
    for (Index i = next++; i < num_items; i = next++) worker.run(items[static_cast<std::size_t>(i)]);
  };
  if (num_workers == 1)
    work(0);
  else
    executor.parallel_for(num_workers, work);
}

}  // namespace gqa::detail
