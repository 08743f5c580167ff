// SPDX-License-Identifier: Apache-2.0
// The same as diagnosis.hpp for the gradient's arguments.
#pragma once

#include "gqa/kernel/diagnosis.hpp"
#include "gqa/kernel/gradient_outputs.hpp"

namespace gqa::detail {

template <class A>
inline constexpr bool is_gradients = false;
template <class TQ, class TK, class TV>
inline constexpr bool is_gradients<Gradients<TQ, TK, TV>> = true;

/// out, lse, d_out, gradients, extras...
template <class Out = Missing, class Lse = Missing, class DOut = Missing, class Grads = Missing, class... X>
inline constexpr bool fits_gradient =
    ScalarTensor<Out> && !std::is_same_v<Lse, Missing> && ScalarTensor<DOut> &&
    is_gradients<std::remove_cvref_t<Grads>> && (Extras<X> && ...);

/// Whether the arguments are those of attention_backward(): [executor] q (k v | keys) and the rest.
template <class First = Missing, class Second = Missing, class Third = Missing, class... Rest>
constexpr bool fits_backward() {
  if constexpr (ExecutorLike<First>) {
    return !ExecutorLike<Second> && fits_backward<Second, Third, Rest...>();
  } else if constexpr (!RowsLike<First>) {
    return false;
  } else if constexpr (KVLike<Second>) {
    return fits_gradient<Third, Rest...>;
  } else {
    return RowsLike<Second> && RowsLike<Third> && fits_gradient<Rest...>;
  }
}
template <class... A>
concept FitsBackward = fits_backward<A...>();

template <class Out = Missing, class Lse = Missing, class DOut = Missing, class Grads = Missing, class... X>
constexpr void diagnose_gradient() {
  constexpr bool all = !std::is_same_v<Grads, Missing>;
  static_assert(all,
                "gqa: attention_backward takes q, k, v (or a cache), out, lse, d_out and "
                "gradients_into(dq, dk, dv), in this order");
  if constexpr (all) {
    check_out<Out>();
    constexpr bool lse = !Extras<Lse> && !is_gradients<std::remove_cvref_t<Lse>>;
    static_assert(lse, "gqa: lse is missing: it comes after out, as attention() wrote it to lse_into(lse)");
    constexpr bool gradients = is_gradients<std::remove_cvref_t<Grads>>;
    static_assert(!lse || gradients, "gqa: after d_out comes gradients_into(dq, dk, dv)");
    if constexpr (lse && gradients) {
      static_assert(ScalarTensor<DOut>, "gqa: d_out is no tensor as out is one, of rank 3 or 4");
      (check_extra<X>(), ...);
    }
  }
}

/// Says what to write in place of the first argument that does not fit.
template <class First = Missing, class Second = Missing, class Third = Missing, class... Rest>
constexpr void diagnose_backward() {
  constexpr bool pointer = PointsToAnExecutor<std::remove_cvref_t<First>>;
  static_assert(!pointer, "gqa: the executor is a pointer: write attention_backward(*pool, q, k, v, ...)");
  if constexpr (pointer) {
    return;
  } else if constexpr (ExecutorLike<First> && !ExecutorLike<Second>) {
    diagnose_backward<Second, Third, Rest...>();
  } else {
    check_q<First>();
    if constexpr (RowsLike<First> && KVLike<Second>) {
      diagnose_gradient<Third, Rest...>();
    } else if constexpr (RowsLike<First>) {
      check_k<Second>();
      check_v<Third>();
      if constexpr (RowsLike<Second> && RowsLike<Third>) diagnose_gradient<Rest...>();
    }
  }
}

}  // namespace gqa::detail
