// SPDX-License-Identifier: Apache-2.0
// A block of query rows against a step of keys: their scores once more, and what these add to the gradients.
#pragma once

#include <algorithm>
#include <bit>

#include "gqa/kernel/backward.hpp"
#include "gqa/kernel/backward_keys.hpp"
#include "gqa/kernel/item.hpp"
#include "gqa/kernel/seen_keys.hpp"

namespace gqa::detail {

/// Rows of an item in the type of the sums, whole vectors each.
template <class Acc>
struct PackedRows {
  Acc* data = nullptr;
  Index stride = 0;

  PackedRows() = default;
  PackedRows(Arena& arena, Index rows, Index dim)
      : data(arena.take<Acc>(rows, round_up(dim, simd::padding))), stride(round_up(dim, simd::padding)) {}

  Acc* row(Index i) const { return data + i * stride; }
};

/// What a block reads of its item, from its own first row on, and what it adds to.
template <class Acc>
struct BackwardRows {
  PackedRows<Acc> q, d_out, dq;
  const Acc* lse = nullptr;
  const Acc* delta = nullptr;  // <d_out, out>
  bool finite = true;          // q and d_out are

  BackwardRows from(Index row) const {
    BackwardRows block = *this;
    for (auto* rows : {&block.q, &block.d_out, &block.dq}) rows->data += row * rows->stride;
    block.lse += row;
    block.delta += row;
    return block;
  }
};

/// The scores of one block and one step at a time, S = Q K^T and dP = dO V^T:
///
///     P = e^(S - lse),  dS = P (dP - delta);   dV += P^T dO,  dK += dS^T Q,  dQ += dS K
template <class Acc>
class BackwardBlock {
 public:
  BackwardBlock(Arena& arena, const BackwardCall<Acc>& call, const CallKernels<Acc>& kernels, Index max_rows)
      : call_(call),
        kernels_(kernels),
        gradients_(simd::gradient_kernels<Acc>(kernels.set)),
        scores_(arena.take<Acc>(max_rows, stride)),
        d_scores_(arena.take<Acc>(max_rows, stride)),
        raw_(arena.take<Acc>(tuning::backward_keys)),
        words_(arena.take<std::uint64_t>(max_rows, chunk_tiles)) {}

  /// Finds out what the block sees of the step's keys, those of `retained`; false where that is nothing.
  bool look(const Item<Acc>& item, const Block& block, Index step_begin, const Ranges& retained) {
    seen_.words = words_;
    seen_.look(item.mask, block.positions, item.group_size, step_begin, retained);
    return seen_.any();
  }

  /// Adds what a block that has looked comes to: to its rows' dq, and to `dk` and `dv` of the step's keys.
  void add(const Item<Acc>& item, const Block& block, const BackwardRows<Acc>& rows,
           const BackwardKeys<Acc>& keys, const PackedRows<Acc>& dk, const PackedRows<Acc>& dv,
           const ParameterSums& sums) {
    multiply_scores(block, rows, keys);
    if (call_.forward.score)
      for (Index i = 0; i < block.rows; ++i) differentiate_row(item, block, i, rows, sums);
    else
      differentiate(0, block.rows, call_.forward.scale.size, rows);
    for (Index t = seen_.first_tile; t <= seen_.last_tile;) {
      const Run run = full_run(t);
      if (run.tiles > 0)
        all_rows(block, t, run.keys, rows, keys, dk, dv);
      else if (seen_.tiles[t] != Coverage::none)
        rows_that_see(t, rows, keys, dk, dv);
      t += std::max<Index>(run.tiles, 1);
    }
  }

 private:
  static constexpr Index stride = tuning::backward_stride;

  struct Product {
    const Acc* a;
    Index a_stride, a_step;
    const Acc* b;
    Index b_stride;
    Acc* c;
    Index c_stride, rows, depth, columns;
    bool accumulate;
  };
  void multiply(const Product& p) const {
    kernels_.wide.product({.a = p.a,
                           .a_stride = p.a_stride,
                           .b = p.b,
                           .b_stride = p.b_stride,
                           .c = p.c,
                           .c_stride = p.c_stride,
                           .rows = p.rows,
                           .depth = p.depth,
                           .columns = p.columns,
                           .accumulate = p.accumulate,
                           .a_step = p.a_step});
  }

