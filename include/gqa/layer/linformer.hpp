// SPDX-License-Identifier: Apache-2.0
// Attention of an encoder whose keys and values are projected to fewer along the sequence.
#pragma once

#include <type_traits>
#include <vector>

#include "gqa/attention.hpp"
#include "gqa/layer/linear.hpp"

namespace gqa {

namespace detail {

/// Throws std::invalid_argument unless `projection` takes `tokens` tokens of a sequence to some number of
/// rows.
template <class T>
void check_sequence_projection(const char* name, const MatrixView& projection, const char* of, Index tokens) {
  GQA_CHECK(projection.format != nullptr && projection.format->in_double == (sizeof(T) == sizeof(double)),
            std::invalid_argument,
            name << ": elements are " << (projection.format == nullptr ? "missing" : projection.format->name)
                 << ", expected f64 with f64 only");
  GQA_CHECK(projection.rows >= 1, std::invalid_argument, name << ": rows is 0, expected at least 1");
  GQA_CHECK(
      projection.columns == tokens, std::invalid_argument,
      name << ": columns is " << projection.columns << ", expected the " << tokens << " tokens of " << of);
}

/// projection x for every sequence and head of x: rows x heads x dim to `out`.
template <class T>
void project_sequences(const ExecutorRef& runner, const MatrixView& projection, const TensorView<const T>& x,
                       const TensorView<T>& out) {
  Workspace workspace;
  for (Index b = 0; b < x.batch; ++b)
    for (Index h = 0; h < x.heads; ++h)
      linear(runner,
             {projection, MatrixView(x.at(b, 0, h), x.tokens, x.dim, x.token_stride).transposed(),
              VectorView(), MatrixOut(out.at(b, 0, h), out.tokens, out.dim, out.token_stride)},
             {.workspace = &workspace});
}

template <class... X>
constexpr void check_linformer_extras() {
  static_assert(count_of<Extra::mask, X...> == 0 && count_of<Extra::score, X...> == 0,
                "gqa: a row of projected keys stands for all tokens and has no position: leave masks and "
                "score functions out of linformer_attention");
}

}  // namespace detail

/// Linformer's attention for encoders (Wang et al. 2020, arXiv 2006.04768): keys and values of n tokens are
/// projected to r rows along the sequence, and every query attends to those,
///
///     out[i, h] = softmax(scale * q[i, h] (E k[:, g])^T) (F v[:, g]),   g = h / (H / G)
///
/// q is tokens x H x D, k and v tokens x G x D and Dv, out tokens x H x Dv, a batch first if there is one, of
/// one type; E and F are r x n matrices of a type that sums as theirs does, the same for all heads and
/// sequences (they may be one matrix). Two products take 2 n r G (D + Dv) operations, attention then r keys
/// in place of n. With E = F = I it is attention() itself. What a query sees comes from every token: there is
/// no causal order, and so no mask and no score function, and no cache that could grow. SinkLogits, a
/// HeadGrouping, lse_into and AttentionOptions may follow `out`, and an executor come first, as in
/// attention().
///
/// The same bits on every executor: sums along the sequence are linear()'s. Throws std::invalid_argument as
/// attention() does, for E or F whose columns are not k's tokens or whose rows differ, and for types that sum
/// otherwise; nothing is written then.
template <Index H = Dynamic, Index G = Dynamic, ExecutorLike E, TensorLike Q, TensorLike K, TensorLike V,
          OutputLike Out, detail::Extras... X>
void linformer_attention(E&& executor, const Q& q, const K& k, const V& v, const MatrixView& key_projection,
                         const MatrixView& value_projection, Out&& out, const X&... extras) {
  using T = TensorScalar<Q>;
  static_assert(std::is_same_v<T, TensorScalar<K>> && std::is_same_v<T, TensorScalar<V>> &&
                    std::is_same_v<T, TensorScalar<Out>>,
                "gqa: linformer_attention takes q, k, v and out of one type");
  detail::check_linformer_extras<X...>();
  const TensorView<const T> qs = as_view(q), ks = as_view(k), vs = as_view(v);
  const auto count = [](const char* name, Index is, Index expected) {
    GQA_CHECK(is == expected, std::invalid_argument,
              "v: " << name << " is " << is << ", expected " << expected << " as in k");
  };
  count("batch", vs.batch, ks.batch);
  count("tokens", vs.tokens, ks.tokens);
  count("heads", vs.heads, ks.heads);
  detail::check_sequence_projection<T>("key_projection", key_projection, "k", ks.tokens);
  detail::check_sequence_projection<T>("value_projection", value_projection, "v", vs.tokens);
  GQA_CHECK(value_projection.rows == key_projection.rows, std::invalid_argument,
            "value_projection: rows is " << value_projection.rows << ", expected " << key_projection.rows
                                         << " as in key_projection");

  const Index rows = key_projection.rows;
  const auto elements = [&](Index dim) {
    return static_cast<std::size_t>(checked_mul(checked_mul(ks.batch, rows, "linformer"),
                                                checked_mul(ks.heads, dim, "linformer"), "linformer"));
  };
  std::vector<T> projected_k(elements(ks.dim)), projected_v(elements(vs.dim));
  const TensorView<T> k_out(projected_k.data(), ks.batch, rows, ks.heads, ks.dim),
      v_out(projected_v.data(), ks.batch, rows, ks.heads, vs.dim);
  detail::with_executor(executor, [&](const detail::ExecutorRef& runner) {
    detail::project_sequences<T>(runner, key_projection, ks, k_out);
    detail::project_sequences<T>(runner, value_projection, vs, v_out);
  });
  attention<H, G>(executor, qs, TensorView<const T>(k_out), TensorView<const T>(v_out), as_view(out),
                  extras...);
}
template <Index H = Dynamic, Index G = Dynamic, TensorLike Q, TensorLike K, TensorLike V, OutputLike Out,
          detail::Extras... X>
void linformer_attention(const Q& q, const K& k, const V& v, const MatrixView& key_projection,
                         const MatrixView& value_projection, Out&& out, const X&... extras) {
  linformer_attention<H, G>(Serial{}, q, k, v, key_projection, value_projection, out, extras...);
}

}  // namespace gqa
