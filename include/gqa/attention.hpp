// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <optional>

#include "gqa/core/tensor.hpp"
#include "gqa/kernel/attend.hpp"
#include "gqa/kv/cache.hpp"
#include "gqa/kv/contiguous.hpp"
#include "gqa/score/mask.hpp"

namespace gqa {

/// What is not said by the tensors. Everything may be left out.
struct AttentionOptions {
  std::optional<double> scale = {};  ///< multiplies q k; 1 / sqrt(head_dim) unless given
  std::optional<Index> q_offset =
      {};  ///< position of the first query; the last query sits on the last key unless given
  Workspace* workspace = nullptr;  ///< memory to work in, kept by the caller; none: allocated for the call
};

/// Where the log-sum-exp of each row goes: tokens x num_q_heads (batch first, if any), float, or double for
/// doubles.
template <class T>
struct LseOutput {
  RowsView<T> rows;
};
template <class Tensor>
auto lse_into(Tensor&& tensor) {
  auto rows = as_rows(tensor);
  return LseOutput<std::remove_pointer_t<decltype(rows.data)>>{rows};
}

namespace detail {

template <class X>
inline constexpr bool is_lse = false;
template <class T>
inline constexpr bool is_lse<LseOutput<T>> = true;

/// The arguments after the tensors, in any order: the first that `Is` accepts, else the default.
template <class Is, class Default>
const Default& pick(const Default& otherwise) {
  return otherwise;
}
template <class Is, class Default, class First, class... Rest>
const auto& pick(const Default& otherwise, const First& first, const Rest&... rest) {
  if constexpr (Is::template value<First>)
    return first;
  else
    return pick<Is>(otherwise, rest...);
}

struct IsMask {
  template <class X>
  static constexpr bool value = MaskLike<X>;
};
struct IsScore {
  template <class X>
  static constexpr bool value = ScoreModLike<X>;
};
struct IsSinks {
  template <class X>
  static constexpr bool value = std::is_same_v<X, SinkLogits>;
};
struct IsOptions {
  template <class X>
  static constexpr bool value = std::is_same_v<X, AttentionOptions>;
};
struct IsLse {
  template <class X>
  static constexpr bool value = is_lse<X>;
};
struct Nothing {};

/// A mask or score function itself, by reference, or the one made of a caller's lambda.
template <class M>
decltype(auto) mask_of(const M& m) {
  if constexpr (Mask<M>)
    return (m);
  else
    return as_mask(m);
}
template <class M>
decltype(auto) score_of(const M& m) {
  if constexpr (ScoreMod<M>)
    return (m);
  else
    return score_fn(m);
}

template <class X>
inline constexpr bool is_extra =
    IsMask::value<X> || IsScore::value<X> || IsSinks::value<X> || IsOptions::value<X> || IsLse::value<X>;

template <class... X>
concept Extras = (is_extra<std::remove_cvref_t<X>> && ...);

/// The static sizes that both sides give must agree; the compiler prints both with the failing assertion.
template <Index Given, Index OfTheView>
constexpr void check_static_kv_heads() {
  static_assert(
      Given == Dynamic || OfTheView == Dynamic || Given == OfTheView,
      "gqa: num_kv_heads of attention differs from num_kv_heads of the cache (see Given and OfTheView)");
}

template <class TQ, class TO, class Acc>
SequenceQueries<TQ, TO, Acc> sequence_queries(const TensorView<const TQ>& q, const TensorView<TO>& out,
                                              const RowsView<Acc>& lse, Index seq, Index first_position) {
  return {q.at(seq, 0, 0),
          q.token_stride,
          q.head_stride,
          out.at(seq, 0, 0),
          out.token_stride,
          out.head_stride,
          lse.data == nullptr ? nullptr : lse.data + seq * lse.batch_stride,
          lse.token_stride,
          lse.head_stride,
          q.tokens,
          first_position};
}

/// Checks every size of a call and runs it.
template <Index H, Index G, ExecutorLike E, class TQ, KVView View, class TO, class... X>
void run_attention(E& executor, const TensorView<TQ>& q, const View& view, const TensorView<TO>& out,
                   const X&... extras) {
  using T = typename View::Scalar;
  using Acc = Accumulator<T>;
  using Q = std::remove_const_t<TQ>;
  static_assert(Scalar<Q> && Scalar<TO>, "gqa: tensors hold float, double, half or bfloat16");
  static_assert(std::is_same_v<Accumulator<Q>, Acc> && std::is_same_v<Accumulator<TO>, Acc>,
                "gqa: double goes with double only");
  if constexpr (requires { View::static_num_kv_heads; })
    check_static_kv_heads<G, View::static_num_kv_heads>();

  const Heads<H, G> heads(q.heads, view.num_kv_heads());
  GQA_CHECK(q.dim == view.head_dim(), std::invalid_argument,
            "q: head_dim is " << q.dim << ", expected " << view.head_dim() << " as in k");
  GQA_CHECK(q.dim > 0, std::invalid_argument, "q: head_dim is 0, expected at least 1");
  GQA_CHECK(q.batch == view.num_seqs(), std::invalid_argument,
            "q: batch is " << q.batch << ", expected " << view.num_seqs() << " as in k");
  GQA_CHECK(
      out.batch == q.batch && out.tokens == q.tokens && out.heads == q.heads && out.dim == view.value_dim(),
      std::invalid_argument,
      "out: sizes are " << out.batch << " x " << out.tokens << " x " << out.heads << " x " << out.dim
                        << ", expected " << q.batch << " x " << q.tokens << " x " << q.heads << " x "
                        << view.value_dim());

  const AttentionOptions none{};
  const auto everything = no_mask();
  const ScoreChain<> no_score;
  const Nothing nothing;
  const auto& options = pick<IsOptions>(none, extras...);
  const auto& mask = mask_of(pick<IsMask>(everything, extras...));
  const auto& score = score_of(pick<IsScore>(no_score, extras...));
  const auto& sinks = pick<IsSinks>(nothing, extras...);
  const auto& wanted_lse = pick<IsLse>(nothing, extras...);
  RowsView<Acc> lse;
  if constexpr (!std::is_same_v<std::remove_cvref_t<decltype(wanted_lse)>, Nothing>) {
    lse = wanted_lse.rows;
    GQA_CHECK(lse.batch == q.batch && lse.tokens == q.tokens && lse.heads == q.heads, std::invalid_argument,
              "lse: sizes are " << lse.batch << " x " << lse.tokens << " x " << lse.heads << ", expected "
                                << q.batch << " x " << q.tokens << " x " << q.heads);
  }
  const Index offset = options.q_offset.value_or(0);
  GQA_CHECK(-max_position <= offset && offset <= max_position - q.tokens, std::invalid_argument,
            "q_offset is " << offset << ", expected " << -max_position << " to " << max_position - q.tokens);
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(q.dim)));
  GQA_CHECK(std::isfinite(scale), std::invalid_argument,
            "scale is " << scale << ", expected a finite number");

