// SPDX-License-Identifier: Apache-2.0
// What a caller may say beside the tensors, in any order.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <type_traits>

#include "gqa/core/head_grouping.hpp"
#include "gqa/core/layout.hpp"
#include "gqa/kernel/workspace.hpp"
#include "gqa/mask/mask_fn.hpp"
#include "gqa/mask/mask_ref.hpp"
#include "gqa/mask/window.hpp"
#include "gqa/score/score_chain.hpp"
#include "gqa/score/sink_logits.hpp"

namespace gqa {

/// What is not said by the tensors. Everything may be left out.
struct AttentionOptions {
  std::optional<double> scale = {};  ///< multiplies q k; 1 / sqrt(head_dim) unless given
  std::optional<Index> q_offset =
      {};  ///< position of the first query; the last query sits on the last key unless given
  std::span<const Index> q_offsets = {};  ///< the same, one for each sequence
  Workspace* workspace = nullptr;  ///< memory to work in, kept by the caller; none: allocated for the call
};

template <class T>
struct LseOutput {
  RowsView<T> rows;
};

/// Where the log-sum-exp of each row goes: tokens x num_q_heads (batch first, if any; column-major tensors in
/// reverse), float, or double for doubles. Refers to the tensor's memory, so a temporary that owns its own
/// does not compile.
template <class Tensor>
auto lse_into(Tensor&& tensor) {
  auto rows = as_rows(tensor);
  using T = std::remove_pointer_t<decltype(rows.data)>;
  static_assert(!std::is_const_v<T>, "gqa: lse is const, and is to be written");
  return LseOutput<T>{rows};
}
template <detail::TemporaryTensor Tensor>
void lse_into(Tensor&&) = delete;

namespace detail {

template <class X>
inline constexpr bool is_lse = false;
template <class T>
inline constexpr bool is_lse<LseOutput<T>> = true;

struct IsMask {
  template <class X>
  static constexpr bool value = MaskLike<X>;
};
struct IsScore {  // a tensor can be called like one, but is no function of a score
  template <class X>
  static constexpr bool value = !TensorLike<X> && ScoreModLike<X>;
};
struct IsSinks {
  template <class X>
  static constexpr bool value = std::is_same_v<X, SinkLogits>;
};
struct IsGrouping {
  template <class X>
  static constexpr bool value = std::is_same_v<X, HeadGrouping>;
};
struct IsOptions {
  template <class X>
  static constexpr bool value = std::is_same_v<X, AttentionOptions>;
};
struct IsLse {
  template <class X>
  static constexpr bool value = is_lse<X>;
};

template <class X>
inline constexpr bool is_extra = IsMask::value<X> || IsScore::value<X> || IsSinks::value<X> ||
                                 IsGrouping::value<X> || IsOptions::value<X> || IsLse::value<X>;

template <class... X>
concept Extras = (is_extra<std::remove_cvref_t<X>> && ...);

/// How many of the arguments `Is` accepts.
template <class Is, class... X>
inline constexpr int count_of = (0 + ... + static_cast<int>(Is::template value<X>));

/// One of each kind: a second would have to be dropped.
template <class... X>
constexpr void check_extras() {
  static_assert(
      ((IsMask::value<X> && IsScore::value<X>)+... + 0) == 0,
      "gqa: a function that fits as a mask and as a score function: write mask_fn(f) or score_fn(f)");
  static_assert(
      count_of<IsMask, X...> <= 1,
      "gqa: more than one mask: write one, causal() & document(ids) where both must let a query see, "
      "or | where either may");
  static_assert(count_of<IsScore, X...> <= 1,
                "gqa: more than one score function: write one, alibi(H) | soft_cap(30)");
  static_assert(count_of<IsSinks, X...> <= 1, "gqa: more than one SinkLogits: write one");
  static_assert(count_of<IsGrouping, X...> <= 1, "gqa: more than one HeadGrouping: write one");
  static_assert(
      count_of<IsOptions, X...> <= 1,
      "gqa: more than one AttentionOptions: write one, AttentionOptions{.scale = scale, .workspace = "
      "&workspace}");
  static_assert(count_of<IsLse, X...> <= 1, "gqa: more than one lse_into: write one");
}

/// The first argument that `Is` accepts, else the default.
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

/// What a call says beside its tensors, sorted. It refers to the caller's arguments; M and S are references,
/// or what is made of a lambda. Lse is LseOutput<T>, or Nothing.
template <class M, class S, class Lse>
struct CallExtras {
  M mask;
  S score;
  const SinkLogits* sinks;       // or null
  const HeadGrouping* grouping;  // or null
  const AttentionOptions& options;
  Lse lse;

  static constexpr bool has_lse = !std::is_same_v<Lse, Nothing>;
};

/// The arguments after the tensors, in any order.
template <class... X>
auto extras_of(const X&... extras) {
  check_extras<X...>();
  const Nothing nothing;
  const auto& lse = pick<IsLse>(nothing, extras...);
  using M = decltype(mask_of(pick<IsMask>(everything, extras...)));
  using S = decltype(score_of(pick<IsScore>(no_score, extras...)));
  return CallExtras<M, S, std::remove_cvref_t<decltype(lse)>>{
      mask_of(pick<IsMask>(everything, extras...)),  score_of(pick<IsScore>(no_score, extras...)),
      pointer_to(pick<IsSinks>(nothing, extras...)), pointer_to(pick<IsGrouping>(nothing, extras...)),
      pick<IsOptions>(no_options, extras...),        lse};
}

/// The rows that lse_into names, of a call that sums in Acc; none where it is not given.
template <class Acc, class E>
std::optional<RowsView<Acc>> lse_rows(const E& extras) {
  if constexpr (!E::has_lse) {
    return {};
  } else {
    using T = std::remove_pointer_t<decltype(extras.lse.rows.data)>;
    static_assert(std::is_same_v<std::remove_const_t<T>, Acc>,
                  "gqa: lse_into takes a tensor of float, or of double where keys and values are double");
    if constexpr (std::is_same_v<T, Acc>)
      return extras.lse.rows;
    else
      return {};
  }
}

}  // namespace detail

}  // namespace gqa
