// SPDX-License-Identifier: Apache-2.0
// One thread's part of a call: items -> chunks -> blocks -> two products and a softmax -> merge -> output.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <span>
#include <type_traits>

#include "gqa/kernel/block.hpp"
#include "gqa/kernel/call.hpp"
#include "gqa/kernel/chunk.hpp"
#include "gqa/kernel/online_softmax.hpp"

namespace gqa::detail {

/// Scores are kept with a few columns more than a chunk has: the last product may write a vector past its
/// last key, and rows a power of two apart would compete for the same sets of the first-level cache.
inline constexpr Index score_stride = chunk_keys + simd::padding;

/// The second-level cache that block sizes are derived from: 1 MiB is what current server cores have at
/// least.
inline constexpr Index cache_bytes = Index{1} << 20;

/// Rows that a product on a partly masked tile is done for at a time: two register tiles, so that 4 rows a
/// position still fill them.
inline constexpr Index masked_run_rows = 12;

/// Keys that a product with values runs over at once: loading and storing the 24 sums of a register tile
/// costs about as much as 3 keys, so 256 keys bring it to 1 %, and their values of 64 dims (64 kB) stay in
/// the second-level cache.
/// Where values stream from memory, a tile at a time is better: its second strip of dims finds them in the
/// first level.
inline constexpr Index value_run_keys = 256;

/// Tokens ahead of those being read or written whose rows are prefetched.
inline constexpr Index rows_ahead = 4;

/// One thread's part of a call.
template <class Call>
class Worker {
 public:
  using T = typename Call::T;
  using Acc = typename Call::Acc;

  Worker(Arena& arena, const Call& call, const ProductKernels<T>& products, const BlockSizes& blocks,
         Index max_rows)
      : call_(call),
        products_(products),
        rows_(simd::row_kernels<Acc>(isa())),
        block_rows_(std::min(std::max(blocks.block_rows, call.heads.group_size), max_rows)),
        q_stride_(round_up(call.head_dim(), simd::padding)),
        o_stride_(call.value_stride()),
        q_(arena.take<Acc>(checked_mul(max_rows, q_stride_, "workspace"))),
        scores_(arena.take<Acc>(block_rows_ * score_stride)),
        words_(arena.take<std::uint64_t>(block_rows_ * chunk_tiles)),
        touched_(arena.take<bool>(max_rows)),
        overflowed_(arena.take<bool>(max_rows)),
        mask_memory_(arena.take<std::byte>(GroupMask<typename Call::MaskType>::bytes(call.heads.group_size))),
        total_(arena, max_rows, o_stride_),
        block_(arena, block_rows_, o_stride_),
        chunk_(arena, call.head_dim(), call.view.value_dim(), call.view.scratch_bytes()) {}

  /// Computes one item: into the caller's output, or chunk by chunk into `slots` where the item is part of a
  /// split.
  void run(const WorkItem& item, const RowState<Acc>& slots, Index slot_rows) {
    attend(item, slots, slot_rows);
    if (some_overflowed_) attend_again(item);
  }

  /// Merges the chunks of a split in ascending order, as attend() does one by one, and writes the output. The
  /// queries are still those of the item, which this worker has just run.
  void finish_split(const WorkItem& item, const Split& split, const RowState<Acc>& slots, Index slot_rows) {
    const Index group = call_.heads.size(item.kv_head), num_rows = item.q.size() * group;
    if (group == 0) return;
    if (call_.carried.resume)
      load_carried(item, group);
    else
      total_.clear(num_rows, o_stride_);
    for (Index slot = split.first_slot; slot < split.first_slot + split.num_slots; ++slot)
      merge(total_, slots.from(slot * slot_rows, o_stride_), num_rows);
    finish(item, total_, 0);
    if (!some_overflowed_) return;
    WorkItem whole = item;
    const Index first = item.kv.begin / chunk_keys - (item.slot - split.first_slot);
    whole.kv = {first * chunk_keys, (first + split.num_slots) * chunk_keys};
    whole.split = -1;
    attend_again(whole);
  }

