// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/kernel/attend.hpp"
#include "gqa/kernel/diagnosis.hpp"

namespace gqa {

namespace detail {

template <Index H, Index G, ExecutorLike E, RowsLike Q, KVView View, class TO, class... X>
void run_attention(E& executor, const Q& q, const View& view, const TensorView<TO>& out,
                   const X&... arguments) {
  using Acc = Accumulator<typename View::Scalar>;
  const auto extras = extras_of(arguments...);
  const Request<Acc> request = request_of<H, G>(q, view, extras);
  const Results<Acc> results = results_of<Acc>(out, extras);
  with_executor(executor, [&](const ExecutorRef& runner) { attend(runner, request, results); });
}

template <Index H, Index G, ExecutorLike E, RowsLike Q, KVView View, class... X>
Index needed_bytes(E& executor, const Q& q, const View& view, const X&... arguments) {
  using Acc = Accumulator<typename View::Scalar>;
  const auto extras = extras_of(arguments...);
  static_assert(!decltype(extras)::has_lse,
                "gqa: workspace_bytes writes no lse, which lies in memory of yours: leave lse_into out");
  static_assert(
      !decltype(extras)::has_states,
      "gqa: workspace_bytes writes no state, which lies in memory of yours: leave state_into and resume out");
  const Request<Acc> request = request_of<H, G>(q, view, extras);
  return with_executor(executor,
                       [&](const ExecutorRef& runner) { return call_bytes(request, runner.num_threads); });
}

}  // namespace detail

/// Exact grouped-query attention: for query head h, which reads KV head g = h / (H / G), and query position
/// i,
///
///     s_j = scale * <q[i, h], k[j, g]>  over the keys j the mask lets i see,
///     out[i, h] = sum_j softmax(s)_j v[j, g]
///
/// q is tokens x H x D, k is tokens x G x D, v is tokens x G x Dv, out is tokens x H x Dv: Eigen tensors or
/// maps (column-major ones list dimensions in reverse), a batch first if there is one, or TensorViews, such
/// as those of heads_first(tensor) and heads_of(matrix, H); q, k and v may be ragged(tensor, offsets),
/// sequences of different lengths. In place of k and v any KVView, a KVList of one for each sequence, or a
/// KVCache of one layer. MHA is G = H and MQA is G = 1. H and G may be given as template arguments, which are
/// checked against the tensors. Sequences of a padded batch have lengths: padded(k, v, lengths). After the
/// tensors, in any order, each optional and at most once: a mask, a score function, SinkLogits, a
/// HeadGrouping, lse_into(tensor), state_into(state), resume(state), AttentionOptions. Before them,
/// optionally, what to run on: an Eigen::ThreadPool, Eigen::ThreadPoolDevice or Executor; the calling thread
/// otherwise.
///
/// The last query sits on the last key (bottom-right, as in ONNX Attention and FlashAttention) unless
/// q_offset is given. A row that may see nothing gives 0 and lse -inf. Outputs do not depend, in any bit, on
/// the executor, the batch, how the tokens are cut into calls, or whether keys come from tensors or a cache.
/// Sums are taken in float, or double for double; those of 2^24 values (2^60 in double) do not overflow,
/// whatever the values. What is read is widened exactly; out is rounded once, to the nearest, ties to even,
/// to infinity where it overflows, and a NaN stays one. Where the processor multiplies bf16 and q, k and v
/// hold it, weights are rounded to bf16 too before they multiply values.
///
/// out may be q itself, the same memory, strides and element type: a row is written after it has been read
/// for the last time. Otherwise out and lse share no memory with each other or with q, k and v.
///
/// Throws std::invalid_argument naming the argument, the dimension, its value and the expected one,
/// std::length_error for sizes that overflow, both before anything is written, and whatever the executor,
/// view, mask or score function throws: each row of out and lse then holds its whole result or what was there
/// before.
template <Index H = Dynamic, Index G = Dynamic, ExecutorLike E, detail::RowsLike Q, detail::RowsLike K,
          detail::RowsLike V, OutputLike Out, detail::Extras... X>
void attention(E&& executor, const Q& q, const K& k, const V& v, Out&& out, const X&... extras) {
  detail::run_attention<H, G>(executor, q, detail::as_kv(k, v), as_view(out), extras...);
}

/// The same over a cache or any KVView.
template <Index H = Dynamic, Index G = Dynamic, ExecutorLike E, detail::RowsLike Q, KVLike KV, OutputLike Out,
          detail::Extras... X>
void attention(E&& executor, const Q& q, const KV& kv, Out&& out, const X&... extras) {
  detail::run_attention<H, G>(executor, q, as_kv_view(kv), as_view(out), extras...);
}

/// The same on the calling thread.
template <Index H = Dynamic, Index G = Dynamic, detail::RowsLike Q, detail::RowsLike K, detail::RowsLike V,
          OutputLike Out, detail::Extras... X>
void attention(const Q& q, const K& k, const V& v, Out&& out, const X&... extras) {
  attention<H, G>(Serial{}, q, k, v, out, extras...);
}
template <Index H = Dynamic, Index G = Dynamic, detail::RowsLike Q, KVLike KV, OutputLike Out,
          detail::Extras... X>
void attention(const Q& q, const KV& kv, Out&& out, const X&... extras) {
  attention<H, G>(Serial{}, q, kv, out, extras...);
}

inline namespace GQA_EIGEN_MEMORY {

/// The same into a new tensor of q's element type, rank and layout.
template <Index H = Dynamic, Index G = Dynamic, ExecutorLike E, detail::RowsLike Q, detail::RowsLike K,
          detail::RowsLike V, detail::Extras... X>
auto attention(E&& executor, const Q& q, const K& k, const V& v, const X&... extras) {
  auto out = detail::make_result(q, as_view(detail::packed(v)).dim);
  attention<H, G>(executor, q, k, v, out, extras...);
  return out;
}
template <Index H = Dynamic, Index G = Dynamic, ExecutorLike E, detail::RowsLike Q, KVLike KV,
          detail::Extras... X>
auto attention(E&& executor, const Q& q, const KV& kv, const X&... extras) {
  auto out = detail::make_result(q, kv.value_dim());
  attention<H, G>(executor, q, kv, out, extras...);
  return out;
}
template <Index H = Dynamic, Index G = Dynamic, detail::RowsLike Q, detail::RowsLike K, detail::RowsLike V,
          detail::Extras... X>
auto attention(const Q& q, const K& k, const V& v, const X&... extras) {
  return attention<H, G>(Serial{}, q, k, v, extras...);
}
template <Index H = Dynamic, Index G = Dynamic, detail::RowsLike Q, KVLike KV, detail::Extras... X>
auto attention(const Q& q, const KV& kv, const X&... extras) {
  return attention<H, G>(Serial{}, q, kv, extras...);
}

}  // namespace GQA_EIGEN_MEMORY

/// The memory that attention() with these arguments (but out and lse) works in, in bytes: what a Workspace
/// kept for it comes to hold, the one in AttentionOptions if it is given.
template <Index H = Dynamic, Index G = Dynamic, ExecutorLike E, detail::RowsLike Q, detail::RowsLike K,
          detail::RowsLike V, detail::Extras... X>
Index workspace_bytes(E&& executor, const Q& q, const K& k, const V& v, const X&... extras) {
  return detail::needed_bytes<H, G>(executor, q, detail::as_kv(k, v), extras...);
}
template <Index H = Dynamic, Index G = Dynamic, ExecutorLike E, detail::RowsLike Q, KVLike KV,
          detail::Extras... X>
Index workspace_bytes(E&& executor, const Q& q, const KV& kv, const X&... extras) {
  return detail::needed_bytes<H, G>(executor, q, as_kv_view(kv), extras...);
}
template <Index H = Dynamic, Index G = Dynamic, detail::RowsLike Q, detail::RowsLike K, detail::RowsLike V,
          detail::Extras... X>
Index workspace_bytes(const Q& q, const K& k, const V& v, const X&... extras) {
  return workspace_bytes<H, G>(Serial{}, q, k, v, extras...);
}
template <Index H = Dynamic, Index G = Dynamic, detail::RowsLike Q, KVLike KV, detail::Extras... X>
Index workspace_bytes(const Q& q, const KV& kv, const X&... extras) {
  return workspace_bytes<H, G>(Serial{}, q, kv, extras...);
}

// Calls that fit none of the above: each says what to write instead.

template <Index H = Dynamic, Index G = Dynamic, class... A>
requires(!detail::FitsAttention<A...>) detail::RefusedResult<H> attention(A&&...) {
  detail::diagnose_attention<true, A...>();
  return {};
}
template <Index H = Dynamic, Index G = Dynamic, class A2 = AttentionOptions, class A3 = AttentionOptions,
          class A4 = AttentionOptions, class A5 = AttentionOptions, class A6 = AttentionOptions,
          class A7 = AttentionOptions, class A8 = AttentionOptions, class A9 = AttentionOptions,
          class A10 = AttentionOptions>
detail::RefusedResult<H> attention(detail::Anything, const A2&, const A3& = {}, const A4& = {},
                                   const A5& = {}, const A6& = {}, const A7& = {}, const A8& = {},
                                   const A9& = {}, const A10& = {}) {
  detail::refuse_braces<A2>();
  return {};
}
template <Index H = Dynamic, Index G = Dynamic, class... A>
requires(!detail::FitsWorkspaceBytes<A...>) Index workspace_bytes(A&&...) {
  detail::diagnose_attention<false, A...>();
  return 0;
}
template <Index H = Dynamic, Index G = Dynamic, class A2 = AttentionOptions, class A3 = AttentionOptions,
          class A4 = AttentionOptions, class A5 = AttentionOptions, class A6 = AttentionOptions,
          class A7 = AttentionOptions, class A8 = AttentionOptions, class A9 = AttentionOptions,
          class A10 = AttentionOptions>
Index workspace_bytes(detail::Anything, const A2&, const A3& = {}, const A4& = {}, const A5& = {},
                      const A6& = {}, const A7& = {}, const A8& = {}, const A9& = {}, const A10& = {}) {
  detail::refuse_braces<A2>();
  return 0;
}

}  // namespace gqa
