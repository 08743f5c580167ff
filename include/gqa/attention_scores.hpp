// SPDX-License-Identifier: Apache-2.0
// Whole matrices of scores, at any step of their way to the probabilities.
#pragma once

#include <algorithm>
#include <limits>
#include <span>
#include <utility>

#include "gqa/kernel/diagnosis.hpp"
#include "gqa/kernel/score_rows.hpp"

namespace gqa {

/// A step of a score's way, to look at what it leaves. Each includes those before it; temperatures belong to
/// the scale.
enum class ScoresAfter { scale, soft_cap, bias, mask, softmax };

namespace detail {

/// A score function as far as a stage.
template <class Score>
struct ScoreUntil {
  const Score& score;
  ScoreStage last;

  template <class Acc>
  void mod(std::span<Acc> scores, const ScoreRow& at) const {
    mod_until(score, last, scores, at);
  }
};

}  // namespace detail

inline namespace GQA_EIGEN_MEMORY {

/// The scores of a whole call after a step of their way, batch x heads x queries x keys (`qk_matmul_output`
/// of ONNX Attention): scale * <q, k>, then soft-capped, then biased, then -inf where the mask hides a key,
/// then the probabilities. A matrix as large as it sounds: attention_weights() looks at chosen rows. W is
/// float or double.
///
/// Arguments and conventions are those of attention(), without out and lse. Keys count from the first
/// position that any sequence retains, in padded batches from the tensors' first; rows and columns that a
/// shorter sequence lacks are -inf, and 0 after the softmax. What stands at a masked key before the mask is
/// computed like any other. Throws as attention() does.
template <Index H = Dynamic, Index G = Dynamic, class W = float, ExecutorLike E, detail::RowsLike Q,
          KVLike KV, detail::Extras... X>
Tensor4<W> attention_scores(E&& executor, const Q& q, const KV& kv, ScoresAfter after,
                            const X&... arguments) {
  static_assert(std::is_same_v<W, float> || std::is_same_v<W, double>, "gqa: scores are float or double");
  const auto extras = detail::extras_of(arguments...);
  static_assert(!decltype(extras)::has_lse,
                "gqa: attention_scores has no lse_into: attention() and attention_weights() write it");
  static_assert(!decltype(extras)::has_states,
                "gqa: attention_scores has no state_into and no resume: attention() takes them");
  decltype(auto) view = as_kv_view(kv);
  using Acc = Accumulator<typename std::remove_cvref_t<decltype(view)>::Scalar>;
  using Score = std::remove_cvref_t<decltype(extras.score)>;
  auto call = detail::make_call<H, G>(q, view, extras);
  detail::refuse_tuning(extras.options, "attention_scores");

  const detail::ScoreUntil<Score> until{extras.score, after == ScoresAfter::scale      ? ScoreStage::scale
                                                      : after == ScoresAfter::soft_cap ? ScoreStage::soft_cap
                                                                                       : ScoreStage::bias};
  if (call.score)
    call.score = {&until, [](const void* score, std::span<Acc> scores, const ScoreRow& at) {
                    static_cast<const detail::ScoreUntil<Score>*>(score)->mod(scores, at);
                  }};
  if (after < ScoresAfter::mask) call.mask = detail::source_of(detail::everything);

  Range keys = {max_position, 0};
  Index num_tokens = 0;
  for (Index seq = 0; seq < call.num_seqs; ++seq) {
    const Range r = call.kv.retained(seq).hull();
    num_tokens = std::max(num_tokens, call.batch.tokens(seq));
    if (!r.empty()) keys = {std::min(keys.begin, r.begin), std::max(keys.end, r.end)};
  }
  if (call.kv.padded_tokens > 0) keys = {0, call.kv.padded_tokens};
  if (keys.empty()) keys = {};
  bool all_told = true;  // no sequence lacks rows or columns
  for (Index seq = 0; seq < call.num_seqs; ++seq)
    all_told &= call.batch.tokens(seq) == num_tokens && call.kv.retained(seq).hull() == keys;
  const Index rows =
      checked_mul(checked_mul(call.num_seqs, call.heads.num_q_heads, "scores"), num_tokens, "scores");
  checked_mul(checked_mul(rows, keys.size(), "scores"), sizeof(W), "scores");
  Tensor4<W> scores(call.num_seqs, call.heads.num_q_heads, num_tokens, keys.size());
  detail::wish_huge_pages(scores.data(), static_cast<std::size_t>(scores.size()) * sizeof(W));
  const W nothing = after == ScoresAfter::softmax ? W{0} : -std::numeric_limits<W>::infinity();
  if (!all_told) scores.setConstant(nothing);

  return detail::with_workspace(extras.options, [&](Workspace& workspace) {
    auto& items = workspace.plan().items;
    items.clear();
    const Index step = detail::score_rows_tokens(call);
    for (Index seq = 0; seq < call.num_seqs; ++seq)
      for (Index begin = 0; begin < call.batch.tokens(seq); begin += step)
        for (Index kv_head = 0; kv_head < call.heads.num_kv_heads; ++kv_head)
          items.push_back({.seq = seq,
                           .kv_head = kv_head,
                           .q = {begin, std::min(begin + step, call.batch.tokens(seq))},
                           .kv = call.kv.retained(seq).hull()});
    const auto at = [&](const detail::Item<Acc>& item, Index row, Index position) {
      const Index i = (item.seq * call.heads.num_q_heads + item.q_head(row)) * num_tokens + item.token(row);
      return scores.data() + i * keys.size() + (position - keys.begin);
    };
    const auto place = [&](const detail::WorkItem&, const detail::Item<Acc>& item, Index row) -> Acc* {
      if constexpr (std::is_same_v<W, Acc>) return at(item, row, item.retained.hull().begin);
      return nullptr;
    };
    const auto tell = [&](const detail::WorkItem&, const detail::Item<Acc>& item, Index row, Range told,
                          std::span<const Acc> values) {
      W* to = at(item, row, told.begin);
      if (values.empty()) std::fill_n(to, told.size(), nothing);
      for (std::size_t j = 0; j < values.size(); ++j) to[j] = static_cast<W>(values[j]);
    };
    const auto tell_lse = [](const detail::WorkItem&, const detail::Item<Acc>&, Index, Acc) {};
    const detail::RowsWanted<Acc> wanted{after == ScoresAfter::softmax, place, tell, tell_lse};
    detail::with_executor(executor, [&](const detail::ExecutorRef& runner) {
      detail::score_rows<Acc>(runner, call, items, wanted, workspace);
    });
    return std::move(scores);
  });
}
template <Index H = Dynamic, Index G = Dynamic, class W = float, ExecutorLike E, detail::RowsLike Q,
          detail::RowsLike K, detail::RowsLike V, detail::Extras... X>
Tensor4<W> attention_scores(E&& executor, const Q& q, const K& k, const V& v, ScoresAfter after,
                            const X&... extras) {
  return attention_scores<H, G, W>(executor, q, detail::as_kv(k, v), after, extras...);
}

/// The same on the calling thread.
template <Index H = Dynamic, Index G = Dynamic, class W = float, detail::RowsLike Q, KVLike KV,
          detail::Extras... X>
Tensor4<W> attention_scores(const Q& q, const KV& kv, ScoresAfter after, const X&... extras) {
  return attention_scores<H, G, W>(Serial{}, q, kv, after, extras...);
}
template <Index H = Dynamic, Index G = Dynamic, class W = float, detail::RowsLike Q, detail::RowsLike K,
          detail::RowsLike V, detail::Extras... X>
Tensor4<W> attention_scores(const Q& q, const K& k, const V& v, ScoresAfter after, const X&... extras) {
  return attention_scores<H, G, W>(Serial{}, q, detail::as_kv(k, v), after, extras...);
}

// Calls that fit none of the above: each says what to write instead.

template <Index H = Dynamic, Index G = Dynamic, class W = float, class Q, class KV, class... X>
Tensor4<W> attention_scores(const Q&, const KV&, ScoresAfter, const X&...) {
  detail::diagnose_attention<false, const Q&, const KV&, const X&...>();
  return {};
}
// A const executor that fits is no tensor: `const Q&` would suit it better than `E&&`.
template <Index H = Dynamic, Index G = Dynamic, class W = float, class Q, class K, class V, class... X>
requires(!detail::FitsWorkspaceBytes<const Q&, const K&, const V&, const X&...>) Tensor4<W> attention_scores(
    const Q&, const K&, const V&, ScoresAfter, const X&...) {
  detail::diagnose_attention<false, const Q&, const K&, const V&, const X&...>();
  return {};
}

}  // namespace GQA_EIGEN_MEMORY

}  // namespace gqa
