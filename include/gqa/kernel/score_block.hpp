// SPDX-License-Identifier: Apache-2.0
// A block of query rows against a chunk of keys: Q K^T, what is done to scores, and P V.
#pragma once

#include <algorithm>
#include <span>

#include "gqa/kernel/chunk.hpp"
#include "gqa/kernel/packed_queries.hpp"
#include "gqa/kernel/seen_keys.hpp"

namespace gqa::detail {

/// A matrix unit that is set by the first product that needs it and released with its scope, before other
/// people's code may run, which may use the unit too.
class MatrixScope {
 public:
  explicit MatrixScope(void (*release)(simd::MatrixUnit&)) : release_(release) {}
  MatrixScope(const MatrixScope&) = delete;
  MatrixScope& operator=(const MatrixScope&) = delete;
  ~MatrixScope() {
    if (release_ != nullptr) release_(unit_);
  }
  simd::MatrixUnit* unit() { return &unit_; }

 private:
  void (*release_)(simd::MatrixUnit&);
  simd::MatrixUnit unit_;
};

/// The scores of one block and one chunk at a time, and what they turn into. There may be places for several
/// chunks, in one of which it works.
template <class Acc>
class ScoreBlock {
 public:
  ScoreBlock(Arena& arena, const Call<Acc>& call, const CallKernels<Acc>& kernels, Index max_rows,
             Index num_places = 1)
      : call_(call),
        kernels_(kernels),
        place_size_(checked_mul(max_rows, stride, "workspace")),
        places_(arena.take<Acc>(num_places, place_size_)),
        scores_(places_),
        words_(arena.take<std::uint64_t>(max_rows, chunk_tiles)) {}

  /// Finds out what the block sees of the chunk; false where that is nothing.
  bool look(const Item<Acc>& item, const Block& block, Index chunk_begin) {
    seen_.words = words_;
    seen_.look(item.mask, block.positions, item.group_size, chunk_begin, item.retained);
    return seen_.any();
  }
  const SeenKeys& seen() const { return seen_; }
  Acc* row(Index i) const { return scores_ + i * stride; }
  void work_in(Index place) { scores_ = places_ + place * place_size_; }

  /// scores = Q K^T, a tile at a time; of partly masked tiles only the columns somebody sees.
  void multiply_keys(const PackedQueries<Acc>& queries, const Block& block, Chunk<Acc>& chunk) {
    MatrixScope matrix(kernels_.release);
    for (auto* piece = chunk.pieces_begin(); piece != chunk.pieces_end(); ++piece) {
      const auto& then = piece + 1 == chunk.pieces_end() ? chunk.pieces_begin()->v : piece[1].k;
      const void* next = next_read(piece->k, call_.head_dim(), then);
      const auto multiply = [&](Index first, Index rows, Range columns) {
        columns.begin = round_down(columns.begin, simd::padding);
        piece->k.product({.a = queries.row(block.first_row + first),
                          .a_stride = queries.stride(),
                          .b = piece->k.at(0, columns.begin),
                          .b_stride = piece->k.stride,
                          .c = row(first) + piece->column + columns.begin,
                          .c_stride = stride,
                          .rows = rows,
                          .depth = call_.head_dim(),
                          .columns = columns.size(),
                          .accumulate = false,
                          .streaming = tuning::streams(block.rows, piece->k.at_hand),
                          .next = next,
                          .unit = matrix.unit()});
      };
      if (seen_.tiles[piece->tile()] == Coverage::full)
        multiply(0, block.rows, {0, piece->size});
      else if (seen_.tiles[piece->tile()] == Coverage::partial)
        for_row_runs(seen_, piece->tile(), piece->offset(), piece->size, tuning::masked_run_rows,
                     [&](const RowRun& run) { multiply(run.row, run.rows, run.columns); });
    }
  }

  /// p = e^(s - max) of every row, where scores are scaled and functions of them applied on the way; max and
  /// sum to `state`. Or nothing but that, and scores that are done stay: -inf where a row does not see.
  void softmax(const Item<Acc>& item, const Block& block, const RowState<Acc>& state,
               bool keep_scores = false) {
    if (!call_.score) {
      softmax_rows(0, block.rows, call_.scale.size, state, keep_scores);
      return;
    }
    for (Index i = 0; i < block.rows; ++i) {
      modify(item, block, i);
      softmax_rows(i, 1, 1, state, keep_scores);  // while the row is in the first-level cache
    }
  }

  /// Multiplies the weights of all rows and their sums.
  void multiply_weights(const Block& block, Acc factor, const RowState<Acc>& state) {
    const Index columns = seen_.columns().size();
    for (Index i = 0; i < block.rows; ++i) {
      Acc* weights = row(i) + seen_.columns().begin;
      state.sum[i] *= factor;
      if (!kernels_.dot) {
        kernels_.rows.scale(weights, columns, factor);
        continue;
      }
      Acc wide[chunk_keys];
      const auto& bf16 = *call_.q_format.convert;  // where dot products are taken, queries hold it
      bf16.widen(weights, columns, factor, wide);
      bf16.narrow(wide, columns, Acc{1}, weights);
    }
  }

  /// o = P V. Weights of 0 multiply nothing but finite values: a masked NaN must not reach a row that cannot
  /// see it.
  void multiply_values(const Block& block, Chunk<Acc>& chunk, const RowState<Acc>& state) {
    ValueProducts products{*this, block, chunk, state};
    for (auto* piece = chunk.pieces_begin(); piece != chunk.pieces_end();) {
      const Coverage coverage = seen_.tiles[piece->tile()];
      if (coverage == Coverage::full && piece->size % piece->v.group == 0) {
        piece = products.all_rows(piece);
      } else {
        if (coverage != Coverage::none) products.rows_that_see(*piece);
        ++piece;
      }
    }
    // No piece for what the block may see: the item's queries together knew that there is nothing.
    products.clear();
  }

