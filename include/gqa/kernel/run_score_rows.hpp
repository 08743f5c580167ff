// SPDX-License-Identifier: Apache-2.0
// The definitions behind score_rows.hpp.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>

#include "gqa/kernel/score_block.hpp"
#include "gqa/kernel/score_rows.hpp"

namespace gqa::detail {

/// The keys of a source without its values: no dims of them are read.
inline KVSource keys_alone(KVSource source) {
  source.value_dim = 0;
  return source;
}

/// One thread's part: the worker's own products and softmax, for the scores, the maximum and the sum of each
/// row, and then P = e^(S - lse) of them. Meanwhile the scores of the first chunks stay where they are and
/// those of the others where their probabilities go, or they are computed once more where some go nowhere.
template <class Acc>
class ScoreRowsWorker {
 public:
  ScoreRowsWorker(Arena& arena, const Call<Acc>& call, const CallKernels<Acc>& kernels,
                  const RowsWanted<Acc>& wanted, Index max_rows, Index num_chunks, Index most_kept)
      : call_(call),
        kernels_(kernels),
        gradients_(simd::gradient_kernels<Acc>(kernels.set)),
        wanted_(wanted),
        most_kept_(most_kept),
        keys_(keys_alone(call.kv)),
        queries_(arena, call, max_rows, false),
        scores_(arena, call, kernels, max_rows, most_kept + 1),
        seen_(arena.take<Range>(num_chunks)),
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
    visible_ = item.mask.bounds(block.positions);
    all_placed_ = true;
    for (Index row = 0; row < block.rows; ++row) {
      rows_[row] = wanted_.place(work, item, row);
      all_placed_ &= rows_[row] != nullptr;
    }
    const Range hull = item.retained.hull();
    Range told = {hull.begin, hull.begin};
    kept_ = 0;
    if (wanted_.probabilities) {
      told.end = sum_up(work, item, block);
      tell(work, item, block, told, 0, kept_);
    }
    while (told.end < hull.end) {
      const Index chunk = told.end / chunk_keys;
      told = {told.end, std::min((chunk + 1) * chunk_keys, hull.end)};
      tell(work, item, block, told, kept_, score(item, block, chunk) ? 1 : 0);
    }
  }

 private:
  /// The scores of a chunk, behind those that stay; false where the block sees nothing of it.
  bool score(const Item<Acc>& item, const Block& block, Index chunk) {
    chunk_.begin(chunk);
    const Range keys = {chunk_.begin(), chunk_.begin() + chunk_keys};
    if (intersect(keys, visible_).empty() || !scores_.look(item, block, chunk_.begin())) return false;
    for (Index t = scores_.seen().first_tile; t <= scores_.seen().last_tile; ++t) {
      const Index begin = chunk_.begin() + t * tile_keys;
      if (scores_.seen().tiles[t] == Coverage::none) continue;
      for_common(item.retained, {begin, begin + tile_keys},
                 [&](Range read) { chunk_.read(item.seq, item.kv_head, read, block.rows); });
    }
    scores_.work_in(std::min(kept_, most_kept_));
    scores_.multiply_keys(queries_, block, chunk_);
    scores_.softmax(item, block, block_, true);
    seen_[kept_] = intersect(item.retained.hull(), shifted(scores_.seen().columns(), chunk_.begin()));
    return true;
  }

  /// The maximum and the sum of each row. Returns the first key that there are scores of no more.
  Index sum_up(const WorkItem& work, const Item<Acc>& item, const Block& block) {
    total_.clear(block.rows);
    const Range hull = item.retained.hull();
    Index end = hull.end;
    for (Index chunk = hull.begin / chunk_keys; chunk * chunk_keys < hull.end; ++chunk) {
      if (!score(item, block, chunk)) continue;
      total_.merge(block_, block.rows, kernels_.rows);
      if (kept_ >= most_kept_ && !all_placed_) {
        end = std::min(end, chunk_.begin());
        continue;
      }
      if (kept_ >= most_kept_)
        for (Index row = 0; row < block.rows; ++row) {
          const Acc* scores = scores_.row(row) + seen_[kept_].begin % chunk_keys;
          std::copy(scores, scores + seen_[kept_].size(), at(item, row, seen_[kept_].begin));
        }
      ++kept_;
    }
    for (Index row = 0; row < block.rows; ++row) {
      if (call_.sinks != nullptr) {
        block_.from(row).see_one(static_cast<Acc>((*call_.sinks)(item.q_head(row))), 1);
        total_.from(row).merge(block_.from(row), 1, kernels_.rows);
      }
      wanted_.tell_lse(work, item, row, lse_of(total_.max[row], total_.sum[row]));
    }
    return end;
  }

