// SPDX-License-Identifier: Apache-2.0
// The probabilities themselves, for the few rows somebody wants to look at.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "gqa/kernel/diagnosis.hpp"

namespace gqa {

/// Which rows of a call to look at: tokens of one sequence of the batch, and query heads. Empty: all of them.
struct WeightRows {
  Index seq = 0;
  std::vector<Index> tokens = {};
  std::vector<Index> q_heads = {};
};

namespace detail {

/// The wanted ones of `count`, or all: `wanted[i]`, or i where none are named.
struct Chosen {
  const std::vector<Index>& wanted;
  Index count;

  Chosen(const std::vector<Index>& indices, Index of, const char* name) : wanted(indices), count(of) {
    for (Index i : wanted)
      GQA_CHECK(i >= 0 && i < count, std::invalid_argument,
                name << " is " << i << ", expected at least 0 and less than " << count);
  }
  Index size() const { return wanted.empty() ? count : static_cast<Index>(wanted.size()); }
  Index operator[](Index i) const { return wanted.empty() ? i : wanted[static_cast<std::size_t>(i)]; }
};

/// What a row's weights are computed in.
template <class Call>
struct WeightsMemory {
  using Acc = typename Call::Acc;

  Chunk<typename Call::T> chunk;
  Acc* q;
  Acc* scores;
  double* row;  // one a key