 private:
  static constexpr Index stride = tuning::score_stride;

  /// What is read after `depth` rows of b, where that does not stand behind them; else null.
  static const void* next_read(const Operand<Acc>& b, Index depth, const Operand<Acc>& then) {
    return then.data == b.at(round_up(depth, b.group), 0) ? nullptr : then.data;
  }

  /// scale -> soft-cap -> bias, on the scores of a row of the block that are seen and no others.
  void modify(const Item<Acc>& item, const Block& block, Index i) {
    seen_.for_seen_runs(i, [&](Range columns) {
      kernels_.rows.scale(row(i) + columns.begin, columns.size(), call_.scale.size);
      call_.score(std::span<Acc>(row(i) + columns.begin, static_cast<std::size_t>(columns.size())),
                  item.score_row(block.first_row + i, seen_.chunk_begin + columns.begin));
    });
  }

  void softmax_rows(Index first, Index rows, Acc scale, const RowState<Acc>& state, bool keep_scores) {
    const Range columns = seen_.columns();
    const Index rows_per_mask = seen_.whole ? 1 : seen_.rows_per_mask;
    kernels_.rows.softmax(
        {.scores = row(first) + columns.begin,
         .stride = stride,
         .rows = rows,
         .columns = columns.size(),
         .scale = scale,
         .mask = seen_.whole ? nullptr : seen_.row(first / rows_per_mask) + seen_.first_tile,
         .mask_stride = chunk_tiles,
         .rows_per_mask = rows_per_mask,
         .max = state.max + first,
         .sum = state.sum + first,
         .pack_pairs = kernels_.dot,
         .keep_scores = keep_scores});
  }

  /// The products of one block's weights with a chunk's values, the first of which begins the sums.
  struct ValueProducts {
    ScoreBlock& scores;
    const Block& block;
    Chunk<Acc>& chunk;
    const RowState<Acc>& state;
    bool begun = false;
    MatrixScope matrix{scores.kernels_.release};

    void clear() {
      if (!begun) std::fill(state.o, state.o + block.rows * state.stride, Acc{0});
      begun = true;
    }

    /// Every row sees the piece, and perhaps those that adjoin it: one product over them loads and stores its
    /// sums once. Returns the next piece.
    Piece<Acc>* all_rows(Piece<Acc>* piece) {
      const Index most = tuning::value_run_keys(tuning::streams(block.rows, piece->v.at_hand));
      Index keys = piece->size;
      auto* next = piece + 1;
      for (; next != chunk.pieces_end() && keys + next->size <= most; ++next) {
        const bool adjoins = next->column == piece->column + keys && next->v.data == piece->v.at(keys, 0) &&
                             next->v.product == piece->v.product;
        if (!adjoins || scores.seen_.tiles[next->tile()] != Coverage::full ||
            next->size % piece->v.group != 0)
          break;
        keys += next->size;
      }
      const void* then = next == chunk.pieces_end() ? nullptr : next_read(piece->v, keys, next->v);
      multiply(*piece, piece->v, 0, block.rows, {0, keys}, then);
      begun = true;
      return next;
    }

    /// Some rows see some of the piece: runs of rows, each over the keys that any of them sees.
    void rows_that_see(Piece<Acc>& piece) {
      clear();
      const Index group = piece.v.group;
      for_row_runs(scores.seen_, piece.tile(), piece.offset(), piece.size, tuning::masked_run_rows,
                   [&](const RowRun& run) {
                     const bool exact =
                         run.uniform && run.columns.begin % group == 0 && run.columns.end % group == 0;
                     if (exact || chunk.finite(piece))
                       multiply(piece, piece.v, run.row, run.rows, run.columns);
                     else
                       rows_alone(piece, run);
                   });
    }

    /// There are values that are no numbers: each mask row multiplies those it sees, and zeros.
    void rows_alone(const Piece<Acc>& piece, const RowRun& run) {
      const Index step = scores.seen_.rows_per_mask;
      for (Index row = run.row; row < run.row + run.rows; row += step) {
        const auto bits = piece_bits(scores.seen_.word(row, piece.tile()), piece.offset(), piece.size);
        multiply(piece, chunk.clean_values(piece, bits), row, step, run.columns);
      }
    }

    void multiply(const Piece<Acc>& piece, const Operand<Acc>& v, Index first, Index rows, Range keys,
                  const void* next = nullptr) {
      keys.begin = round_down(keys.begin, v.group);
      const bool dot = scores.kernels_.dot;
      const Index column = piece.column + keys.begin, first_column = scores.seen_.columns().begin;
      const Acc* p = scores.row(first);
      // The softmax wrote its weights from first_column on: packed ones stand at the front of that.
      const void* packed = reinterpret_cast<const std::uint16_t*>(p + first_column) + (column - first_column);
      v.product({.a = dot ? packed : p + column,
                 .a_stride = dot ? 2 * stride : stride,
                 .b = v.at(keys.begin, 0),
                 .b_stride = v.stride,
                 .c = state.o + first * state.stride,
                 .c_stride = state.stride,
                 .rows = rows,
                 .depth = keys.size(),
                 .columns = state.stride,
                 .accumulate = begun,
                 .streaming = tuning::streams(block.rows, v.at_hand),
                 .next = next,
                 .depth_begin = column,
                 .unit = matrix.unit()});
    }
  };

  const Call<Acc>& call_;
  const CallKernels<Acc>& kernels_;
  Index place_size_;
  Acc* places_;
  Acc* scores_;  // of the place it works in
  std::uint64_t* words_;
  SeenKeys seen_;
};

}  // namespace gqa::detail
