// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/kernel/backward_diagnosis.hpp"
#include "gqa/kernel/make_backward_call.hpp"

namespace gqa {

namespace detail {

template <Index H, Index G, ExecutorLike E, RowsLike Q, KVView View, class Out, class Lse, class DOut,
          class Grads, class... X>
void run_backward(E& executor, const Q& q, const View& view, const KeyTensors& keys, const Out& out,
                  const Lse& lse, const DOut& d_out, const Grads& grads, const X&... arguments) {
  using Acc = Accumulator<typename View::Scalar>;
  const auto extras = extras_of(arguments...);
  const BackwardCall<Acc> call =
      make_backward_call<H, G>(q, view, keys, as_view(out), as_rows(lse), as_view(d_out), grads, extras);
  with_workspace(extras.options, [&](Workspace& workspace) {
    with_executor(executor,
                  [&](const ExecutorRef& runner) { attend_backward<Acc>(runner, call, workspace); });
  });
}

}  // namespace detail

/// The gradients of attention(): from d_out, the loss's gradient by out, those by q, k and v. With P the
/// probabilities, recomputed a block at a time from the lse that attention() wrote (FlashAttention-2, Dao
/// 2023), and sums over the pairs that see each other:
///
///     dV = P^T dO,  dP = dO V^T,  dS = P (dP - rowsum(dO out)),  dQ = scale dS K,  dK = scale dS^T Q
///
/// dk and dv are sums over the query heads that share K and V. q, k, v, out and lse are those of the forward,
/// d_out is shaped like out, and gradients_into(dq, dk, dv) names where results go, shaped like q, k and v;
/// for packed sequences all are the packed tensors alone. Where keys come from a cache or view, dk and dv are
/// sequences x positions x heads x dim, from the first retained position on. The executor before them and
/// what comes after them, in any order, are as in attention(): mask, score function, SinkLogits,
/// HeadGrouping, AttentionOptions; and also sink_gradient_into and score_gradient_into for gradients of
/// parameters. A score function needs a derivative: score_fn(f, derivative).
///
/// Memory is linear in length, and nothing is allocated where a Workspace has become large enough. Sums are
/// taken in float, or double for double. The bits do not depend on the executor or the batch: queries are cut
/// into slices by the lengths alone, whose sums are merged in ascending order. What masks rule out is never
/// read, and a masked NaN reaches nothing; one in d_out reaches its row of dq, and the keys that its row
/// sees.
///
/// Throws std::invalid_argument naming the argument, the dimension, its value and the expected one; for an
/// lse that attention() would not write (+inf, or NaN where out has none); and where gradients share memory
/// with other tensors or each other. Throws std::length_error for sizes that overflow. Both before anything
/// is written.
template <Index H = Dynamic, Index G = Dynamic, ExecutorLike E, detail::RowsLike Q, detail::RowsLike K,
          detail::RowsLike V, ScalarTensor Out, class Lse, ScalarTensor DOut, class TQ, class TK, class TV,
          detail::Extras... X>
void attention_backward(E&& executor, const Q& q, const K& k, const V& v, const Out& out, const Lse& lse,
                        const DOut& d_out, const Gradients<TQ, TK, TV>& gradients, const X&... extras) {
  detail::run_backward<H, G>(executor, q, detail::as_kv(k, v), detail::key_tensors(k, v), out, lse, d_out,
                             gradients, extras...);
}

/// The same over a cache or any KVView.
template <Index H = Dynamic, Index G = Dynamic, ExecutorLike E, detail::RowsLike Q, KVLike KV,
          ScalarTensor Out, class Lse, ScalarTensor DOut, class TQ, class TK, class TV, detail::Extras... X>
void attention_backward(E&& executor, const Q& q, const KV& kv, const Out& out, const Lse& lse,
                        const DOut& d_out, const Gradients<TQ, TK, TV>& gradients, const X&... extras) {
  detail::run_backward<H, G>(executor, q, as_kv_view(kv), {}, out, lse, d_out, gradients, extras...);
}

/// The same on the calling thread.
template <Index H = Dynamic, Index G = Dynamic, detail::RowsLike Q, detail::RowsLike K, detail::RowsLike V,
          ScalarTensor Out, class Lse, ScalarTensor DOut, class TQ, class TK, class TV, detail::Extras... X>
void attention_backward(const Q& q, const K& k, const V& v, const Out& out, const Lse& lse, const DOut& d_out,
                        const Gradients<TQ, TK, TV>& gradients, const X&... extras) {
  attention_backward<H, G>(Serial{}, q, k, v, out, lse, d_out, gradients, extras...);
}
template <Index H = Dynamic, Index G = Dynamic, detail::RowsLike Q, KVLike KV, ScalarTensor Out, class Lse,
          ScalarTensor DOut, class TQ, class TK, class TV, detail::Extras... X>
void attention_backward(const Q& q, const KV& kv, const Out& out, const Lse& lse, const DOut& d_out,
                        const Gradients<TQ, TK, TV>& gradients, const X&... extras) {
  attention_backward<H, G>(Serial{}, q, kv, out, lse, d_out, gradients, extras...);
}

// Calls that fit none of the above: each says what to write instead.
template <Index H = Dynamic, Index G = Dynamic, class... A>
requires(!detail::FitsBackward<A...>) void attention_backward(A&&...) { detail::diagnose_backward<A...>(); }

}  // namespace gqa
