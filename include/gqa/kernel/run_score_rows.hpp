// SPDX-License-Identifier: Apache-2.0
// The definitions behind score_rows.hpp.
#pragma once

#include <algorithm>
#include <atomic>
#include <limits>

#include "gqa/kernel/score_block.hpp"
#include "gqa/kernel/score_rows.hpp"

namespace gqa::detail {

/// One thread's part: the worker's own products, a softmax for its maximum and sum alone, then the products
/// again, which are P = e^(S - lse) with it. Nothing is kept but one chunk of scores.
template <class Acc>
class ScoreRowsWorker {
 public:
  ScoreRowsWorker(Arena& arena, const Call<Acc>& call, const CallKernels<Acc>& kernels,
                  const RowsWanted<Acc>& wanted, Index max_rows)
      : call_(call),
        kernels_(kernels),
        gradients_(simd::gradient_kernels<Acc>(kernels.set)),
        wanted_(wanted),
        queries_(arena, call, max_rows, false),
        scores_(arena, call, kernels, max_rows),
        mask_memory_(arena.take<std::byte>(call.mask.bytes(call.heads.group_size))),
        total_(arena, max_rows, 0),
        block_(arena, max_rows, 0),
        chunk_(arena, call.kv, kernels) {}

  void run(const WorkItem& work) {
    if (call_.heads.size(work.kv_head) == 0) return;
    const Item<Acc> item(call_, work, mask_memory_);
    const Block block = item.block(0, item.tokens.size());
    queries_.pack(item, block);
    if (wanted_.probabilities) sum_up(work, item, block);
    for_chunks(
        item, block, [&] { tell_chunk(work, item, block); },
        [&](Range keys) {
          for (Index row = 0; row < block.rows; ++row) wanted_.tell(work, item, row, keys, {});
        });
  }

 private:
  /// Calls f with the scores of each chunk that the block sees something of, and `unseen` for the others.
  template <class F, class Unseen>
  void for_chunks(const Item<Acc>& item, const Block& block, F&& f, Unseen&& unseen) {
    const Range hull = item.retained.hull(), bounds = item.mask.bounds(block.positions);
    for (Index chunk = hull.begin / chunk_keys; chunk * chunk_keys < hull.end; ++chunk) {
      chunk_.begin(chunk);
      const Range keys = {chunk_.begin(), chunk_.begin() + chunk_keys};
      if (intersect(keys, bounds).empty() || !scores_.look(item, block, chunk_.begin())) {
        unseen(intersect(keys, hull));
        continue;
      }
      for (Index t = scores_.seen().first_tile; t <= scores_.seen().last_tile; ++t) {
        const Index begin = chunk_.begin() + t * tile_keys;
        if (scores_.seen().tiles[t] == Coverage::none) continue;
        for_common(item.retained, {begin, begin + tile_keys},
                   [&](Range read) { chunk_.read(item.seq, item.kv_head, read, block.rows); });
      }
      scores_.multiply_keys(queries_, block, chunk_);
      f();
    }
  }

  /// The maximum and the sum of each row.
  void sum_up(const WorkItem& work, const Item<Acc>& item, const Block& block) {
    total_.clear(block.rows);
    for_chunks(
        item, block,
        [&] {
          scores_.softmax(item, block, block_);
          total_.merge(block_, block.rows, kernels_.rows);
        },
        [](Range) {});
    for (Index row = 0; row < block.rows; ++row) {
      if (call_.sinks != nullptr) {
        block_.from(row).see_one(static_cast<Acc>((*call_.sinks)(item.q_head(row))), 1);
        total_.from(row).merge(block_.from(row), 1, kernels_.rows);
      }
      wanted_.tell_lse(work, item, row, lse_of(total_.max[row], total_.sum[row]));
    }
  }

  void tell_chunk(const WorkItem& work, const Item<Acc>& item, const Block& block) {
    const Index begin = scores_.seen().chunk_begin;
    const Range there = intersect(item.retained.hull(), {begin, begin + chunk_keys});
    const Range columns = shifted(there, -begin);
    for (Index i = 0; i < block.rows; ++i) {
      Acc* row = scores_.row(i);
      if (call_.score)
        scores_.modify(item, block, i);
      else
        kernels_.rows.scale(row + columns.begin, columns.size(), call_.scale.size);
      hide(i, row);
      if (wanted_.probabilities)
        gradients_.probabilities({.scores = row + columns.begin,
                                  .stride = 0,
                                  .rows = 1,
                                  .columns = columns.size(),
                                  .max = total_.max + i,
                                  .sum = total_.sum + i});
      wanted_.tell(work, item, i, there, {row + columns.begin, static_cast<std::size_t>(columns.size())});
    }
  }

  /// -inf where row i of the block does not see.
  void hide(Index i, Acc* row) const {
    constexpr Acc nothing = -std::numeric_limits<Acc>::infinity();
    const SeenKeys& seen = scores_.seen();
    for (Index t = 0; t < chunk_tiles; ++t) {
      const bool some = seen.first_tile <= t && t <= seen.last_tile;
      const std::uint64_t word = some ? seen.word(i, t) : 0;
      Acc* tile = row + t * tile_keys;
      if (word == 0)
        std::fill_n(tile, tile_keys, nothing);
      else if (word != ~std::uint64_t{0})
        for (Index j = 0; j < tile_keys; ++j) tile[j] = (word >> j & 1) != 0 ? tile[j] : nothing;
    }
  }

  const Call<Acc>& call_;
  const CallKernels<Acc>& kernels_;
  const simd::GradientKernels<Acc>& gradients_;
  const RowsWanted<Acc>& wanted_;
  PackedQueries<Acc> queries_;
  ScoreBlock<Acc> scores_;
  std::byte* mask_memory_;
  RowState<Acc> total_, block_;  // without outputs
  Chunk<Acc> chunk_;
};

template <class Acc>
void score_rows(const ExecutorRef& executor, const Call<Acc>& call, std::span<const WorkItem> items,
                const RowsWanted<Acc>& wanted, Workspace& workspace) {
  if (items.empty()) return;
  const Index num_items = static_cast<Index>(items.size());
  const Index max_rows = score_rows_tokens(call) * call.heads.group_size;
  const Index num_workers =
      std::clamp<Index>(executor.num_threads, 1, std::min(num_items, tuning::most_threads));
  const CallKernels<Acc> kernels(*call.kv.format, false, isa());
  Arena measure;
  ScoreRowsWorker<Acc>(measure, call, kernels, wanted, max_rows);
  std::byte* memory = workspace.reserve(checked_mul(measure.used(), num_workers, "workspace"));
  std::atomic<Index> next{0};
  const auto work = [&](Index index) {
    Arena own(memory + index * measure.used());
    ScoreRowsWorker<Acc> worker(own, call, kernels, wanted, max_rows);
    for (Index i = next++; i < num_items; i = next++) worker.run(items[static_cast<std::size_t>(i)]);
  };
  if (num_workers == 1)
    work(0);
  else
    executor.parallel_for(num_workers, work);
}

}  // namespace gqa::detail
