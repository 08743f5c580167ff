// SPDX-License-Identifier: Apache-2.0
// What one attention call is asked to compute.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

#include "gqa/core/head_grouping.hpp"
#include "gqa/core/scalar.hpp"
#include "gqa/kernel/workspace.hpp"
#include "gqa/kv/view.hpp"
#include "gqa/mask/mask_fn.hpp"
#include "gqa/mask/mask_ref.hpp"
#include "gqa/mask/window.hpp"
#include "gqa/score/score_chain.hpp"
#include "gqa/score/sink_logits.hpp"

namespace gqa::detail {

/// The queries of one sequence, and where their results go.
template <Scalar TQ, Scalar TO, class Acc>
struct SequenceQueries {
  const TQ* q = nullptr;
  Index q_token_stride = 0, q_head_stride = 0;
  TO* out = nullptr;
  Index out_token_stride = 0, out_head_stride = 0;
  Acc* lse = nullptr;  // may be null
  Index lse_token_stride = 0, lse_head_stride = 0;
  Index tokens = 0;
  Index first_position = 0;  // of its first token, as the view counts positions
  Index position_shift = 0;  // what masks and score functions add to the view's positions
  Index first_row = 0;  // of its first token, among the tokens of all sequences: where its state is carried
};

/// Unnormalised results of some rows: {o, max, sum} over some keys, o with `stride` elements a row.
template <class Acc>
struct RowState {
  Acc* o = nullptr;
  Acc* max = nullptr;
  Acc* sum = nullptr;

  RowState() = default;
  RowState(Arena& arena, Index rows, Index stride)
      : o(arena.take<Acc>(checked_mul(rows, stride, "workspace"))),
        max(arena.take<Acc>(rows)),
        sum(arena.take<Acc>(rows)) {}
  RowState(Acc* outputs, Acc* maxima, Acc* sums) : o(outputs), max(maxima), sum(sums) {}

  RowState from(Index row, Index stride) const { return {o + row * stride, max + row, sum + row}; }

  void clear(Index rows, Index stride) const {
    std::fill(o, o + rows * stride, Acc{0});
    std::fill(max, max + rows, -std::numeric_limits<Acc>::infinity());
    std::fill(sum, sum + rows, Acc{0});
  }

  /// Copies one row of `other` over one of these.
  void copy(Index row, const RowState& other, Index other_row, Index stride) const {
    std::copy(other.o + other_row * stride, other.o + (other_row + 1) * stride, o + row * stride);
    max[row] = other.max[other_row];
    sum[row] = other.sum[other_row];
  }
};

/// Rows that go on from, or to, another call over other keys: row token * num_q_heads + q_head.
template <class Acc>
struct CarriedState {
  RowState<Acc> rows;
  bool resume = false;  // begin with what is there
  bool keep = false;    // leave the result there, and write no output
};

/// What a call computes; the template parameters are the kinds of its parts, the members their values.
template <KVView View, Mask M, class Score, class QueriesOf>
struct Attention {
  using T = typename View::Scalar;
  using Acc = Accumulator<T>;
  using MaskType = M;
  using ScoreType = Score;

  const View& view;
  QueriesOf queries;  // seq -> SequenceQueries
  Index num_seqs;
  HeadTable heads;
  const M& mask;
  const Score& score;
  Acc scale;
  const SinkLogits* sinks = nullptr;  // none
  CarriedState<Acc> carried = {};

  Index head_dim() const { return view.head_dim(); }
  Index value_stride() const { return round_up(view.value_dim(), simd::padding); }
};

constexpr Range shifted(Range r, Index by) { return {r.begin + by, r.end + by}; }

/// Lets the mask, the score function and the sinks (or null) refuse a sequence they have no answer for, or
/// parameters that the type of the scores does not hold.
template <class M, class Score>
void check_extent(const AttentionExtent& extent, const M& mask, const Score& score, const SinkLogits* sinks) {
  check_mask(mask, extent);
  if constexpr (requires { score.check(extent); }) score.check(extent);
  if (sinks != nullptr) sinks->check(extent);
}
template <class Call>
void check_extents(const Call& call) {
  AttentionExtent extent{.num_seqs = call.num_seqs,
                         .num_q_heads = call.heads.num_q_heads,
                         .in_double = std::is_same_v<typename Call::Acc, double>};
  if constexpr (requires { call.view.padded_tokens(); }) extent.most_kv_tokens = call.view.padded_tokens();
  for (Index seq = 0; seq < call.num_seqs; ++seq) {
    extent.most_kv_tokens = std::max(extent.most_kv_tokens, checked_retained(call.view, seq).end);
    extent.most_q_tokens = std::max(extent.most_q_tokens, call.queries(seq).tokens);
  }
  for (Index seq = 0; seq < call.num_seqs; ++seq) {
    const auto queries = call.queries(seq);
    extent.q =
        shifted({queries.first_position, queries.first_position + queries.tokens}, queries.position_shift);
    extent.kv = shifted(call.view.retained(seq), queries.position_shift);
    check_extent(extent, call.mask, call.score, call.sinks);
  }
}

}  // namespace gqa::detail
