// SPDX-License-Identifier: Apache-2.0
// From tensors and arguments to what is asked for: the last that sees their types.
#pragma once

#include <type_traits>
#include <utility>

#include "gqa/core/ragged.hpp"
#include "gqa/kernel/extras.hpp"
#include "gqa/kernel/request.hpp"
#include "gqa/kv/cache_concept.hpp"
#include "gqa/kv/contiguous.hpp"
#include "gqa/kv/kv_list.hpp"
#include "gqa/kv/padded.hpp"

namespace gqa::detail {

template <class X>
inline constexpr bool is_ragged_of_scalars = false;
template <class T>
inline constexpr bool is_ragged_of_scalars<Ragged<T>> = Scalar<std::remove_const_t<T>>;
template <class X>
concept RaggedOfScalars = is_ragged_of_scalars<std::remove_cvref_t<X>>;

/// What q may be, and what k and v may be.
template <class X>
concept RowsLike = ScalarTensor<X> || RaggedOfScalars<X>;

template <RowsLike X>
decltype(auto) packed(const X& x) {
  if constexpr (RaggedLike<X>)
    return (x.tensor);
  else
    return (x);
}
template <class X>
using RowsScalar = std::remove_const_t<TensorScalar<decltype(packed(std::declval<const X&>()))>>;

template <class T>
TensorView<const T> read_only(const TensorView<T>& view) {
  return view;
}
template <class T>
TensorView<const T> read_only(const TensorView<const T>& view) {
  return view;
}

/// Keys and values as a view: of tensors, or of packed sequences.
template <class K, class V>
auto as_kv(const K& k, const V& v) {
  static_assert(RaggedLike<K> == RaggedLike<V>, "gqa: k and v are both ragged, or neither");
  using T = TensorScalar<decltype(packed(k))>;
  constexpr bool same_type = std::is_same_v<T, TensorScalar<decltype(packed(v))>>;
  static_assert(same_type, "gqa: k and v hold the same type");
  if constexpr (RaggedLike<K> != RaggedLike<V> || !same_type) {
    return as_kv(k, k);  // the compiler has said enough
  } else if constexpr (RaggedLike<K>) {
    return ContiguousKV<T>(Ragged<const T>{read_only(k.tensor), k.offsets},
                           Ragged<const T>{read_only(v.tensor), v.offsets});
  } else {
    return ContiguousKV<T>(read_only(as_view(k)), read_only(as_view(v)));
  }
}

/// The static sizes that both sides give must agree; the compiler prints both with the failing assertion.
template <Index Given, Index OfTheView>
constexpr void check_static_kv_heads() {
  static_assert(
      Given == Dynamic || OfTheView == Dynamic || Given == OfTheView,
      "gqa: num_kv_heads of attention differs from num_kv_heads of the cache (see Given and OfTheView)");
}
template <Index G, KVView View>
constexpr void check_static_sizes() {
  if constexpr (requires { View::static_num_kv_heads; })
    check_static_kv_heads<G, View::static_num_kv_heads>();
}

/// A call of queries `q` on `view`, as asked for. It refers to all of them.
template <Index H, Index G, bool Backward = false, RowsLike Q, KVView View, class E>
auto request_of(const Q& q, const View& view, const E& extras) {
  static_assert(Backward || !E::has_gradients,
                "gqa: sink_gradient_into and score_gradient_into belong to attention_backward");
  static_assert(sizeof(Heads<H, G>) > 0);  // says what is wrong with them
  check_static_sizes<G, View>();
  using Acc = Accumulator<typename View::Scalar>;
  Request<Acc> request;
  request.kv = source_of(view);
  const TensorRows<Acc> rows = tensor_rows<Acc>(as_view(packed(q)));
  request.batch = {rows.batch, rows.tokens, rows.heads, rows.dim};
  if constexpr (RaggedLike<Q>) request.batch.offsets = q.offsets;
  request.q = rows.rows;
  request.q_type = rows.type;
  request.num_q_heads = H;
  request.num_kv_heads = G;
  request.mask = source_of(extras.mask);
  if constexpr (!std::is_same_v<std::remove_cvref_t<decltype(extras.score)>, ScoreChain<>>)
    request.score = score_source<Acc>(extras.score);
  request.sinks = extras.sinks;
  request.grouping = extras.grouping;
  request.options = &extras.options;
  request.backward = Backward;
  return request;
}

/// Where the results of a call go, as asked for.
template <class Acc, class TO, class E>
Results<Acc> results_of(const TensorView<TO>& out, const E& extras) {
  return {tensor_rows<Acc>(out), lse_rows<Acc>(extras), given_state<Acc>(extras.state),
          given_state<Acc>(extras.resumed)};
}

inline namespace GQA_EIGEN_MEMORY {

/// A new tensor of q's element type for the result: packed like a ragged q, else of q's rank and layout.
template <RowsLike Q>
auto make_result(const Q& q, Index value_dim) {
  using T = RowsScalar<Q>;
  if constexpr (RaggedLike<Q>)
    return Tensor3<T>(q.tensor.tokens, q.tensor.heads, value_dim);
  else
    return make_output<T>(q, value_dim);
}

}  // namespace GQA_EIGEN_MEMORY

}  // namespace gqa::detail