  const auto queries = [&](Index seq) {
    const Index first = options.q_offset.value_or(view.retained(seq).end - q.tokens);
    return sequence_queries<Q, TO, Acc>(q, out, lse, seq, first);
  };
  using Mask = std::remove_cvref_t<decltype(mask)>;
  using Score = std::remove_cvref_t<decltype(score)>;
  const HeadTable table{heads.num_q_heads, heads.num_kv_heads, heads.group_size()};
  Attention<View, Mask, Score, decltype(queries)> call{
      view, queries, q.batch, table, mask, score, static_cast<Acc>(scale)};
  if constexpr (std::is_same_v<std::remove_cvref_t<decltype(sinks)>, SinkLogits>) call.sinks = &sinks;
  for (Index seq = 0; seq < q.batch; ++seq) check_extent(call, seq);
  Workspace own;
  decltype(auto) runner = as_executor(executor);
  attend(runner, call, options.workspace == nullptr ? own : *options.workspace);
}

template <class T>
TensorView<const T> read_only(const TensorView<T>& view) {
  return view;
}
template <class T>
TensorView<const T> read_only(const TensorView<const T>& view) {
  return view;
}

}  // namespace detail

/// Exact grouped-query attention: for query head h, which reads KV head g = h / (H / G), and query position
/// i,
///
///     s_j = scale * <q[i, h], k[j, g]>  over the keys j the mask lets i see,
///     out[i, h] = sum_j softmax(s)_j v[j, g]
///
/// q is tokens x H x D, k is tokens x G x D, v is tokens x G x Dv, out is tokens x H x Dv: Eigen tensors or
/// maps (column-major ones list dimensions in reverse), a batch first if there is one, or TensorViews; in
/// place of k and v any KVView, or a KVCache of one layer. MHA is G = H and MQA is G = 1. H and G may be
/// given as template arguments, which are checked against the tensors. After the tensors, in any order and
/// each optional: a mask, a score function, sinks, lse_into(tensor), AttentionOptions. Before them,
/// optionally, what to run on: an Eigen::ThreadPool, Eigen::ThreadPoolDevice or Executor; the calling thread
/// otherwise.
///
/// The last query sits on the last key (bottom-right, as in ONNX Attention and FlashAttention) unless
/// q_offset is given. A row that may see nothing gives 0 and lse -inf. Outputs do not depend, in any bit, on
/// the executor, the batch, how the tokens are cut into calls, or whether keys come from tensors or a cache.
/// Sums are taken in float, or double for double.
///
/// Throws std::invalid_argument naming the argument, the dimension, its value and the expected one,
/// std::length_error for sizes that overflow, and whatever the executor or score function throws.
template <Index H = Dynamic, Index G = Dynamic, ExecutorLike E, TensorLike Q, TensorLike K, TensorLike V,
          TensorLike Out, detail::Extras... X>
