// SPDX-License-Identifier: Apache-2.0
// What one attention call computes: sizes, and pointers to what the caller brought, whatever it is. All of it
// has been checked.
#pragma once

#include <cmath>
#include <span>

#include "gqa/core/head_grouping.hpp"
#include "gqa/kernel/group_mask.hpp"
#include "gqa/kernel/request.hpp"
#include "gqa/kernel/row_state.hpp"
#include "gqa/kernel/tuning.hpp"

namespace gqa::detail {

/// The queries of one sequence, and where their results go.
template <class Acc>
struct SequenceQueries {
  StridedRows q, out, lse;  // of its first token; out and lse may be null
  Index tokens = 0;
  Index first_position = 0;  // of its first token, as the view counts positions
  Index position_shift = 0;  // what masks and score functions add to the view's positions
  Index first_row = 0;       // of its first token, among the tokens of all sequences: where its state is kept

  Range positions(Range of_tokens) const { return shifted(of_tokens, first_position); }
  Range positions() const { return positions({0, tokens}); }
};

/// Queries that stand otherwise than at the end of their own sequence's keys, as in a level of a cascade: all
/// tokens from the first of sequence `first_seq` on, also those of the sequences behind it.
struct QueryPlacement {
  Index first_seq = 0, tokens = 0, first_position = 0, position_shift = 0;
};

/// The scale of scores in two: what q is multiplied by when it is packed, which is exact, and what is left
/// for the scores. A negative scale turns q around and a zero one clears it.
template <class Acc>
struct ScoreScale {
  Acc sign = 1;
  Acc size = 1;

  ScoreScale() = default;
  explicit ScoreScale(Acc scale)
      : sign(scale > 0   ? Acc{1}
             : scale < 0 ? Acc{-1}
                         : scale),
        size(scale == 0 ? Acc{1} : std::abs(scale)) {}
};

/// How a call's rows of one type are read or written.
template <class Acc>
struct RowFormat {
  const simd::ConvertKernels<Acc>* convert = nullptr;
  Index bytes = 0;  // of an element
  bool is_bf16 = false;
};
template <class Acc>
RowFormat<Acc> row_format(const RowType<Acc>& type) {
  return {&type.convert(isa()), type.bytes, type.is_bf16};
}

/// What a call computes, with sums in Acc.
template <class Acc>
struct Call {
  KVSource kv;
  Index num_seqs = 0;
  HeadTable heads;
  MaskSource mask;
  ScoreSource<Acc> score;
  ScoreScale<Acc> scale;
  const SinkLogits* sinks = nullptr;  // none

  QueryBatch batch;
  StridedRows q, out, lse;
  RowFormat<Acc> q_format, out_format;
  std::span<const Index> q_offsets = {};  // one for all sequences, or one each; none: the last query sits on
                                          // the last key
  const QueryPlacement* placements = nullptr;  // of each sequence; null: as said by q_offsets

  RowState<Acc> resume,
      keep;  // of rows token * num_q_heads + q_head: begin with, leave the result in; may be none
  bool write_output = true;
  Tuning tuning = {};

  Index head_dim() const { return kv.head_dim; }
  Index value_stride() const { return round_up(kv.value_dim, simd::padding); }

  /// Of keys that end at `kv_end`.
  SequenceQueries<Acc> queries(Index seq, Index kv_end) const {
    QueryPlacement at;
    if (placements != nullptr)
      at = placements[seq];
    else
      at = {seq, batch.tokens(seq), first_position(seq, kv_end), 0};
    const Index b = batch.batch_of(at.first_seq), token = batch.first_token(at.first_seq);
    const auto from = [&](StridedRows rows) {
      if (at.tokens == 0) return StridedRows{};  // there may be no memory to point to
      if (rows.data != nullptr) rows.data = rows.at(b, token, 0);
      return rows;
    };
    return {.q = from(q),
            .out = from(out),
            .lse = from(lse),
            .tokens = at.tokens,
            .first_position = at.first_position,
            .position_shift = at.position_shift,
            .first_row = b * batch.num_tokens + token};
  }

 private:
  Index first_position(Index seq, Index kv_end) const {
    if (q_offsets.empty()) return kv_end - batch.tokens(seq);
    return q_offsets[q_offsets.size() == 1 ? 0 : static_cast<std::size_t>(seq)];
  }
};

}  // namespace gqa::detail
