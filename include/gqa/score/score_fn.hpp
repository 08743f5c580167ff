// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <utility>

#include "gqa/score/score_mod_concept.hpp"

namespace gqa {

/// A function `(score, q_head, q_pos, kv_pos) -> score`.
template <class F>
concept ScoreFunction = !ScoreMod<F> && requires(const F& f, double score, Index index) {
  { f(score, index, index, index) } -> std::convertible_to<double>;
};

/// A ScoreMod made of a function of one score, and of its derivative `(score, q_head, q_pos, kv_pos) ->
/// double` where there is one.
template <ScoreFunction F, class Derivative = std::nullptr_t>
class FunctionScoreMod {
 public:
  constexpr explicit FunctionScoreMod(F f, Derivative derivative = {})
      : f_(std::move(f)), derivative_(std::move(derivative)) {}

  template <class Acc>
  void mod(std::span<Acc> scores, const ScoreRow& at) const {
    for (std::size_t j = 0; j < scores.size(); ++j) {
      scores[j] = static_cast<Acc>(f_(scores[j], at.q_head, at.q_pos, at.kv_begin + static_cast<Index>(j)));
    }
  }

  template <class Acc>
  void differentiate(std::span<const Acc> scores, std::span<Acc> slopes,
                     const ScoreRow& at) const requires ScoreFunction<Derivative> {
    for (std::size_t j = 0; j < scores.size(); ++j) {
      slopes[j] *=
          static_cast<Acc>(derivative_(scores[j], at.q_head, at.q_pos, at.kv_begin + static_cast<Index>(j)));
    }
  }

 private:
  F f_;
  [[no_unique_address]] Derivative derivative_;
};

/// The caller's own score function `(score, q_head, q_pos, kv_pos) -> score`, at the stage of biases. A NaN
/// it returns reaches its row and no other.
template <ScoreFunction F>
constexpr auto score_fn(F f) {
  return FunctionScoreMod<F>(std::move(f));
}

/// The same with its derivative by the score, which backward needs.
template <ScoreFunction F, ScoreFunction Derivative>
constexpr auto score_fn(F f, Derivative derivative) {
  return FunctionScoreMod<F, Derivative>(std::move(f), std::move(derivative));
}

}  // namespace gqa