  WeightsMemory(Arena& arena, const Call& call, Index keys)
      : chunk(arena, call.head_dim(), call.view.value_dim(), call.view.scratch_bytes()),
        q(arena.take<Acc>(round_up(call.head_dim(), simd::padding))),
        scores(arena.take<Acc>(score_stride)),
        row(arena.take<double>(keys)) {}
};

/// One row of a call: its scores by the kernels' own product, then its softmax in double. Returns its lse.
template <class Call, class W>
double weights_row(const Call& call, WeightsMemory<Call>& memory,
                   const ProductKernels<typename Call::T>& products, Index seq, Index token, Index q_head,
                   Index kv_head, W* weights) {
  using Acc = typename Call::Acc;
  constexpr double nothing = -std::numeric_limits<double>::infinity();
  const auto queries = call.queries(seq);
  using TQ = std::remove_const_t<std::remove_pointer_t<decltype(queries.q)>>;
  const Range retained = call.view.retained(seq);
  const Index q_pos = queries.first_position + token;
  simd::convert_kernels<TQ>(isa()).widen(
      queries.q + token * queries.q_token_stride + q_head * queries.q_head_stride, call.head_dim(), Acc{1},
      memory.q);
  decltype(auto) mask = mask_for(call.mask, seq, q_head, queries.first_position);
  Chunk<typename Call::T>& chunk = memory.chunk;
  const double sink = call.sinks == nullptr ? nothing : (*call.sinks)(q_head);
  double max = sink;
  std::fill(weights, weights + retained.size(), W{0});
  const std::span<double> row(memory.row, static_cast<std::size_t>(retained.size()));
  std::fill(row.begin(), row.end(), nothing);
  for (Index begin = round_down(retained.begin, tile_keys); begin < retained.end; begin += tile_keys) {
    const Range keys = intersect({begin, begin + tile_keys}, retained);
    if (mask.coverage({q_pos, q_pos + 1}, keys) == Coverage::none) continue;
    const std::uint64_t bits = row_bits(mask, q_pos, keys.begin, keys.size());
    if (bits == 0) continue;
    chunk.begin(begin / chunk_keys);
    chunk.read(call.view, products, seq, kv_head, keys, 1);
    Acc* tile_scores = memory.scores;
    for (auto* piece = chunk.pieces_begin(); piece != chunk.pieces_end(); ++piece) {
      piece->k.product({memory.q, 0, piece->k.at(0, 0), piece->k.stride,
                        tile_scores + piece->column - keys.begin % chunk_keys, score_stride, 1,
                        call.head_dim(), piece->size, false});
    }
    for (Index j = 0; j < keys.size(); ++j) tile_scores[j] *= call.scale;
    if constexpr (!std::is_same_v<typename Call::ScoreType, ScoreChain<>>) {
      const Index first = std::countr_zero(bits), last = 64 - std::countl_zero(bits);
      call.score.mod(std::span<Acc>(tile_scores + first, static_cast<std::size_t>(last - first)),
                     ScoreRow{seq, q_head, q_pos, keys.begin + first, queries.first_position});
    }
    for (Index j = 0; j < keys.size(); ++j) {
      if ((bits >> j & 1) == 0) continue;
      const double s = static_cast<double>(tile_scores[j]);
      row[static_cast<std::size_t>(keys.begin - retained.begin + j)] = s;
      if (s > max) max = s;
    }
  }
  if (max == nothing) max = 0;
  double sum = std::exp(sink - max);
  for (double& s : row) sum += s = std::exp(s - max);
  // A sum of NaN makes NaN of what is seen alone.
  for (std::size_t j = 0; j < row.size(); ++j)
    if (row[j] != 0) weights[j] = static_cast<W>(row[j] / sum);
  return max + std::log(sum);
}

}  // namespace detail

inline namespace GQA_EIGEN_MEMORY {

/// The probabilities p = softmax(scores) of chosen rows, tokens x q_heads x keys in the order chosen,
/// computed row by row without the full matrix: for looking at attention, not for speed. W is float or
/// double.
///
/// Arguments and conventions are those of attention(); keys count from the view's first retained position.
/// lse_into(tensor) takes the lse of the chosen rows, tokens x q_heads in the order chosen, float or, where
/// keys are double, double; that of attention() up to rounding. A Workspace is worked in: nothing but the
/// result is allocated once it is large enough. Masked keys have weight 0, a row that may see nothing only
/// zeros, and with sinks a row sums to less than 1. Throws as attention() does, and std::invalid_argument for
/// a sequence, token or head that is not there.
template <class W = float, Index H = Dynamic, Index G = Dynamic, detail::RowsLike Q, KVLike KV,
          detail::Extras... X>
Tensor3<W> attention_weights(const Q& q, const KV& kv, const WeightRows& which, const X&... arguments) {
  static_assert(std::is_same_v<W, float> || std::is_same_v<W, double>, "gqa: weights are float or double");
  const auto extras = detail::extras_of(arguments...);
  decltype(auto) view = as_kv_view(kv);
  using Acc = Accumulator<typename std::remove_cvref_t<decltype(view)>::Scalar>;
  const auto lse = detail::lse_rows<Acc>(extras);
  const auto queries = detail::as_queries(q);
  using TQ = std::remove_const_t<std::remove_pointer_t<decltype(queries.q.data)>>;
  const TensorView<TQ> out(nullptr, queries.q.batch, queries.q.tokens, queries.q.heads, view.value_dim());
  const auto compute = [&](const auto& call) {
    using Call = std::remove_cvref_t<decltype(call)>;
    GQA_CHECK(which.seq >= 0 && which.seq < call.num_seqs, std::invalid_argument,
              "rows: seq is " << which.seq << ", expected at least 0 and less than " << call.num_seqs);
    const detail::Chosen tokens(which.tokens, queries.tokens(which.seq), "rows: token");
    const detail::Chosen q_heads(which.q_heads, call.heads.num_q_heads, "rows: q_head");
    if (lse) detail::check_lse(*lse, 1, tokens.size(), q_heads.size());
    const Index keys = call.view.retained(which.seq).size();
    Tensor3<W> weights(tokens.size(), q_heads.size(), keys);
    const detail::ProductKernels<typename Call::T> products(isa(), false);
    detail::Arena measure;
    detail::WeightsMemory<Call>(measure, call, keys);
    Workspace own;
    Workspace& workspace = extras.options.workspace == nullptr ? own : *extras.options.workspace;
    detail::Arena arena(workspace.reserve(measure.used()));
    detail::WeightsMemory<Call> memory(arena, call, keys);
    for (Index t = 0; t < tokens.size(); ++t) {
      for (Index i = 0; i < q_heads.size(); ++i) {
        Index kv_head = 0;  // the one whose group holds this head
        for (Index g = 0; g < call.heads.num_kv_heads; ++g)
          for (Index j = 0; j < call.heads.size(g); ++j)
            if (call.heads.q_head(g, j) == q_heads[i]) kv_head = g;
        W* row = weights.data() + (t * q_heads.size() + i) * keys;
        const double row_lse =
            detail::weights_row(call, memory, products, which.seq, tokens[t], q_heads[i], kv_head, row);
        if (lse) lse->data[t * lse->token_stride + i * lse->head_stride] = static_cast<Acc>(row_lse);
      }
    }
    return weights;
  };
  return detail::with_call<H, G>(queries, view, out, std::optional<RowsView<Acc>>{}, extras, compute);
}
template <class W = float, Index H = Dynamic, Index G = Dynamic, detail::RowsLike Q, detail::RowsLike K,
          detail::RowsLike V, detail::Extras... X>
Tensor3<W> attention_weights(const Q& q, const K& k, const V& v, const WeightRows& which,
                             const X&... arguments) {
  return attention_weights<W, H, G>(q, detail::as_kv(k, v), which, arguments...);
}

// Calls that fit none of the above: each says what to write instead.

template <class W = float, Index H = Dynamic, Index G = Dynamic, class Q, class KV, class... X>
Tensor3<W> attention_weights(const Q&, const KV&, const WeightRows&, const X&...) {
  detail::diagnose_attention<false, const Q&, const KV&, const X&...>();
  return {};
}
template <class W = float, Index H = Dynamic, Index G = Dynamic, class Q, class K, class V, class... X>
Tensor3<W> attention_weights(const Q&, const K&, const V&, const WeightRows&, const X&...) {
  detail::diagnose_attention<false, const Q&, const K&, const V&, const X&...>();
  return {};
}
template <class W = float, Index H = Dynamic, Index G = Dynamic, class KV, class A4 = AttentionOptions,
          class A5 = AttentionOptions, class A6 = AttentionOptions, class A7 = AttentionOptions,
          class A8 = AttentionOptions, class A9 = AttentionOptions>
Tensor3<W> attention_weights(detail::Anything, const KV&, const WeightRows&, const A4&, const A5& = {},
                             const A6& = {}, const A7& = {}, const A8& = {}, const A9& = {}) {
  detail::refuse_braces<A4>();
  return {};
}
template <class W = float, Index H = Dynamic, Index G = Dynamic, class K, class V,
          class A5 = AttentionOptions, class A6 = AttentionOptions, class A7 = AttentionOptions,
          class A8 = AttentionOptions, class A9 = AttentionOptions, class A10 = AttentionOptions>
Tensor3<W> attention_weights(detail::Anything, const K&, const V&, const WeightRows&, const A5&,
                             const A6& = {}, const A7& = {}, const A8& = {}, const A9& = {},
                             const A10& = {}) {
  detail::refuse_braces<A5>();
  return {};
}

}  // namespace GQA_EIGEN_MEMORY

}  // namespace gqa