 private:
  /// What a weight of 1 is kept as where sums of values overflow: a power of two, so that nothing else
  /// changes. As many keys of the largest number there is can then be added up, and the smallest weight stays
  /// normal.
  static constexpr Acc small_one = std::is_same_v<Acc, float> ? Acc(0x1p-24) : Acc(0x1p-60);

  /// Computes the rows of an item that overflowed once more, with smaller weights.
  void attend_again(const WorkItem& item) {
    one_ = small_one;
    attend(item, {}, 0);
    one_ = 1;
    some_overflowed_ = false;
  }

  void attend(const WorkItem& item, const RowState<Acc>& slots, Index slot_rows) {
    const auto queries = call_.queries(item.seq);
    const Index group = call_.heads.size(item.kv_head);
    if (group == 0) return;
    const GroupMask<typename Call::MaskType> mask(call_.mask, call_.heads, item.seq, item.kv_head,
                                                  queries.first_position, queries.position_shift,
                                                  mask_memory_);
    const Index num_rows = item.q.size() * group;
    const Range retained = call_.view.retained(item.seq);
    const Range q_positions = {queries.first_position + item.q.begin, queries.first_position + item.q.end};
    const Range kv = intersect(intersect(item.kv, retained), mask.bounds(q_positions));

    const Index block_tokens = std::max<Index>(1, block_rows_ / group);
    const bool split = item.split >= 0;
    const Index num_blocks = ceil_div(item.q.size(), block_tokens);
    const bool resume = call_.carried.resume && !split;
    if (resume) load_carried(item, group);
    std::fill(touched_, touched_ + num_blocks, resume);
    // A block's queries are packed when its first chunk comes and its output is written after its last one,
    // while they are in the caches anyway.
    const Index first = item.kv.begin / chunk_keys;
    const Index last = std::max(ceil_div(item.kv.end, chunk_keys) - 1, first);
    for (Index chunk = first; chunk <= last; ++chunk) {
      RowState<Acc> target = total_;
      if (split) target = slots.from((item.slot + chunk - first) * slot_rows, o_stride_);
      const bool visible = !intersect(kv, {chunk * chunk_keys, (chunk + 1) * chunk_keys}).empty() &&
                           read_chunk(mask, item, chunk, q_positions, retained, num_rows);
      for (Index block = 0; block < num_blocks; ++block) {
        const Index token = block * block_tokens, tokens = std::min(block_tokens, item.q.size() - token);
        const Range q = {q_positions.begin + token, q_positions.begin + token + tokens};
        const RowState<Acc> rows = target.from(token * group, o_stride_);
        WorkItem part = item;
        part.q = {item.q.begin + token, item.q.begin + token + tokens};
        // The second time they may have been overwritten, where the output stands in their place.
        if (chunk == first && one_ == Acc{1}) pack_queries(queries, part, token * group, group);
        if (visible &&
            attend_block(mask, item, q, token * group, group, retained, rows, !touched_[block] || split))
          touched_[block] = true;
        else if (split || (chunk == last && !touched_[block]))
          rows.clear(tokens * group, o_stride_);
        if (chunk == last && !split) finish(part, rows, token * group);
      }
    }
  }

