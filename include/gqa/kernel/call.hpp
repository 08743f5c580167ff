// SPDX-License-Identifier: Apache-2.0
// What one attention call is asked to compute.
#pragma once

#include "gqa/core/scalar.hpp"
#include "gqa/kernel/heads.hpp"
#include "gqa/kv/view.hpp"
#include "gqa/score/mask.hpp"
#include "gqa/score/score_mod.hpp"

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
  Index first_position = 0;  // of its first token
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

  Index head_dim() const { return view.head_dim(); }
  Index value_stride() const { return round_up(view.value_dim(), simd::padding); }
};

/// Lets the mask, the score function and the sinks refuse a sequence they have no answer for.
template <class Call>
void check_extent(const Call& call, Index seq) {
  const auto queries = call.queries(seq);
  const AttentionExtent extent{call.num_seqs,
                               call.heads.num_q_heads,
                               {queries.first_position, queries.first_position + queries.tokens},
                               call.view.retained(seq)};
  check_mask(call.mask, extent);
  if constexpr (requires { call.score.check(extent); }) call.score.check(extent);
  if (call.sinks != nullptr) call.sinks->check(extent);
}

}  // namespace gqa::detail