void attention(E&& executor, const Q& q, const K& k, const V& v, Out&& out, const X&... extras) {
  using T = TensorScalar<const K>;
  static_assert(std::is_same_v<T, TensorScalar<const V>>, "gqa: k and v hold the same type");
  const ContiguousKV<T> view(detail::read_only(as_view(k)), detail::read_only(as_view(v)));
  detail::run_attention<H, G>(executor, as_view(q), view, as_view(out), extras...);
}

/// The same over a cache or any KVView.
template <Index H = Dynamic, Index G = Dynamic, ExecutorLike E, TensorLike Q, KVLike KV, TensorLike Out,
          detail::Extras... X>
void attention(E&& executor, const Q& q, const KV& kv, Out&& out, const X&... extras) {
  detail::run_attention<H, G>(executor, as_view(q), as_kv_view(kv), as_view(out), extras...);
}

/// The same on the calling thread.
template <Index H = Dynamic, Index G = Dynamic, TensorLike Q, TensorLike K, TensorLike V, TensorLike Out,
          detail::Extras... X>
void attention(const Q& q, const K& k, const V& v, Out&& out, const X&... extras) {
  attention<H, G>(Serial{}, q, k, v, out, extras...);
}
template <Index H = Dynamic, Index G = Dynamic, TensorLike Q, KVLike KV, TensorLike Out, detail::Extras... X>
void attention(const Q& q, const KV& kv, Out&& out, const X&... extras) {
  attention<H, G>(Serial{}, q, kv, out, extras...);
}

/// The same into a new tensor of q's element type, rank and layout.
template <Index H = Dynamic, Index G = Dynamic, ExecutorLike E, TensorLike Q, TensorLike K, TensorLike V,
          detail::Extras... X>
auto attention(E&& executor, const Q& q, const K& k, const V& v, const X&... extras) {
  auto out = detail::make_output<Q, TensorScalar<const Q>>(q, as_view(v).dim);
  attention<H, G>(executor, q, k, v, out, extras...);
  return out;
}
template <Index H = Dynamic, Index G = Dynamic, ExecutorLike E, TensorLike Q, KVLike KV, detail::Extras... X>
auto attention(E&& executor, const Q& q, const KV& kv, const X&... extras) {
  auto out = detail::make_output<Q, TensorScalar<const Q>>(q, kv.value_dim());
  attention<H, G>(executor, q, kv, out, extras...);
  return out;
}
template <Index H = Dynamic, Index G = Dynamic, TensorLike Q, TensorLike K, TensorLike V, detail::Extras... X>
auto attention(const Q& q, const K& k, const V& v, const X&... extras) {
  return attention<H, G>(Serial{}, q, k, v, extras...);
}
template <Index H = Dynamic, Index G = Dynamic, TensorLike Q, KVLike KV, detail::Extras... X>
auto attention(const Q& q, const KV& kv, const X&... extras) {
  return attention<H, G>(Serial{}, q, kv, extras...);
}

}  // namespace gqa