  Acc* at(const Item<Acc>& item, Index row, Index position) const {
    return rows_[row] + (position - item.retained.hull().begin);
  }

  /// The keys `all` of every row, of which there are scores of `count` chunks, from number `first` on. A row
  /// at a time: it is written in one stream.
  void tell(const WorkItem& work, const Item<Acc>& item, const Block& block, Range all, Index first,
            Index count) {
    for (Index row = 0; row < block.rows; ++row) {
      Range unseen = {all.begin, all.begin};
      for (Index number = first; number < first + count; ++number) {
        unseen.end = seen_[number].begin;
        tell_unseen(work, item, row, unseen);
        tell_scores(work, item, row, number);
        unseen.begin = seen_[number].end;
      }
      unseen.end = all.end;
      tell_unseen(work, item, row, unseen);
    }
  }

  void tell_scores(const WorkItem& work, const Item<Acc>& item, Index row, Index number) {
    const Range keys = seen_[number];
    const bool placed = rows_[row] != nullptr;
    scores_.work_in(std::min(number, most_kept_));
    Acc* scores = scores_.row(row) + keys.begin % chunk_keys;
    Acc* values = placed ? at(item, row, keys.begin) : scores;
    if (number >= most_kept_ && all_placed_ && wanted_.probabilities) scores = values;
    if (wanted_.probabilities)
      gradients_.probabilities({.scores = scores,
                                .p = values,
                                .columns = keys.size(),
                                .max = total_.max[row],
                                .sum = total_.sum[row]});
    else if (placed)
      std::copy(scores, scores + keys.size(), values);
    if (!placed) wanted_.tell(work, item, row, keys, {values, static_cast<std::size_t>(keys.size())});
  }

  void tell_unseen(const WorkItem& work, const Item<Acc>& item, Index row, Range keys) {
    if (keys.empty()) return;
    if (rows_[row] == nullptr)
      wanted_.tell(work, item, row, keys, {});
    else if (wanted_.probabilities)
      std::memset(at(item, row, keys.begin), 0, static_cast<std::size_t>(keys.size()) * sizeof(Acc));
    else
      std::fill_n(at(item, row, keys.begin), keys.size(), -std::numeric_limits<Acc>::infinity());
  }

  const Call<Acc>& call_;
  const CallKernels<Acc>& kernels_;
  const simd::GradientKernels<Acc>& gradients_;
  const RowsWanted<Acc>& wanted_;
  Index most_kept_;
  KVSource keys_;
  PackedQueries<Acc> queries_;
  ScoreBlock<Acc> scores_;
  Range* seen_;    // keys of each chunk that there are scores of
  Range visible_;  // bounds of what the block may see
  Acc** rows_;     // where each row goes, or null
  bool all_placed_ = false;
  Index kept_ = 0;  // chunks whose scores stay until they are told
  std::byte* mask_memory_;
  RowState<Acc> total_, block_;  // without outputs
  Chunk<Acc> chunk_;
};

template <class Acc>
void score_rows(const ExecutorRef& executor, const Call<Acc>& call, std::span<const WorkItem> items,
                const RowsWanted<Acc>& wanted, Workspace& workspace) {
  if (items.empty()) return;
  const Index num_items = static_cast<Index>(items.size());
  Index max_rows = 0, num_chunks = 0;
  for (const WorkItem& work : items) {
    max_rows = std::max(max_rows, work.q.size() * call.heads.group_size);
    num_chunks = std::max(num_chunks, ceil_div(work.kv.end, chunk_keys) - work.kv.begin / chunk_keys);
  }
  const Index most_kept =
      wanted.probabilities ? std::min(num_chunks, tuning::kept_chunks(max_rows, sizeof(Acc))) : 0;
  const Index num_workers =
      std::clamp<Index>(executor.num_threads, 1, std::min(num_items, tuning::most_threads));
  const CallKernels<Acc> kernels(*call.kv.format, false, isa());
  Arena measure;
  ScoreRowsWorker<Acc>(measure, call, kernels, wanted, max_rows, num_chunks, most_kept);
  std::byte* memory = workspace.reserve(checked_mul(measure.used(), num_workers, "workspace"));
  std::atomic<Index> next{0};
  const auto work = [&](Index index) {
    Arena own(memory + index * measure.used());
    ScoreRowsWorker<Acc> worker(own, call, kernels, wanted, max_rows, num_chunks, most_kept);
    for (Index i = next++; i < num_items; i = next++) worker.run(items[static_cast<std::size_t>(i)]);
  };
  if (num_workers == 1)
    work(0);
  else
    executor.parallel_for(num_workers, work);
}

}  // namespace gqa::detail
