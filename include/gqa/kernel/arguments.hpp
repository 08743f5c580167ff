// SPDX-License-Identifier: Apache-2.0
// What a caller may say beside the tensors, in any order.
#pragma once

#include <optional>
#include <span>
#include <type_traits>

#include "gqa/core/tensor.hpp"
#include "gqa/kernel/heads.hpp"
#include "gqa/kernel/workspace.hpp"
#include "gqa/score/mask.hpp"
#include "gqa/score/score_mod.hpp"

namespace gqa {

/// What is not said by the tensors. Everything may be left out.
struct AttentionOptions {
  std::optional<double> scale = {};  ///< multiplies q k; 1 / sqrt(head_dim) unless given
  std::optional<Index> q_offset =
      {};  ///< position of the first query; the last query sits on the last key unless given
  std::span<const Index> q_offsets = {};  ///< the same, one for each sequence
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
inline constexpr bool is_extra = IsMask::value<X> || IsScore::value<X> || IsSinks::value<X> ||
                                 IsGrouping::value<X> || IsOptions::value<X> || IsLse::value<X>;

template <class... X>
concept Extras = (is_extra<std::remove_cvref_t<X>> && ...);

}  // namespace detail

}  // namespace gqa
