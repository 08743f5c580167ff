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
/// - `m.check(extent)` throws std::invalid_argument where it has no answer for some of an AttentionExtent.
template <class M>
concept ScoreMod = requires(const M& m, std::span<float> narrow, std::span<double> wide, const ScoreRow& at) {
  m.mod(narrow, at);
  m.mod(wide, at);
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
inline constexpr bool has_derivative = is_additive<M> ||
                                       requires(const M& m, std::span<const double> scores,
                                                std::span<double> slopes, const ScoreRow& at) {
  m.differentiate(scores, slopes, at);
};

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