  /// S and dP of the tiles; of partly masked ones only the columns somebody sees.
  void multiply_scores(const Block& block, const BackwardRows<Acc>& rows, const BackwardKeys<Acc>& keys) {
    const Index head_dim = call_.forward.kv.head_dim, value_dim = call_.forward.kv.value_dim;
    for (Index t = seen_.first_tile; t <= seen_.last_tile; ++t) {
      const auto multiply_run = [&](Index first, Index count, Range columns) {
        const Index begin = round_down(columns.begin, simd::padding),
                    at = first * stride + t * tile_keys + begin;
        multiply({rows.q.row(first), rows.q.stride, 1, keys.key_columns(t) + begin, tile_keys, scores_ + at,
                  stride, count, head_dim, columns.end - begin, false});
        multiply({rows.d_out.row(first), rows.d_out.stride, 1, keys.value_columns(t) + begin, tile_keys,
                  d_scores_ + at, stride, count, value_dim, columns.end - begin, false});
      };
      if (seen_.tiles[t] == Coverage::full)
        multiply_run(0, block.rows, {0, tile_keys});
      else if (seen_.tiles[t] == Coverage::partial)
        for_row_runs(seen_, t, 0, tile_keys, tuning::masked_run_rows,
                     [&](const RowRun& run) { multiply_run(run.row, run.rows, run.columns); });
    }
  }

  /// P and dS of some rows, in place. What stands in tiles that nobody sees becomes 0.
  void differentiate(Index first, Index count, Acc scale, const BackwardRows<Acc>& rows) const {
    const Range columns = seen_.columns();
    const Index rows_per_mask = seen_.whole ? 1 : seen_.rows_per_mask;
    gradients_.gradient({.scores = scores_ + first * stride + columns.begin,
                         .d_scores = d_scores_ + first * stride + columns.begin,
                         .stride = stride,
                         .rows = count,
                         .columns = columns.size(),
                         .scale = scale,
                         .lse = rows.lse + first,
                         .delta = rows.delta + first,
                         .mask = seen_.whole ? nullptr : seen_.row(first / rows_per_mask) + seen_.first_tile,
                         .mask_stride = chunk_tiles,
                         .rows_per_mask = rows_per_mask});
  }

  /// The same of one row through the score function and back.
  void differentiate_row(const Item<Acc>& item, const Block& block, Index i, const BackwardRows<Acc>& rows,
                         const ParameterSums& sums) {
    Acc* scores = scores_ + i * stride;
    const auto part = [](Acc* row, Range columns) {
      return std::span<Acc>(row + columns.begin, static_cast<std::size_t>(columns.size()));
    };
    seen_.for_seen_runs(i, [&](Range columns) {
      const auto seen = part(scores, columns);
      kernels_.rows.scale(seen.data(), columns.size(), call_.forward.scale.size);
      if (call_.score) std::copy(seen.begin(), seen.end(), raw_ + columns.begin);
      call_.forward.score(seen, item.score_row(block.first_row + i, seen_.chunk_begin + columns.begin));
    });
    differentiate(i, 1, 1, rows);
    if (!call_.score) return;
    seen_.for_seen_runs(i, [&](Range columns) {
      call_.score.pull_back(call_.score.score, part(raw_, columns), part(d_scores_ + i * stride, columns),
                            item.score_row(block.first_row + i, seen_.chunk_begin + columns.begin), sums);
    });
  }

  /// Tiles from t on of which every row sees the same keys from the first on: one product runs over them.
  struct Run {
    Index tiles = 0, keys = 0;
  };
  Run full_run(Index t) const {
    Run run;
    for (; t + run.tiles <= seen_.last_tile && seen_.tiles[t + run.tiles] == Coverage::full; ++run.tiles) {
      const std::uint64_t word = seen_.word(0, t + run.tiles);
      const Index keys = std::countr_one(word);
      if (word != low_bits(keys) || run.keys % tile_keys != 0) break;
      run.keys += keys;
    }
    return run;
  }

  void all_rows(const Block& block, Index t, Index num_keys, const BackwardRows<Acc>& rows,
                const BackwardKeys<Acc>& keys, const PackedRows<Acc>& dk, const PackedRows<Acc>& dv) const {
    const Index column = t * tile_keys;
    add_to_keys({0, block.rows}, {column, column + num_keys}, rows, dk, dv);
    add_to_queries({0, block.rows}, {column, column + num_keys}, rows, keys);
  }

