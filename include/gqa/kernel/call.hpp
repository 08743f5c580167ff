// SPDX-License-Identifier: Apache-2.0
// What one attention call is asked to compute: sizes, and pointers to what the caller brought, whatever it
// is.
#pragma once

#include <cmath>
#include <span>

#include "gqa/core/head_grouping.hpp"
#include "gqa/core/scalar.hpp"
#include "gqa/core/tensor.hpp"
#include "gqa/kernel/group_mask.hpp"
#include "gqa/kernel/row_state.hpp"
#include "gqa/kernel/tuning.hpp"
#include "gqa/kv/view.hpp"
#include "gqa/score/score_mod_concept.hpp"
#include "gqa/score/sink_logits.hpp"

namespace gqa::detail {

/// Rows of a caller's tensor of any type: where they begin, and bytes between batches, tokens and heads.
struct StridedRows {
  std::byte* data = nullptr;
  Index batch_stride = 0, token_stride = 0, head_stride = 0;

  std::byte* at(Index batch, Index token, Index head) const {
    return data + batch * batch_stride + token * token_stride + head * head_stride;
  }
};
template <class View>
StridedRows strided_rows(const View& view) {
  using T = std::remove_const_t<std::remove_pointer_t<decltype(view.data)>>;
  // Strides that overflow are those of sizes that do, which are refused before anything is followed.
  const auto bytes = [](Index stride) {
    return static_cast<Index>(static_cast<std::size_t>(stride) * sizeof(T));
  };
  return {reinterpret_cast<std::byte*>(const_cast<T*>(view.data)), bytes(view.batch_stride),
          bytes(view.token_stride), bytes(view.head_stride)};
}

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

/// The tokens of a call's queries: a batch of equal lengths, or packed sequences with offsets.
struct QueryBatch {
  Index batch = 0, num_tokens = 0, num_heads = 0, dim = 0;
  std::span<const Index> offsets = {};  // none: a batch

  Index num_seqs() const { return offsets.empty() ? batch : static_cast<Index>(offsets.size()) - 1; }
  Index tokens(Index seq) const { return offsets.empty() ? num_tokens : at(seq + 1) - at(seq); }
  Index batch_of(Index seq) const { return offsets.empty() ? seq : 0; }
  Index first_token(Index seq) const { return offsets.empty() ? 0 : at(seq); }

 private:
  Index at(Index seq) const { return offsets[static_cast<std::size_t>(seq)]; }
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

/// A score function behind a pointer; null where there is none.
template <class Acc>
struct ScoreSource {
  const void* score = nullptr;
  void (*mod)(const void* score, std::span<Acc> scores, const ScoreRow& at) = nullptr;

  explicit operator bool() const { return mod != nullptr; }
  void operator()(std::span<Acc> scores, const ScoreRow& at) const { mod(score, scores, at); }
};

/// How a call's rows of one type are read or written.
template <class Acc>
struct RowFormat {
  const simd::ConvertKernels<Acc>* convert = nullptr;
  Index bytes = 0;  // of an element
  bool is_bf16 = false;
};
template <Scalar T, class Acc>
RowFormat<Acc> row_format() {
  return {&simd::convert_kernels<T>(isa()), sizeof(T), std::is_same_v<T, bfloat16>};
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