  /// Rows of queries are position-major: row = token * group + head, so that a causal block's rows end in
  /// order.
  template <class Queries>
  void pack_queries(const Queries& queries, const WorkItem& item, Index first_row, Index group) {
    using TQ = std::remove_const_t<std::remove_pointer_t<decltype(queries.q)>>;
    // A negative scale turns q around and a zero one clears it, exactly; the softmax then multiplies by
    // |scale| or 1.
    const Acc sign = call_.scale > 0 ? Acc{1} : call_.scale < 0 ? Acc{-1} : call_.scale;
    const auto convert = simd::convert_kernels<TQ>(isa());
    for (Index token = item.q.begin; token < item.q.end; ++token) {
      for (Index i = 0; i < group; ++i) {
        const TQ* from = queries.q + token * queries.q_token_stride +
                         call_.heads.q_head(item.kv_head, i) * queries.q_head_stride;
        if (token + rows_ahead < item.q.end)
          prefetch(from + rows_ahead * queries.q_token_stride,
                   static_cast<std::size_t>(call_.head_dim()) * sizeof(TQ));
        const Index row = first_row + (token - item.q.begin) * group + i;
        Acc* to = q_ + row * q_stride_;
        if constexpr (std::is_same_v<TQ, bfloat16>) {
          if (products_.dot) {  // the same rows, as bfloat16 in pairs; scores_ is free between blocks
            bfloat16* packed = reinterpret_cast<bfloat16*>(q_) + row * q_stride_;
            std::fill(packed + call_.head_dim(), packed + q_stride_, bfloat16{});
            for (Index d = 0; d < call_.head_dim(); d += chunk_keys) {
              const Index count = std::min(chunk_keys, call_.head_dim() - d);
              convert.widen(from + d, count, sign, scores_);
              convert.narrow(scores_, count, Acc{1}, packed + d);
            }
            continue;
          }
        }
        convert.widen(from, call_.head_dim(), sign, to);
        std::fill(to + call_.head_dim(), to + q_stride_, Acc{0});
      }
    }
  }

  const void* q_row(Index row) const {
    if (products_.dot) return reinterpret_cast<const bfloat16*>(q_) + row * q_stride_;
    return q_ + row * q_stride_;
  }
  /// Reads the tiles of a chunk that any query of the item may see; false where there is none.
  template <class GroupMaskType>
  bool read_chunk(const GroupMaskType& mask, const WorkItem& item, Index chunk, Range q, Range retained,
                  Index rows) {
    chunk_.begin(chunk);
    for (Index t = 0; t < chunk_tiles; ++t) {
      const Index begin = chunk * chunk_keys + t * tile_keys;
      const Range keys = intersect({begin, begin + tile_keys}, retained);
      if (keys.empty() || mask.coverage(q, keys) == Coverage::none) continue;
      chunk_.read(call_.view, products_, item.seq, item.kv_head, keys, rows);
    }
    return chunk_.pieces_begin() != chunk_.pieces_end();
  }

  /// The softmax of one chunk for the queries at positions `q`, which are rows `first_row`... of the item,
  /// merged into `target`, or written there where that is `fresh`: merging into nothing is the same. False
  /// where nothing is seen.
  template <class GroupMaskType>
  bool attend_block(const GroupMaskType& mask, const WorkItem& item, Range q, Index first_row, Index group,
                    Range retained, RowState<Acc> target, bool fresh) {
    SeenKeys& seen = seen_;
    seen.words = words_;
    seen.look(mask, q, group, chunk_.begin(), retained);
    if (seen.last_tile < 0) return false;
    const Index rows = q.size() * group;
    const RowState<Acc> result = fresh ? target : block_;

    score_products(seen, first_row, rows);
    const Acc scale = std::abs(call_.scale) == Acc{0} ? Acc{1} : std::abs(call_.scale);
    const Index first_column = seen.first_tile * tile_keys;
    const auto softmax = [&](Index row, Index count, Acc factor) {
      const std::uint64_t* words =
          seen.whole ? nullptr : seen.row(row / seen.rows_per_mask) + seen.first_tile;
      rows_.softmax({scores_ + row * score_stride + first_column, score_stride, count,
                     (seen.last_tile + 1) * tile_keys - first_column, factor, words, chunk_tiles,
                     seen.whole ? 1 : seen.rows_per_mask, result.max + row, result.sum + row, products_.dot});
    };
    if constexpr (std::is_same_v<typename Call::ScoreType, ScoreChain<>>) {
      softmax(0, rows, scale);
    } else {
      for (Index row = 0; row < rows; ++row) {
        modify_scores(seen, item, q, row, group, scale);
        softmax(row, 1, 1);  // while the row is in the first-level cache
      }
    }
    if (one_ != Acc{1})
      for (Index row = 0; row < rows; ++row)
        shrink_weights(row, first_column, (seen.last_tile + 1) * tile_keys - first_column, result);
    value_products(seen, rows, first_column, result.o);
    if (!fresh) merge(target, block_, rows);
    return true;
  }