  /// dV += P^T dO and dK += dS^T Q for some rows and columns.
  void add_to_keys(Range of_rows, Range columns, const BackwardRows<Acc>& rows, const PackedRows<Acc>& dk,
                   const PackedRows<Acc>& dv) const {
    const Index at = of_rows.begin * stride + columns.begin;
    multiply({scores_ + at, 1, stride, rows.d_out.row(of_rows.begin), rows.d_out.stride,
              dv.row(columns.begin), dv.stride, columns.size(), of_rows.size(), dv.stride, true});
    multiply({d_scores_ + at, 1, stride, rows.q.row(of_rows.begin), rows.q.stride, dk.row(columns.begin),
              dk.stride, columns.size(), of_rows.size(), dk.stride, true});
  }
  /// dQ += dS K.
  void add_to_queries(Range of_rows, Range columns, const BackwardRows<Acc>& rows,
                      const BackwardKeys<Acc>& keys) const {
    multiply({d_scores_ + of_rows.begin * stride + columns.begin, stride, 1, keys.row(columns.begin),
              keys.key_stride(), rows.dq.row(of_rows.begin), rows.dq.stride, of_rows.size(), columns.size(),
              rows.dq.stride, true});
  }

  /// Some rows see some of a tile. Zeros of P and dS may multiply what is finite, and nothing else: a NaN
  /// must not reach a key or a query that does not see it.
  void rows_that_see(Index t, const BackwardRows<Acc>& rows, const BackwardKeys<Acc>& keys,
                     const PackedRows<Acc>& dk, const PackedRows<Acc>& dv) const {
    const Index column = t * tile_keys, step = rows.finite ? key_run : 1;
    for (Index j = 0; j < tile_keys; j += step)
      for_rows_that_see(t, low_bits(step) << j, !rows.finite, [&](Range of_rows) {
        add_to_keys(of_rows, {column + j, column + j + step}, rows, dk, dv);
      });
    if (keys.finite(t)) {
      for_row_runs(seen_, t, 0, tile_keys, tuning::masked_run_rows, [&](const RowRun& run) {
        add_to_queries({run.row, run.row + run.rows}, {column + run.columns.begin, column + run.columns.end},
                       rows, keys);
      });
      return;
    }
    for (Index m = 0; m < seen_.num_masks; ++m) {
      const Index row = m * seen_.rows_per_mask;
      for_runs(seen_.row(m)[t], [&](Range bits) {
        add_to_queries({row, row + seen_.rows_per_mask}, {column + bits.begin, column + bits.end}, rows,
                       keys);
      });
    }
  }

  /// Keys of a partly masked tile whose gradients are added up at once, over the rows that any of them is
  /// seen by: two register tiles of rows, and a whole number of them in a tile of keys.
  static constexpr Index key_run = 16;

  /// Calls f(rows) with the rows from the first to the last that see a key among `bits`, or with each run of
  /// rows that do.
  template <class F>
  void for_rows_that_see(Index t, std::uint64_t bits, bool each_run, F&& f) const {
    const auto sees = [&](Index m) { return (seen_.row(m)[t] & bits) != 0; };
    const auto tell = [&](Index begin, Index end) {
      f(Range{begin * seen_.rows_per_mask, end * seen_.rows_per_mask});
    };
    Index begin = 0, end = seen_.num_masks;
    while (begin < end && !sees(begin)) ++begin;
    while (end > begin && !sees(end - 1)) --end;
    if (begin == end) return;
    if (!each_run) return tell(begin, end);
    for (Index m = begin; m < end;) {
      Index after = m;
      while (after < end && sees(after)) ++after;
      tell(m, after);
      for (m = after; m < end && !sees(m);) ++m;
    }
  }

  /// Calls f(bits) for the runs of bits that are set.
  template <class F>
  static void for_runs(std::uint64_t word, F&& f) {
    while (word != 0) {
      const Index begin = std::countr_zero(word), count = std::countr_one(word >> begin);
      f(Range{begin, begin + count});
      word &= ~(low_bits(count) << begin);
    }
  }

  const BackwardCall<Acc>& call_;
  const CallKernels<Acc>& kernels_;
  const simd::GradientKernels<Acc>& gradients_;
  Acc* scores_;
  Acc* d_scores_;
  Acc* raw_;  // a row of scores as they enter the score function
  std::uint64_t* words_;
  SeenKeys seen_;
};

}  // namespace gqa::detail
