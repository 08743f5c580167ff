// SPDX-License-Identifier: Apache-2.0
// The probabilities themselves, of rows that somebody wants to look at.
#pragma once

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "gqa/kernel/diagnosis.hpp"
#include "gqa/kernel/score_rows.hpp"

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

  /// Calls f(i) for every i that stands for `index`: one may be named twice.
  template <class F>
  void for_each(Index index, F&& f) const {
    if (wanted.empty()) return f(index);
    for (Index i = 0; i < size(); ++i)
      if ((*this)[i] == index) f(i);
  }
  /// Whether a KV head is read by one of them.
  bool any_of(const HeadTable& heads, Index kv_head) const {
    bool any = false;
    for (Index i = 0; i < heads.size(kv_head); ++i)
      for_each(heads.q_head(kv_head, i), [&](Index) { any = true; });
    return any;
  }
};

/// Tells `tell` the items of chosen tokens of one sequence: runs of tokens that follow each other, `part` the
/// number of the first among the chosen.
template <class Tell>
void for_token_runs(const Chosen& tokens, Index most, Tell&& tell) {
  for (Index i = 0; i < tokens.size();) {
    Index end = i + 1;
    while (end < tokens.size() && end - i < most && tokens[end] == tokens[end - 1] + 1) ++end;
    tell(i, Range{tokens[i], tokens[end - 1] + 1});
    i = end;
  }
}

}  // namespace detail