  /// Multiplies the weights of a row and their sum by what a weight of 1 is kept as.
  void shrink_weights(Index row, Index first_column, Index columns, RowState<Acc> result) const {
    Acc* weights = scores_ + row * score_stride + first_column;
    result.sum[row] *= one_;
    if constexpr (std::is_same_v<T, bfloat16>) {
      if (products_.dot) {
        const auto convert = simd::convert_kernels<bfloat16>(isa());
        auto* packed = reinterpret_cast<bfloat16*>(weights);
        Acc wide[chunk_keys];
        convert.widen(packed, columns, one_, wide);
        convert.narrow(wide, columns, Acc{1}, packed);
        return;
      }
    }
    rows_.scale(weights, columns, one_);
  }

  /// scores = Q K^T, a tile at a time; of partly masked tiles only the columns somebody sees.
  void score_products(const SeenKeys& seen, Index first_row, Index rows) {
    simd::MatrixUnit unit;
    for (auto* piece = chunk_.pieces_begin(); piece != chunk_.pieces_end(); ++piece) {
      const Index tile = piece->column / tile_keys;
      const auto multiply = [&](Index row, Index count, Range columns) {
        columns.begin = round_down(columns.begin, simd::padding);
        piece->k.product({q_row(first_row + row), q_stride_, piece->k.at(0, columns.begin), piece->k.stride,
                          scores_ + row * score_stride + piece->column + columns.begin, score_stride, count,
                          call_.head_dim(), columns.size(), false, streams(rows), 0, &unit});
      };
      if (seen.tiles[tile] == Coverage::full)
        multiply(0, rows, {0, piece->size});
      else if (seen.tiles[tile] == Coverage::partial)
        for_row_runs(seen, tile, piece->column % tile_keys, piece->size, masked_run_rows,
                     [&](const RowRun& run) { multiply(run.row, run.rows, run.columns); });
    }
    release(unit);
  }

  /// Before other people's code may run, which may use the unit too.
  void release(simd::MatrixUnit& unit) const {
    if (products_.stored.release != nullptr) products_.stored.release(unit);
  }

  /// The keys from `piece` on that are seen in full and whose values stand one after another, up to
  /// `value_run_keys`: one product over them loads and stores its sums once.
  Index adjoining_keys(const SeenKeys& seen, const Piece<T>* piece, Index rows) const {
    const Operand& v = piece->v;
    const Index run_keys = streams(rows) ? tile_keys : value_run_keys;
    Index keys = piece->size;
    for (const auto* next = piece + 1; next != chunk_.pieces_end() && keys + next->size <= run_keys; ++next) {
      if (seen.tiles[next->column / tile_keys] != Coverage::full || next->size % v.group != 0 ||
          next->column != piece->column + keys || next->v.data != v.at(keys, 0) ||
          next->v.product != v.product)
        break;
      keys += next->size;
    }
    return keys;
  }

