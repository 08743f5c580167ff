// SPDX-License-Identifier: Apache-2.0
// The arguments after the tensors, sorted.
#pragma once

#include <cstddef>
#include <type_traits>

#include "gqa/core/head_grouping.hpp"
#include "gqa/kernel/gradient_outputs.hpp"
#include "gqa/kernel/options.hpp"
#include "gqa/mask/mask_fn.hpp"
#include "gqa/mask/window.hpp"
#include "gqa/score/score_chain.hpp"
#include "gqa/score/sink_logits.hpp"

namespace gqa::detail {

/// What an argument after the tensors is.
enum class Extra {
  none,
  mask,
  score,
  sinks,
  grouping,
  options,
  lse,
  state,
  resumed,
  sink_gradient,
  score_gradient
};

template <class X>
inline constexpr Extra special_extra = Extra::none;
template <>
inline constexpr Extra special_extra<SinkLogits> = Extra::sinks;
template <>
inline constexpr Extra special_extra<HeadGrouping> = Extra::grouping;
template <>
inline constexpr Extra special_extra<AttentionOptions> = Extra::options;
template <class T>
inline constexpr Extra special_extra<LseOutput<T>> = Extra::lse;
template <class Acc>
inline constexpr Extra special_extra<StateOutput<Acc>> = Extra::state;
template <class Acc>
inline constexpr Extra special_extra<ResumedState<Acc>> = Extra::resumed;

template <>
inline constexpr Extra special_extra<SinkGradient> = Extra::sink_gradient;
template <>
inline constexpr Extra special_extra<ScoreParameterGradient> = Extra::score_gradient;

template <class X>
constexpr Extra extra_of() {
  if constexpr (special_extra<X> != Extra::none)
    return special_extra<X>;
  else if constexpr (MaskLike<X>)
    return Extra::mask;
  // A tensor can be called like one, but is no function of a score.
  else if constexpr (!TensorLike<X> && ScoreModLike<X>)
    return Extra::score;
  else
    return Extra::none;
}

template <class... X>
concept Extras = ((extra_of<std::remove_cvref_t<X>>() != Extra::none) && ...);

template <Extra kind, class... X>
inline constexpr int count_of = (0 + ... + static_cast<int>(extra_of<X>() == kind));

/// One of each kind: a second would have to be dropped.
template <class... X>
constexpr void check_extras() {
  static_assert(
      ((MaskLike<X> && !TensorLike<X> && ScoreModLike<X>)+... + 0) == 0,
      "gqa: a function that fits as a mask and as a score function: write mask_fn(f) or score_fn(f)");
  static_assert(
      count_of<Extra::mask, X...> <= 1,
      "gqa: more than one mask: write one, causal() & document(ids) where both must let a query see, "
      "or | where either may");
  static_assert(count_of<Extra::score, X...> <= 1,
                "gqa: more than one score function: write one, alibi(H) | soft_cap(30)");
  static_assert(count_of<Extra::sinks, X...> <= 1, "gqa: more than one SinkLogits: write one");
  static_assert(count_of<Extra::grouping, X...> <= 1, "gqa: more than one HeadGrouping: write one");
  static_assert(
      count_of<Extra::options, X...> <= 1,
      "gqa: more than one AttentionOptions: write one, AttentionOptions{.scale = scale, .workspace = "
      "&workspace}");
  static_assert(count_of<Extra::lse, X...> <= 1, "gqa: more than one lse_into: write one");
  static_assert(count_of<Extra::state, X...> <= 1, "gqa: more than one state_into: write one");
  static_assert(count_of<Extra::resumed, X...> <= 1, "gqa: more than one resume: write one");
  static_assert(count_of<Extra::sink_gradient, X...> <= 1,
                "gqa: more than one sink_gradient_into: write one");
  static_assert(count_of<Extra::score_gradient, X...> <= 1,
                "gqa: more than one score_gradient_into: write one");
}

/// The first argument of a kind, else the default.
template <Extra kind, class Default>
const Default& pick(const Default& otherwise) {
  return otherwise;
}
template <Extra kind, class Default, class First, class... Rest>
const auto& pick(const Default& otherwise, const First& first, const Rest&... rest) {
  if constexpr (extra_of<First>() == kind)
    return first;
  else
    return pick<kind>(otherwise, rest...);
}

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

struct Nothing {};
template <class T>
const T* pointer_to(const T& x) {
  return &x;
}
inline std::nullptr_t pointer_to(const Nothing&) { return nullptr; }

inline constexpr Window everything = no_mask();
inline constexpr ScoreChain<> no_score = {};
inline constexpr AttentionOptions no_options = {};

/// What a call says beside its tensors. It refers to the caller's arguments; M and S are references, or what
/// is made of a lambda. Lse is LseOutput<T>, State StateOutput<Acc> and Resumed ResumedState<Acc>, or
/// Nothing.
template <class M, class S, class Lse, class State, class Resumed, bool Gradients>
struct CallExtras {
  M mask;
  S score;
  const SinkLogits* sinks;       // or null
  const HeadGrouping* grouping;  // or null
  const AttentionOptions& options;
  Lse lse;
  State state;
  Resumed resumed;
  const SinkGradient* sink_gradient;             // or null
  const ScoreParameterGradient* score_gradient;  // or null

