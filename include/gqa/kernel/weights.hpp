// SPDX-License-Identifier: Apache-2.0
// The probabilities themselves, for the few rows somebody wants to look at.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "gqa/kernel/run.hpp"

namespace gqa {

/// Which rows of a call to look at: tokens of one sequence of the batch, and query heads. Empty: all of them.
struct WeightRows {
  Index seq = 0;
  std::vector<Index> tokens = {};
  std::vector<Index> q_heads = {};
};

namespace detail {

inline std::vector<Index> chosen(const std::vector<Index>& wanted, Index count, const char* name) {
  std::vector<Index> result = wanted;
  for (Index i : wanted)
    GQA_CHECK(i >= 0 && i < count, std::invalid_argument,
              name << " is " << i << ", expected at least 0 and less than " << count);
  for (Index i = 0; wanted.empty() && i < count; ++i) result.push_back(i);
  return result;
}

/// One row of a call: its scores by the kernels' own product, then its softmax in double.
template <class Call, class W>
void weights_row(const Call& call, Chunk<typename Call::T>& chunk,
                 const ProductKernels<typename Call::T>& products, Index seq, Index token, Index q_head,
                 Index kv_head, W* weights) {
  using Acc = typename Call::Acc;
  const auto queries = call.queries(seq);
  using TQ = std::remove_const_t<std::remove_pointer_t<decltype(queries.q)>>;
  const Range retained = call.view.retained(seq);
  const Index q_pos = queries.first_position + token;
  std::vector<Acc> q(static_cast<std::size_t>(round_up(call.head_dim(), simd::padding)));
  simd::convert_kernels<TQ>(isa()).widen(
      queries.q + token * queries.q_token_stride + q_head * queries.q_head_stride, call.head_dim(), Acc{1},
      q.data());
  decltype(auto) mask = mask_for(call.mask, seq, q_head, queries.first_position);
  std::vector<Acc> scores(static_cast<std::size_t>(chunk_keys + simd::padding));
  const double sink =
      call.sinks == nullptr ? -std::numeric_limits<double>::infinity() : (*call.sinks)(q_head);
  double max = sink;
  std::fill(weights, weights + retained.size(), W{0});
  std::vector<double> row(static_cast<std::size_t>(retained.size()),
                          -std::numeric_limits<double>::infinity());
  for (Index begin = round_down(retained.begin, tile_keys); begin < retained.end; begin += tile_keys) {
    const Range keys = intersect({begin, begin + tile_keys}, retained);
    if (mask.coverage({q_pos, q_pos + 1}, keys) == Coverage::none) continue;
    const std::uint64_t bits = row_bits(mask, q_pos, keys.begin, keys.size());
    if (bits == 0) continue;
    chunk.begin(begin / chunk_keys);
    chunk.read(call.view, products, seq, kv_head, keys, 1);
    Acc* tile_scores = scores.data();
    for (auto* piece = chunk.pieces_begin(); piece != chunk.pieces_end(); ++piece) {
      piece->k.product({q.data(), 0, piece->k.at(0, 0), piece->k.stride,
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
  if (max == -std::numeric_limits<double>::infinity()) max = 0;
  double sum = std::exp(sink - max);
  for (double& s : row) sum += s = std::exp(s - max);
  // A sum of NaN makes NaN of what is seen alone.
  for (std::size_t j = 0; j < row.size(); ++j)
    if (row[j] != 0) weights[j] = static_cast<W>(row[j] / sum);
}

}  // namespace detail

inline namespace GQA_EIGEN_MEMORY {

/// The probabilities p = softmax(scores) of chosen rows, tokens x q_heads x keys in the order chosen,
/// computed row by row without the full matrix: for looking at attention, not for speed. W is float or
/// double.
///
/// Arguments and conventions are those of attention(); keys count from the view's first retained position.
/// Masked keys have weight 0, a row that may see nothing only zeros, and with sinks a row sums to less
/// than 1. Throws as attention() does, and std::invalid_argument for a sequence, token or head that is not
/// there.
template <class W = float, Index H = Dynamic, Index G = Dynamic, detail::RowsLike Q, KVLike KV,
          detail::Extras... X>
Tensor3<W> attention_weights(const Q& q, const KV& kv, const WeightRows& which, const X&... extras) {
  const auto view = as_kv_view(kv);
  const auto queries = detail::as_queries(q);
  using TQ = std::remove_const_t<std::remove_pointer_t<decltype(queries.q.data)>>;
  const TensorView<TQ> out(nullptr, queries.q.batch, queries.q.tokens, queries.q.heads, view.value_dim());
  const auto compute = [&](const auto& call, const AttentionOptions&) {
    using Call = std::remove_cvref_t<decltype(call)>;
    detail::chosen({which.seq}, call.num_seqs, "rows: seq");
    const auto tokens = detail::chosen(which.tokens, queries.tokens(which.seq), "rows: token");
    const auto q_heads = detail::chosen(which.q_heads, call.heads.num_q_heads, "rows: q_head");
    const Index keys = call.view.retained(which.seq).size();
    Tensor3<W> weights(static_cast<Index>(tokens.size()), static_cast<Index>(q_heads.size()), keys);
    const detail::ProductKernels<typename Call::T> products(isa(), false);
    const auto size = [&](detail::Arena& arena) {
      return detail::Chunk<typename Call::T>(arena, call.head_dim(), call.view.value_dim(),
                                             call.view.scratch_bytes());
    };
    detail::Arena measure;
    size(measure);
    Workspace workspace;
    detail::Arena arena(workspace.reserve(measure.used()));
    auto chunk = size(arena);
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      for (std::size_t i = 0; i < q_heads.size(); ++i) {
        Index kv_head = 0;  // the one whose group holds this head
        for (Index g = 0; g < call.heads.num_kv_heads; ++g)
          for (Index j = 0; j < call.heads.size(g); ++j)
            if (call.heads.q_head(g, j) == q_heads[i]) kv_head = g;
        W* row = weights.data() + (static_cast<Index>(t * q_heads.size() + i)) * keys;
        detail::weights_row(call, chunk, products, which.seq, tokens[t], q_heads[i], kv_head, row);
      }
    }
    return weights;
  };
  return detail::with_call<H, G>(queries, view, out, compute, extras...);
}
template <class W = float, Index H = Dynamic, Index G = Dynamic, detail::RowsLike Q, detail::RowsLike K,
          detail::RowsLike V, detail::Extras... X>
Tensor3<W> attention_weights(const Q& q, const K& k, const V& v, const WeightRows& which,
                             const X&... extras) {
  return attention_weights<W, H, G>(q, detail::as_kv(k, v), which, extras...);
}

}  // namespace GQA_EIGEN_MEMORY

}  // namespace gqa