  /// o = P V. Weights of 0 multiply nothing but finite values: a masked NaN must not reach a row that cannot
  /// see it.
  void value_products(const SeenKeys& seen, Index rows, Index first_column, Acc* o) {
    bool accumulate = false;
    simd::MatrixUnit unit;
    for (auto* piece = chunk_.pieces_begin(); piece != chunk_.pieces_end(); ++piece) {
      const Index tile = piece->column / tile_keys, offset = piece->column % tile_keys,
                  group = piece->v.group;
      const auto multiply = [&](const Operand& v, Index row, Index count, Range keys) {
        keys.begin = round_down(keys.begin, group);
        // The softmax wrote its weights from first_column on: packed ones stand at the front of that.
        const Index column = piece->column + keys.begin;
        const Acc* p_row = scores_ + row * score_stride;
        const void* p = p_row + column;
        if (products_.dot)
          p = reinterpret_cast<const bfloat16*>(p_row + first_column) + (column - first_column);
        v.product({p, products_.dot ? 2 * score_stride : score_stride, v.at(keys.begin, 0), v.stride,
                   o + row * o_stride_, o_stride_, count, keys.size(), o_stride_, accumulate, streams(rows),
                   column, &unit});
      };
      if (seen.tiles[tile] == Coverage::full && piece->size % group == 0) {
        const Index keys = adjoining_keys(seen, piece, rows);
        multiply(piece->v, 0, rows, {0, keys});
        for (const Index end = piece->column + keys; piece->column + piece->size < end;) ++piece;
        accumulate = true;
      } else if (seen.tiles[tile] != Coverage::none) {
        if (!accumulate) std::fill(o, o + rows * o_stride_, Acc{0});
        accumulate = true;
        for_row_runs(seen, tile, offset, piece->size, masked_run_rows, [&](const RowRun& run) {
          const bool exact = run.uniform && run.columns.begin % group == 0 && run.columns.end % group == 0;
          if (exact || chunk_.finite(*piece, products_)) {
            multiply(piece->v, run.row, run.rows, run.columns);
            return;
          }
          for (Index row = run.row; row < run.row + run.rows; row += seen.rows_per_mask) {
            const auto bits = piece_bits(seen.row(row / seen.rows_per_mask)[tile], offset, piece->size);
            multiply(chunk_.clean_values(*piece, bits), row, seen.rows_per_mask, run.columns);
          }
        });
      }
    }
    release(unit);
    // No piece for what the block may see: the item's queries together knew that there is nothing.
    if (!accumulate) std::fill(o, o + rows * o_stride_, Acc{0});
  }

  /// scale -> soft-cap -> bias, on the scores of a row that are seen and no others.
  void modify_scores(const SeenKeys& seen, const WorkItem& item, Range q, Index row, Index group, Acc scale) {
    const auto queries = call_.queries(item.seq);
    const Index shift = queries.position_shift;
    const Index q_head = call_.heads.q_head(item.kv_head, row % group);
    Acc* scores = scores_ + row * score_stride;
    const auto word = [&](Index t) {
      return seen.whole ? ~std::uint64_t{0} : seen.row(row / seen.rows_per_mask)[t];
    };
    for (Index t = seen.first_tile; t <= seen.last_tile; ++t) {
      if (word(t) == 0) continue;
      const Index begin = t * tile_keys + std::countr_zero(word(t));
      // Tiles that adjoin are one run: a score function is called as seldom as can be.
      while (t < seen.last_tile && std::countl_zero(word(t)) == 0 && (word(t + 1) & 1) != 0) ++t;
      const Index end = (t + 1) * tile_keys - std::countl_zero(word(t));
      rows_.scale(scores + begin, end - begin, scale);
      call_.score.mod(std::span<Acc>(scores + begin, static_cast<std::size_t>(end - begin)),
                      ScoreRow{item.seq, q_head, q.begin + row / group + shift,
                               chunk_.begin() + begin + shift, queries.first_position + shift});
    }
  }

  void merge(RowState<Acc> into, RowState<Acc> from, Index rows) const {
    rows_.merge(
        {into.o, into.max, into.sum, from.o, from.max, from.sum, rows, o_stride_, o_stride_, o_stride_});
  }

  /// Rows of the item in the order of carried states.
  template <class F>
  void for_carried_rows(const WorkItem& item, Index group, F&& f) const {
    const Index first = call_.queries(item.seq).first_row + item.q.begin;
    for (Index row = 0; row < item.q.size() * group; ++row)
      f(row, (first + row / group) * call_.heads.num_q_heads + call_.heads.q_head(item.kv_head, row % group));
  }
  void load_carried(const WorkItem& item, Index group) {
    for_carried_rows(item, group, [&](Index row, Index carried) {
      total_.copy(row, call_.carried.rows, carried, o_stride_);
      if (one_ == Acc{1}) return;
      rows_.scale(total_.o + row * o_stride_, o_stride_, one_);
      total_.sum[row] *= one_;
    });
  }