  static constexpr bool has_gradients = Gradients;
  static constexpr bool has_lse = !std::is_same_v<Lse, Nothing>;
  static constexpr bool has_states = !std::is_same_v<State, Nothing> || !std::is_same_v<Resumed, Nothing>;
};

/// The arguments after the tensors, in any order.
template <class... X>
auto extras_of(const X&... extras) {
  check_extras<X...>();
  const Nothing nothing;
  const auto& lse = pick<Extra::lse>(nothing, extras...);
  const auto& state = pick<Extra::state>(nothing, extras...);
  const auto& resumed = pick<Extra::resumed>(nothing, extras...);
  using M = decltype(mask_of(pick<Extra::mask>(everything, extras...)));
  using S = decltype(score_of(pick<Extra::score>(no_score, extras...)));
  return CallExtras<M, S, std::remove_cvref_t<decltype(lse)>, std::remove_cvref_t<decltype(state)>,
                    std::remove_cvref_t<decltype(resumed)>,
                    count_of<Extra::sink_gradient, X...> + count_of<Extra::score_gradient, X...> != 0>{
      .mask = mask_of(pick<Extra::mask>(everything, extras...)),
      .score = score_of(pick<Extra::score>(no_score, extras...)),
      .sinks = pointer_to(pick<Extra::sinks>(nothing, extras...)),
      .grouping = pointer_to(pick<Extra::grouping>(nothing, extras...)),
      .options = pick<Extra::options>(no_options, extras...),
      .lse = lse,
      .state = state,
      .resumed = resumed,
      .sink_gradient = pointer_to(pick<Extra::sink_gradient>(nothing, extras...)),
      .score_gradient = pointer_to(pick<Extra::score_gradient>(nothing, extras...))};
}

/// The rows that lse_into names, of a call that sums in Acc; null where it is not given.
template <class Acc, class E>
const RowsView<Acc>* lse_rows(const E& extras) {
  if constexpr (!E::has_lse) {
    return nullptr;
  } else {
    using T = std::remove_pointer_t<decltype(extras.lse.rows.data)>;
    static_assert(std::is_same_v<std::remove_const_t<T>, Acc>,
                  "gqa: lse_into takes a tensor of float, or of double where keys and values are double");
    if constexpr (std::is_same_v<T, Acc>)
      return &extras.lse.rows;
    else
      return nullptr;
  }
}

/// The state that state_into or resume names; none where it is not given.
template <class Acc>
const OnlineSoftmax<Acc>* given_state(const Nothing&) {
  return nullptr;
}
template <class Acc, class Given>
const OnlineSoftmax<Acc>* given_state(const Given& given) {
  constexpr bool same = std::is_convertible_v<decltype(given.state), const OnlineSoftmax<Acc>*>;
  static_assert(same,
                "gqa: state_into and resume take an OnlineSoftmax<float>, or <double> where keys and values "
                "are double");
  if constexpr (same)
    return given.state;
  else
    return nullptr;
}

}  // namespace gqa::detail
