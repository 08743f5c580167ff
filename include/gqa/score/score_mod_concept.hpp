// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <span>

#include "gqa/core/extent.hpp"

namespace gqa {

/// Where in a score's way to the softmax a function acts: scale, then soft-cap, then bias. The mask follows.
enum class ScoreStage { scale, soft_cap, bias };

/// The coordinates of a row of scores: `scores[j]` belongs to the key at position `kv_begin + j`. The call's
/// queries of the sequence begin at `first_query`, where that is known.
struct ScoreRow {
  Index seq = 0, q_head = 0, q_pos = 0, kv_begin = 0;
  std::optional<Index> first_query = {};
};

/// A function of one score and its coordinates, given for a whole row at once.
///
/// `m.mod(scores, at)` rewrites a row of scores in natural units (the scale is already in them); scores at
/// masked or absent positions may be among them, and what becomes of those does not matter. Optional members:
/// - `stage`, a constant; bias where it is missing;
/// - `additive`, a constant: true says that the derivative of the result by the score is 1;
/// - `m.differentiate(scores, slopes, at)`: multiplies `slopes[j]` by the derivative at `scores[j]`;
/// - `m.num_parameters(extent)`, `m.accumulate(d_scores, scores, at, gradient)`: it has so many parameters in
/// a
///   call of that AttentionExtent, and adds to each `gradient[i]`, of double, the sum over j of `d_scores[j]`
///   times the derivative of score j's result by it;
/// - `m.parameters_apart()`, a ParametersApart: which queries never add to the same parameter;
/// - `m.check(extent)` throws std::invalid_argument where it has no answer for some of an AttentionExtent.
template <class M>
concept ScoreMod = requires(const M& m, std::span<float> narrow, std::span<double> wide, const ScoreRow& at) {
  m.mod(narrow, at);
  m.mod(wide, at);
};

/// Queries of different sequences, of heads that read different KV heads, or at different positions of a
/// sequence never add to the same parameter of a score function: their sums need no memory of their own.
struct ParametersApart {
  bool by_seq = false, by_kv_head = false, by_query = false;

  friend constexpr ParametersApart operator&(ParametersApart a, ParametersApart b) {
    return {a.by_seq && b.by_seq, a.by_kv_head && b.by_kv_head, a.by_query && b.by_query};
  }
};

/// Where the parameters of a score function are summed up in a call of some extent; no values: nowhere.
struct ParameterSums {
  std::span<double> values = {};
  const AttentionExtent* extent = nullptr;

  ParameterSums part(Index begin, Index count) const {
    if (values.empty()) return {};
    return {values.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)), extent};
  }
};

namespace detail {

template <class M>
constexpr ScoreStage stage_of() {
  if constexpr (requires { M::stage; }) {
    return M::stage;
  } else {
    return ScoreStage::bias;
  }
}

template <class M>
inline constexpr bool is_additive = requires {
  requires M::additive;
};

template <class M>
inline constexpr bool has_way_back = requires(const M& m, std::span<const double> scores, std::span<double> d,
                                              const ScoreRow& at, const ParameterSums& sums) {
  m.pull_back(scores, d, at, sums);
};
template <class M>
inline constexpr bool has_derivative = is_additive<M> || has_way_back<M> ||
                                       requires(const M& m, std::span<const double> scores,
                                                std::span<double> slopes, const ScoreRow& at) {
  m.differentiate(scores, slopes, at);
};

/// Gradients `d` by what m makes of the scores become gradients by the scores; what parameters m has are
/// summed up on the way.
template <class M, class Acc>
void pull_back(const M& m, std::span<const Acc> scores, std::span<Acc> d, const ScoreRow& at,
               const ParameterSums& sums) {
  if constexpr (has_way_back<M>) {
    m.pull_back(scores, d, at, sums);
  } else {
    if constexpr (requires { m.accumulate(std::span<const Acc>(d), scores, at, sums.values); })
      if (!sums.values.empty()) m.accumulate(std::span<const Acc>(d), scores, at, sums.values);
    if constexpr (!is_additive<M>) m.differentiate(scores, d, at);
  }
}

template <class M>
Index num_parameters(const M& m, const AttentionExtent& extent) {
  if constexpr (requires { m.num_parameters(extent); })
    return m.num_parameters(extent);
  else
    return 0;
}

/// Nothing is further apart than no parameters.
template <class M>
ParametersApart parameters_apart(const M& m) {
  if constexpr (requires { m.parameters_apart(); })
    return m.parameters_apart();
  else if constexpr (requires(const AttentionExtent& extent) { m.num_parameters(extent); })
    return {};
  else
    return {true, true, true};
}

/// Throws std::invalid_argument where m turns out to have no derivative.
template <class M>
void check_derivative(const M& m) {
  if constexpr (requires { m.check_derivative(); }) m.check_derivative();
}

/// What of a score function acts up to and with a stage.
template <class M, class Acc>
void mod_until(const M& m, ScoreStage last, std::span<Acc> scores, const ScoreRow& at) {
  if constexpr (requires { m.mod_until(last, scores, at); })
    m.mod_until(last, scores, at);
  else if (stage_of<M>() <= last)
    m.mod(scores, at);
}

/// Replaces each score by `f(score, j)`. The inner loop has a constant length: at -O2, GCC makes vectors of
/// nothing else.
template <class Acc, class F>
void update_row(std::span<Acc> scores, F f) {
  constexpr int block = 16;
  const int n = static_cast<int>(scores.size());
  int j = 0;
  for (; j + block <= n; j += block) {
    Acc* s = scores.data() + j;
    for (int u = 0; u < block; ++u) s[u] = f(s[u], j + u);
  }
  for (; j < n; ++j) scores[static_cast<std::size_t>(j)] = f(scores[static_cast<std::size_t>(j)], j);
}

}  // namespace detail

/// A score function whose derivative backward can use.
template <class M>
concept DifferentiableScoreMod = ScoreMod<M> && detail::has_derivative<M>;

}  // namespace gqa