inline namespace GQA_EIGEN_MEMORY {

/// The probabilities p = softmax(scores) of chosen rows, tokens x q_heads x keys in the order chosen: some
/// rows at a time, in a few MiB a thread and the result. W is float or double, as fast as can be where it
/// is the type of the sums: float, or double where keys are.
///
/// Arguments and conventions are those of attention(); keys count from the view's first retained position.
/// lse_into(tensor) takes the lse of the chosen rows, tokens x q_heads in the order chosen, float or, where
/// keys are double, double; that of attention() up to rounding. A Workspace is worked in: nothing but the
/// result and the list of the chosen is allocated once it is large enough. Masked keys have weight 0, a row
/// that may see nothing only zeros, and with sinks a row sums to less than 1. Throws as attention() does, and
/// std::invalid_argument for a sequence, token or head that is not there.
template <Index H = Dynamic, Index G = Dynamic, class W = float, ExecutorLike E, detail::RowsLike Q,
          KVLike KV, detail::Extras... X>
Tensor3<W> attention_weights(E&& executor, const Q& q, const KV& kv, const WeightRows& which,
                             const X&... arguments) {
  static_assert(std::is_same_v<W, float> || std::is_same_v<W, double>, "gqa: weights are float or double");
  const auto extras = detail::extras_of(arguments...);
  static_assert(!decltype(extras)::has_states,
                "gqa: attention_weights has no state_into and no resume: attention() takes them");
  decltype(auto) view = as_kv_view(kv);
  const auto call = detail::make_call<H, G>(q, view, extras);
  detail::refuse_tuning(extras.options, "attention_weights");
  using Acc = Accumulator<typename std::remove_cvref_t<decltype(view)>::Scalar>;
  GQA_CHECK(which.seq >= 0 && which.seq < call.num_seqs, std::invalid_argument,
            "rows: seq is " << which.seq << ", expected at least 0 and less than " << call.num_seqs);
  const detail::Chosen tokens(which.tokens, call.batch.tokens(which.seq), "rows: token");
  const detail::Chosen q_heads(which.q_heads, call.batch.num_heads, "rows: q_head");
  const auto lse = detail::lse_rows<Acc>(extras);
  if (lse) detail::checked_lse(*lse, 1, tokens.size(), q_heads.size());
  const Range keys = call.kv.retained(which.seq).hull();
  Tensor3<W> weights(tokens.size(), q_heads.size(), keys.size());
  detail::wish_huge_pages(weights.data(), static_cast<std::size_t>(weights.size()) * sizeof(W));

  return detail::with_workspace(extras.options, [&](Workspace& workspace) {
    auto& items = workspace.plan().items;
    items.clear();
    detail::for_token_runs(tokens, detail::score_rows_tokens(call), [&](Index first, Range run) {
      for (Index kv_head = 0; kv_head < call.heads.num_kv_heads; ++kv_head)
        if (q_heads.any_of(call.heads, kv_head))
          items.push_back({.seq = which.seq, .kv_head = kv_head, .q = run, .kv = keys, .part = first});
    });
    const auto for_places = [&](const detail::WorkItem& work, const auto& item, Index row, auto&& f) {
      const Index t = work.part + row / item.group_size;
      q_heads.for_each(item.q_head(row), [&](Index h) { f(t, h); });
    };
    const auto row_at = [&](Index t, Index h) {
      return weights.data() + (t * q_heads.size() + h) * keys.size();
    };
    const auto place = [&](const detail::WorkItem& work, const detail::Item<Acc>& item, Index row) -> Acc* {
      if constexpr (std::is_same_v<W, Acc>) {
        W* to = nullptr;
        Index places = 0;
        for_places(work, item, row, [&](Index t, Index h) {
          to = row_at(t, h);
          ++places;
        });
        return places == 1 ? to : nullptr;
      } else {
        return nullptr;
      }
    };
    const auto tell = [&](const detail::WorkItem& work, const detail::Item<Acc>& item, Index row, Range told,
                          std::span<const Acc> p) {
      for_places(work, item, row, [&](Index t, Index h) {
        W* to = row_at(t, h) + told.begin - keys.begin;
        if (p.empty())
          std::fill_n(to, told.size(), W{0});
        else if constexpr (std::is_same_v<W, Acc>)
          std::copy(p.begin(), p.end(), to);
        else
          std::transform(p.begin(), p.end(), to, [](Acc x) { return static_cast<W>(x); });
      });
    };
    const auto tell_lse = [&](const detail::WorkItem& work, const detail::Item<Acc>& item, Index row,
                              Acc row_lse) {
      if (!lse) return;
      for_places(work, item, row, [&](Index t, Index h) {
        lse->data[t * lse->token_stride + h * lse->head_stride] = row_lse;
      });
    };
    const detail::RowsWanted<Acc> wanted{true, place, tell, tell_lse};
    detail::with_executor(executor, [&](const detail::ExecutorRef& runner) {
      detail::score_rows<Acc>(runner, call, items, wanted, workspace);
    });
    return std::move(weights);
  });
}
template <Index H = Dynamic, Index G = Dynamic, class W = float, ExecutorLike E, detail::RowsLike Q,
          detail::RowsLike K, detail::RowsLike V, detail::Extras... X>
Tensor3<W> attention_weights(E&& executor, const Q& q, const K& k, const V& v, const WeightRows& which,
                             const X&... extras) {
  return attention_weights<H, G, W>(executor, q, detail::as_kv(k, v), which, extras...);
}

/// The same on the calling thread.
template <Index H = Dynamic, Index G = Dynamic, class W = float, detail::RowsLike Q, KVLike KV,
          detail::Extras... X>
Tensor3<W> attention_weights(const Q& q, const KV& kv, const WeightRows& which, const X&... extras) {
  return attention_weights<H, G, W>(Serial{}, q, kv, which, extras...);
}
template <Index H = Dynamic, Index G = Dynamic, class W = float, detail::RowsLike Q, detail::RowsLike K,
          detail::RowsLike V, detail::Extras... X>
Tensor3<W> attention_weights(const Q& q, const K& k, const V& v, const WeightRows& which,
                             const X&... extras) {
  return attention_weights<H, G, W>(Serial{}, q, detail::as_kv(k, v), which, extras...);
}

// Calls that fit none of the above: each says what to write instead.

template <Index H = Dynamic, Index G = Dynamic, class W = float, class Q, class KV, class... X>
Tensor3<W> attention_weights(const Q&, const KV&, const WeightRows&, const X&...) {
  detail::diagnose_attention<false, const Q&, const KV&, const X&...>();
  return {};
}
// A const executor that fits is no tensor: `const Q&` would suit it better than `E&&`.
template <Index H = Dynamic, Index G = Dynamic, class W = float, class Q, class K, class V, class... X>
requires(!detail::FitsWorkspaceBytes<const Q&, const K&, const V&, const X&...>) Tensor3<W> attention_weights(
    const Q&, const K&, const V&, const WeightRows&, const X&...) {
  detail::diagnose_attention<false, const Q&, const K&, const V&, const X&...>();
  return {};
}
template <Index H = Dynamic, Index G = Dynamic, class W = float, class KV, class A4 = AttentionOptions,
          class A5 = AttentionOptions, class A6 = AttentionOptions, class A7 = AttentionOptions,
          class A8 = AttentionOptions, class A9 = AttentionOptions>
Tensor3<W> attention_weights(detail::Anything, const KV&, const WeightRows&, const A4&, const A5& = {},
                             const A6& = {}, const A7& = {}, const A8& = {}, const A9& = {}) {
  detail::refuse_braces<A4>();
  return {};
}
template <Index H = Dynamic, Index G = Dynamic, class W = float, class K, class V,
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