  /// Notes which rows, `first_row`... of the item, have sums that are no numbers: an infinite or NaN value,
  /// or an overflow.
  void note_overflows(RowState<Acc> state, Index rows, Index first_row) {
    const bool none = products_.wide.all_finite(state.o, o_stride_, rows, o_stride_);
    some_overflowed_ |= !none;
    for (Index row = 0; row < rows; ++row)
      overflowed_[first_row + row] =
          !none && !products_.wide.all_finite(state.o + row * o_stride_, o_stride_, 1, o_stride_);
  }

  /// output = o / sum and lse, with the learned sink as one more exponential in the sum. `state` holds the
  /// rows of the item from `first_row` on.
  void finish(const WorkItem& item, RowState<Acc> state, Index first_row) {
    const auto queries = call_.queries(item.seq);
    using TO = std::remove_pointer_t<decltype(queries.out)>;
    const auto convert = simd::convert_kernels<TO>(isa());
    const Index group = call_.heads.size(item.kv_head);
    if (call_.carried.keep) {
      for_carried_rows(item, group, [&](Index row, Index carried) {
        call_.carried.rows.copy(carried, state, row, o_stride_);
      });
      return;
    }
    const bool again = one_ != Acc{1};
    if (!again) note_overflows(state, item.q.size() * group, first_row);
    for (Index row = 0; row < item.q.size() * group; ++row) {
      if (overflowed_[first_row + row] != again) continue;
      const Index token = item.q.begin + row / group, q_head = call_.heads.q_head(item.kv_head, row % group);
      Acc* o = state.o + row * o_stride_;
      if (call_.sinks != nullptr) {
        // A position whose score is the sink and whose value is 0.
        block_.clear(1, o_stride_);
        block_.max[0] = static_cast<Acc>((*call_.sinks)(q_head));
        block_.sum[0] = one_;
        merge(state.from(row, o_stride_), block_, 1);
      }
      const Acc sum = state.sum[row];
      TO* out = queries.out + token * queries.out_token_stride + q_head * queries.out_head_stride;
      if (token + rows_ahead < item.q.end)
        prefetch(out + rows_ahead * queries.out_token_stride,
                 static_cast<std::size_t>(call_.view.value_dim()) * sizeof(TO));
      if (sum == Acc{0})
        std::fill(out, out + call_.view.value_dim(), TO{});
      else if (again)
        convert.narrow(mean_of(o, sum), call_.view.value_dim(), Acc{1}, out);
      else
        convert.narrow(o, call_.view.value_dim(), Acc{1} / sum, out);
      if (queries.lse != nullptr)
        queries.lse[token * queries.lse_token_stride + q_head * queries.lse_head_stride] =
            lse_of(state.max[row], sum / one_);
    }
  }

  /// o / sum, in place; a mean of finite values is finite, however it was rounded.
  Acc* mean_of(Acc* o, Acc sum) const {
    constexpr Acc largest = std::numeric_limits<Acc>::max();
    for (Index c = 0; c < call_.view.value_dim(); ++c)
      o[c] = std::isfinite(o[c]) ? std::clamp(o[c] / sum, -largest, largest) : o[c] / sum;
    return o;
  }

  /// Few rows read keys and values as fast as memory gives them; from about 128 on products take longer.
  static bool streams(Index rows) { return rows <= 128; }

  const Call& call_;
  const ProductKernels<T>& products_;
  simd::RowKernels<Acc> rows_;
  Index block_rows_, q_stride_, o_stride_;
  Acc* q_;
  Acc* scores_;
  std::uint64_t* words_;
  bool* touched_;           // a block of an item: whether its rows have seen a chunk
  bool* overflowed_;        // a row of an item
  std::byte* mask_memory_;  // of an item's GroupMask
  bool some_overflowed_ = false;
  Acc one_ = 1;  // what a weight of 1 is kept as
  RowState<Acc> total_, block_;
  Chunk<T> chunk_;
  SeenKeys seen_;
};

}  // namespace gqa::detail
