// SPDX-License-Identifier: Apache-2.0
// From tensors and arguments to a checked call of backward.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "gqa/kernel/backward.hpp"
#include "gqa/kernel/make_call.hpp"
#include "gqa/kernel/overlap.hpp"

namespace gqa::detail {

/// Where k and v are, as far as that is tensors: where the gradients of packed sequences go, and what they
/// may not overwrite.
struct KeyTensors {
  std::span<const Index> offsets = {};  // none: not packed
  TensorMemory k = {}, v = {};
};
template <class K, class V>
KeyTensors key_tensors(const K& k, const V& v) {
  KeyTensors tensors{.k = {"k", as_view(packed(k))}, .v = {"v", as_view(packed(v))}};
  if constexpr (RaggedLike<K>) tensors.offsets = k.offsets;
  return tensors;
}

template <class T>
TensorView<std::remove_const_t<T>> writable(const TensorView<T>& view) {
  return {const_cast<std::remove_const_t<T>*>(view.data),
          {view.batch, view.tokens, view.heads, view.dim},
          {view.batch_stride, view.token_stride, view.head_stride}};
}

/// Checks the sizes of a tensor, and that double goes with double.
template <class Acc, class T>
RowFormat<Acc> checked_rows(const char* name, const TensorView<T>& view, Index batch, Index tokens,
                            Index heads, Index dim, StridedRows& rows) {
  using Element = std::remove_const_t<T>;
  constexpr bool same = std::is_same_v<Accumulator<Element>, Acc>;
  static_assert(same, "gqa: double goes with double only: all tensors are double, or none is");
  GQA_CHECK(view.batch == batch && view.tokens == tokens && view.heads == heads && view.dim == dim,
            std::invalid_argument,
            name << ": sizes are " << view.batch << " x " << view.tokens << " x " << view.heads << " x "
                 << view.dim << ", expected " << batch << " x " << tokens << " x " << heads << " x " << dim);
  rows = strided_rows(view);
  if constexpr (same)
    return row_format(row_type<Acc, Element>());
  else
    return {};
}

/// An lse that no forward gives: +inf, or NaN beside an output that is a number. (A NaN among the scores
/// makes both of them NaN.)
template <class Acc, class T>
void check_lse_values(const RowsView<Acc>& lse, const TensorView<T>& out) {
  for (Index b = 0; b < lse.batch; ++b)
    for (Index t = 0; t < lse.tokens; ++t)
      for (Index h = 0; h < lse.heads; ++h) {
        const Acc x = lse.data[b * lse.batch_stride + t * lse.token_stride + h * lse.head_stride];
        if (x < std::numeric_limits<Acc>::infinity()) [[likely]]
          continue;
        const T* row = out.at(b, t, h);
        const bool of_a_nan = std::isnan(x) && std::any_of(row, row + out.dim, [](T y) { return y != y; });
        GQA_CHECK(of_a_nan, std::invalid_argument,
                  "lse: row " << t << " of head " << h << " is " << static_cast<double>(x)
                              << (std::isnan(x) ? ", but its output has no NaN" : "")
                              << "; expected what attention() wrote with out");
      }
}

/// Checks the gradients' sizes, and that they have memory of their own.
template <class Acc, class TQ, class TK, class TV>
void set_gradients(BackwardCall<Acc>& call, const Gradients<TQ, TK, TV>& grads) {
  const Call<Acc>& forward = call.forward;
  const QueryBatch& q = forward.batch;
  const KVSource& kv = forward.kv;
  call.dq_format = checked_rows<Acc>("dq", grads.dq, q.batch, q.num_tokens, q.num_heads, q.dim, call.dq);
  const Index batch = call.kv_offsets.empty() ? kv.num_seqs : 1;
  if (call.kv_offsets.empty())
    for (Index seq = 0; seq < kv.num_seqs; ++seq)
      call.kv_tokens = std::max(
          call.kv_tokens, kv.padded_tokens > 0 ? kv.padded_tokens : forward.kv.retained(seq).hull().size());
  const Index tokens = batch == 0                ? grads.dk.tokens
                       : call.kv_offsets.empty() ? call.kv_tokens
                                                 : call.kv_offsets.back();
  call.dk_format = checked_rows<Acc>("dk", grads.dk, batch, tokens, kv.num_kv_heads, kv.head_dim, call.dk);
  call.dv_format = checked_rows<Acc>("dv", grads.dv, batch, tokens, kv.num_kv_heads, kv.value_dim, call.dv);
}

/// The output of gradients of parameters, checked.
inline ParameterOutput checked_parameters(const char* name, const ParameterOutput& to, Index expected,
                                          const char* of) {
  GQA_CHECK(to.size == expected, std::invalid_argument,
            name << ": size is " << to.size << ", expected " << expected << ", one for each " << of);
  return to;
}

template <class Acc, class E>
void set_parameters(BackwardCall<Acc>& call, const E& extras) {
  using Score = std::remove_cvref_t<decltype(extras.score)>;
  constexpr bool differentiable = DifferentiableScoreMod<Score>;
  static_assert(differentiable,
                "gqa: attention_backward needs the derivative of the score function: write score_fn(f, "
                "derivative), or give the type a member differentiate(scores, slopes, at)");
  Call<Acc>& forward = call.forward;
  for (Index seq = 0; seq < forward.num_seqs; ++seq) {
    const Range kv = forward.kv.retained(seq).hull(), q = forward.queries(seq, kv.end).positions();
    const auto join = [&](Range& all, Range one) {
      if (!one.empty())
        all = all.empty() ? one : Range{std::min(all.begin, one.begin), std::max(all.end, one.end)};
    };
    join(call.extent.kv, kv);
    join(call.extent.q, q);
  }
  call.extent.num_seqs = forward.num_seqs;
  call.extent.num_q_heads = forward.heads.num_q_heads;
  call.extent.in_double = std::is_same_v<Acc, double>;
  if constexpr (differentiable) {
    check_derivative(extras.score);
    if (extras.score_gradient != nullptr)
      call.score_parameters =
          checked_parameters("score_gradient_into", extras.score_gradient->to,
                             num_parameters(extras.score, call.extent), "parameter of the score function");
    call.apart = parameters_apart(extras.score);
    if (forward.score && (!is_additive<Score> || call.score_parameters.size > 0))
      call.score = {&extras.score, [](const void* score, std::span<const Acc> scores, std::span<Acc> d,
                                      const ScoreRow& at, const ParameterSums& sums) {
                      pull_back(*static_cast<const Score*>(score), scores, d, at, sums);
                    }};
  }
  if (extras.sink_gradient == nullptr) return;
  GQA_CHECK(extras.sinks != nullptr, std::invalid_argument,
            "sink_gradient_into: there are no SinkLogits, expected those of the forward");
  call.sinks = checked_parameters("sink_gradient_into", extras.sink_gradient->to, forward.heads.num_q_heads,
                                  "query head");
}

template <Index H, Index G, RowsLike Q, KVView View, class TO, class TL, class TD, class Grads, class E>
auto make_backward_call(const Q& q, const View& view, const KeyTensors& keys, const TensorView<TO>& out,
                        const RowsView<TL>& lse, const TensorView<TD>& d_out, const Grads& grads,
                        const E& extras) {
  using Acc = Accumulator<typename View::Scalar>;
  static_assert(!E::has_lse, "gqa: attention_backward reads lse, which comes after out: leave lse_into out");
  static_assert(!E::has_states,
                "gqa: attention_backward has no state_into and no resume: attention() takes them");
  constexpr bool fits = std::is_same_v<std::remove_const_t<TL>, Acc>;
  static_assert(fits, "gqa: lse is a tensor of float, or of double where keys and values are double");
  BackwardCall<Acc> call;
  Call<Acc>& forward = call.forward;
  forward = begin_call(request_of<H, G, true>(q, view, extras));
  check_batch(forward.batch, forward.kv);
  const QueryBatch& batch = forward.batch;
  set_output(forward, tensor_rows<Acc>(out));
  call.d_out_format = checked_rows<Acc>("d_out", d_out, batch.batch, batch.num_tokens, batch.num_heads,
                                        forward.kv.value_dim, call.d_out);
  if constexpr (fits) {
    const RowsView<Acc> rows{const_cast<Acc*>(lse.data), lse.batch,        lse.tokens,     lse.heads,
                             lse.batch_stride,           lse.token_stride, lse.head_stride};
    forward.lse = checked_lse(rows, batch.batch, batch.num_tokens, batch.num_heads);
    check_lse_values(rows, out);
  }
  call.kv_offsets = keys.offsets;
  set_gradients(call, grads);
  forward.q_offsets = checked_q_offsets(extras.options, batch);
  check_extents(forward);
  set_parameters(call, extras);

  const TensorMemory inputs[] = {{"q", as_view(packed(q))}, keys.k, keys.v, {"out", out}, {"lse", lse},
                                 {"d_out", d_out}};
  const TensorMemory dq("dq", grads.dq), dk("dk", grads.dk), dv("dv", grads.dv);
  const auto parameters = [](const char* name, const ParameterOutput& to) {
    return TensorMemory(name, to.data, to.size * (to.wide ? 8 : 4));
  };
  const TensorMemory scores = parameters("score_gradient_into", call.score_parameters);
  const TensorMemory sinks = parameters("sink_gradient_into", call.sinks);
  for (const TensorMemory& output : {dq, dk, dv, scores, sinks})
    for (const TensorMemory& input : inputs) check_output_memory(output, {input});
  check_output_memory(dk, {dq});
  check_output_memory(dv, {dq, dk});
  check_output_memory(scores, {dq, dk, dv});
  check_output_memory(sinks, {dq, dk, dv, scores});
  return call;
}

}  // namespace gqa::detail
