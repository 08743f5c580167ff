// SPDX-License-Identifier: Apache-2.0
// Which arguments fit which entry, and what to write in place of those that do not: a compiler's own list of
// overloads says neither.
#pragma once

#include <concepts>
#include <cstddef>
#include <type_traits>

#include "gqa/core/layout.hpp"
#include "gqa/core/parallel.hpp"
#include "gqa/kernel/make_request.hpp"

namespace gqa::detail {

/// What an argument can be, as a set of bits.
enum Role : unsigned { executor_role = 1, rows_role = 2, keys_role = 4, output_role = 8, extra_role = 16 };

template <class A>
inline constexpr unsigned roles_of = (ExecutorLike<A> ? executor_role : 0u) | (RowsLike<A> ? rows_role : 0u) |
                                     (KVLike<A> ? keys_role : 0u) | (OutputLike<A> ? output_role : 0u) |
                                     (Extras<A> ? extra_role : 0u);

/// Whether the arguments are those of attention(): [executor] q (k v | keys) [out] extras...
template <bool WithOutput, class... A>
constexpr bool fits_attention() {
  const unsigned roles[] = {roles_of<A>..., 0, 0, 0};
  std::size_t i = (roles[0] & executor_role) != 0 ? 1 : 0;
  if ((roles[i++] & rows_role) == 0) return false;
  if ((roles[i] & keys_role) != 0)
    ++i;
  else if ((roles[i] & rows_role) == 0 || (roles[i + 1] & rows_role) == 0)
    return false;
  else
    i += 2;
  if (WithOutput && (roles[i] & output_role) != 0) ++i;
  while ((roles[i] & extra_role) != 0) ++i;
  return i == sizeof...(A);
}
template <class... A>
concept FitsAttention = fits_attention<true, A...>();
template <class... A>
concept FitsWorkspaceBytes = fits_attention<false, A...>();

/// Stands for a first argument of any type in an overload that is there for what comes after it: worse than
/// every other.
struct Anything {
  template <class A>
  Anything(const A&);  // NOLINT: converts on purpose
};

/// What a call that does not compile is said to return, so that nothing else is wrong with it: a tensor where
/// there are any. It depends on H, as a tensor is known where attention() is called.
struct NoTensor {};
template <class Tensor>
struct TensorIfKnown {
  using type = NoTensor;
};
template <class Tensor>
requires(sizeof(Tensor) > 0) struct TensorIfKnown<Tensor> {
  using type = Tensor;
};
template <Index H>
using RefusedResult = typename TensorIfKnown<Tensor3<std::conditional_t<H == Dynamic, float, float>>>::type;

template <class A>
concept PointsToAnExecutor = requires(const A& a) {
  { *a } -> ExecutorLike;
};
template <class A>
concept EigenMatrix = std::derived_from<A, Eigen::EigenBase<A>>;
template <class A>
concept PlainMemory = std::is_pointer_v<std::decay_t<A>> || requires(const A& a) {
  *a.data();
  a.size();
};

template <class A>
concept LooksLikeATensor =
    TensorLike<A> || EigenTensorExpression<std::remove_cvref_t<A>> || EigenMatrix<std::remove_cvref_t<A>>;

/// A tensor that is surely no output.
template <class A>
inline constexpr bool is_lse_or_mask = false;
template <class A>
requires eigen_tensor<A>::value inline constexpr bool is_lse_or_mask<A> =
    eigen_tensor<A>::rank == 2 || std::is_same_v<std::remove_const_t<typename eigen_tensor<A>::scalar>, bool>;

struct Missing {};

enum class Fault {
  none,
  executor,
  extra,
  scalar,
  rank,
  constant,
  temporary,
  ragged,
  expression,
  matrix,
  memory,
  keys,
  other
};

/// Why an argument cannot be read as a tensor, or written as one.
template <class A, bool Written>
constexpr Fault tensor_fault() {
  using Plain = std::remove_cvref_t<A>;
  if constexpr (Written ? OutputLike<A> : RowsLike<A>) {
    return Fault::none;
  } else if constexpr (ExecutorLike<A> || PointsToAnExecutor<Plain>) {
    return Fault::executor;
  } else if constexpr (Extras<A>) {
    return Fault::extra;
  } else if constexpr (RaggedLike<A>) {
    return Written ? Fault::ragged : Fault::scalar;
  } else if constexpr (KVLike<A>) {
    return Fault::keys;
  } else if constexpr (ScalarTensor<A>) {
    return TemporaryTensor<A> ? Fault::temporary : Fault::constant;
  } else if constexpr (TensorLike<A>) {
    return has_tensor_rank<Plain> ? Fault::scalar : Fault::rank;
  } else if constexpr (EigenMatrix<Plain>) {
    return Fault::matrix;
  } else if constexpr (EigenTensorExpression<Plain>) {
    return Fault::expression;
  } else {
    return PlainMemory<Plain> ? Fault::memory : Fault::other;
  }
}

// The same words for each tensor; a message has to be a literal.
#define GQA_TENSOR_ARGUMENT(name)                                                                           \
  template <class Argument, bool Written = false>                                                           \
  constexpr void check_##name() {                                                                           \
    constexpr Fault fault = tensor_fault<Argument, Written>();                                              \
    static_assert(fault != Fault::executor,                                                                 \
                  "gqa: " #name                                                                             \
                  " is an executor: what to run on comes first, by reference, as in "                       \
                  "attention(pool, q, k, v)");                                                              \
    static_assert(fault != Fault::extra,                                                                    \
                  "gqa: " #name                                                                             \
                  " is a mask, a score function or an option: they come after the tensors, "                \
                  "as in attention(q, k, v, out, causal())");                                               \
    static_assert(fault != Fault::scalar,                                                                   \
                  "gqa: " #name " holds something else than float, double, half or bfloat16");              \
    static_assert(fault != Fault::rank,                                                                     \
                  "gqa: " #name                                                                             \
                  " has another rank than 3 (tokens x heads x dim) or 4 (batch first): write "              \
                  "TensorView(" #name ".data(), tokens, heads, dim)");                                      \
    static_assert(fault != Fault::constant, "gqa: " #name " is const, and is to be written");               \
    static_assert(fault != Fault::temporary,                                                                \
                  "gqa: " #name " is a temporary, so the result would be lost: name the tensor");           \
    static_assert(fault != Fault::ragged, "gqa: " #name " is ragged: write the packed tensor alone");       \
    static_assert(fault != Fault::expression,                                                               \
                  "gqa: " #name                                                                             \
                  " is an Eigen expression: evaluate it into a tensor first, Tensor3<float> " #name         \
                  "2 = " #name);                                                                            \
    static_assert(fault != Fault::matrix,                                                                   \
                  "gqa: " #name " is an Eigen matrix, which does not say its heads: write heads_of(" #name  \
                  ", num_heads)");                                                                          \
    static_assert(fault != Fault::memory,                                                                   \
                  "gqa: " #name " is memory without sizes: write TensorView(pointer, tokens, heads, dim)"); \
    static_assert(fault != Fault::keys,                                                                     \
                  "gqa: " #name                                                                             \
                  " is a cache or view of keys and values: it comes after q in place of k "                 \
                  "and v, as in attention(q, cache)");                                                      \
    static_assert(fault != Fault::other, "gqa: " #name " is no Eigen tensor, map or TensorView");           \
  }
GQA_TENSOR_ARGUMENT(q)
GQA_TENSOR_ARGUMENT(k)
GQA_TENSOR_ARGUMENT(v)
GQA_TENSOR_ARGUMENT(out)
#undef GQA_TENSOR_ARGUMENT

/// An argument that comes after the tensors.
template <class Argument>
constexpr void check_extra() {
  using Plain = std::remove_cvref_t<Argument>;
  constexpr bool wrong = !Extras<Argument>;
  constexpr bool executor = wrong && (ExecutorLike<Argument> || PointsToAnExecutor<Plain>);
  constexpr bool tensor = wrong && LooksLikeATensor<Argument>;
  constexpr bool workspace = wrong && std::is_same_v<std::remove_pointer_t<Plain>, Workspace>;
  constexpr bool number = wrong && std::is_arithmetic_v<Plain>;
  constexpr bool function = wrong && std::is_function_v<std::remove_pointer_t<Plain>>;
  constexpr bool other = wrong && !executor && !tensor && !workspace && !number && !function;
  constexpr bool memory = other && PlainMemory<Plain>;
  static_assert(!executor,
                "gqa: an executor after the tensors: what to run on comes first, by reference, as in "
                "attention(pool, q, k, v)");
  static_assert(!tensor,
                "gqa: a tensor after the tensors: out comes right after k and v; write lse_into(lse), "
                "tensor_mask(mask) or tensor_bias(bias) for the others");
  static_assert(!workspace, "gqa: a workspace is an option: write AttentionOptions{.workspace = &workspace}");
  static_assert(!number, "gqa: a number after the tensors: write AttentionOptions{.scale = scale}");
  static_assert(!function,
                "gqa: the name of a function after the tensors: write causal() for causal, and mask_fn(f) or "
                "score_fn(f) for functions of yours");
  static_assert(!memory,
                "gqa: a list after the tensors: write SinkLogits(logits) for sinks, and TensorView(pointer, "
                "tokens, heads, dim) for out");
  static_assert(!other || memory,
                "gqa: an argument after the tensors is no mask ((q_pos, kv_pos) -> bool), score function "
                "((score, q_head, q_pos, kv_pos) -> score), SinkLogits, HeadGrouping, lse_into(tensor), "
                "state_into(state), resume(state) or AttentionOptions");
}

/// What follows k and v: the output, where it looks like one, and extras.
template <bool WithOutput>
constexpr void check_rest() {}
template <bool WithOutput, class First, class... Rest>
constexpr void check_rest() {
  constexpr bool output = WithOutput && (LooksLikeATensor<First> ||
                                         RaggedLike<First>)&&!is_lse_or_mask<std::remove_cvref_t<First>>;
  if constexpr (output)
    check_out<First, true>();
  else
    check_extra<First>();
  (check_extra<Rest>(), ...);
}

/// What follows q.
template <bool WithOutput, class K = Missing, class V = Missing, class... Rest>
constexpr void check_keys() {
  if constexpr (KVLike<K>) {
    if constexpr (!std::is_same_v<V, Missing>) check_rest<WithOutput, V, Rest...>();
  } else {
    static_assert(!std::is_same_v<V, Missing>,
                  "gqa: v is missing: write attention(q, k, v), or attention(q, cache)");
    if constexpr (!std::is_same_v<V, Missing>) {
      check_k<K>();
      if constexpr (RowsLike<K>) check_v<V>();
      if constexpr (RowsLike<K> && RowsLike<V>) check_rest<WithOutput, Rest...>();
    }
  }
}

template <bool WithOutput, class Q, class... Rest>
constexpr void diagnose_tensors() {
  check_q<Q>();
  if constexpr (RowsLike<Q>) check_keys<WithOutput, Rest...>();
}

/// Says what to write in place of the first argument that does not fit; of arguments that fit no form of
/// attention().
template <bool WithOutput, class First = Missing, class... Rest>
constexpr void diagnose_attention() {
  constexpr bool pointer = PointsToAnExecutor<std::remove_cvref_t<First>>;
  static_assert(!pointer, "gqa: the executor is a pointer: write attention(*pool, q, k, v)");
  static_assert(!std::is_same_v<First, Missing>, "gqa: q is missing: write attention(q, k, v)");
  if constexpr (pointer || std::is_same_v<First, Missing>) {
    return;
  } else if constexpr (ExecutorLike<First>) {
    static_assert(sizeof...(Rest) > 0, "gqa: q is missing: write attention(pool, q, k, v)");
    if constexpr (sizeof...(Rest) > 0) diagnose_tensors<WithOutput, Rest...>();
  } else {
    diagnose_tensors<WithOutput, First, Rest...>();
  }
}

/// The same for cascade_attention().
template <bool Runs, class Q, class Out, class... X>
constexpr void diagnose_cascade() {
  static_assert(Runs, "gqa: no executor: write cascade_attention(pool, q, levels, out)");
  static_assert(RaggedLike<Q>, "gqa: q is not ragged: write ragged(q, offsets)");
  if constexpr (RaggedLike<Q>) check_q<Q>();
  check_out<Out, true>();
  (check_extra<X>(), ...);
}

/// A braced list in place of an extra has no type to tell which.
template <class A>
constexpr void refuse_braces() {
  static_assert(
      sizeof(A) == 0,
      "gqa: options in braces alone: write AttentionOptions{.scale = scale, .workspace = &workspace}");
}

}  // namespace gqa::detail
