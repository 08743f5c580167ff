// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "gqa/core/rounded.hpp"
#include "gqa/score/score_mod_concept.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa {

/// Sharpens or flattens attention by the query's position.
template <class F>
class Temperature {
 public:
  static constexpr ScoreStage stage = ScoreStage::scale;

  constexpr explicit Temperature(F factor) : factor_(std::move(factor)) {}

  template <class Acc>
  void mod(std::span<Acc> scores, const ScoreRow& at) const {
    simd::row_kernels<Acc>(isa()).scale(scores.data(), static_cast<Index>(scores.size()),
                                        static_cast<Acc>(factor_(at.q_pos)));
  }

  /// Asks for the factor of every query of the call.
  void check(const AttentionExtent& extent) const {
    for (Index q_pos = extent.q.begin; q_pos < extent.q.end; ++q_pos) {
      const double factor = static_cast<double>(factor_(q_pos));
      GQA_CHECK(extent.holds(factor), std::invalid_argument,
                "temperature: the factor of position " << q_pos << " is " << factor
                                                       << ", expected a number that " << extent.score_type()
                                                       << " holds");
    }
  }

  template <class Acc>
  void differentiate(std::span<const Acc>, std::span<Acc> slopes, const ScoreRow& at) const {
    simd::row_kernels<Acc>(isa()).scale(slopes.data(), static_cast<Index>(slopes.size()),
                                        static_cast<Acc>(factor_(at.q_pos)));
  }

  /// The factors of the positions from 0 on that the call's queries have.
  static Index num_parameters(const AttentionExtent& extent) {
    GQA_CHECK(extent.q.empty() || extent.q.begin >= 0, std::invalid_argument,
              "temperature: queries begin at position " << extent.q.begin
                                                        << ", expected at least 0 for its gradient");
    return std::max<Index>(extent.q.end, 0);
  }
  static constexpr ParametersApart parameters_apart() { return {.by_query = true}; }
  template <class Acc>
  static void accumulate(std::span<const Acc> d_scores, std::span<const Acc> scores, const ScoreRow& at,
                         std::span<double> gradient) {
    double sum = 0;
    for (std::size_t j = 0; j < scores.size(); ++j)
      sum += detail::rounded(static_cast<double>(d_scores[j]) * static_cast<double>(scores[j]));
    gradient[static_cast<std::size_t>(at.q_pos)] += sum;
  }

 private:
  F factor_;
};

/// `score * factor(q_pos)`, part of the scale and so before a soft-cap. Attention throws
/// std::invalid_argument where a factor is not finite in the type of its scores.
template <std::invocable<Index> F>
constexpr Temperature<F> temperature(F factor) {
  return Temperature<F>(std::move(factor));
}

/// Llama 4's factor for long contexts: `1 + strength * ln(1 + floor((q_pos + 1) / floor_scale))`. Throws
/// std::invalid_argument unless strength is finite and floor_scale >= 1.
inline auto llama4_temperature(double strength = 0.1, Index floor_scale = 8192) {
  GQA_CHECK(std::isfinite(strength), std::invalid_argument,
            "llama4_temperature: strength is " << strength << ", expected a finite number");
  GQA_CHECK(floor_scale >= 1, std::invalid_argument,
            "llama4_temperature: floor_scale is " << floor_scale << ", expected at least 1");
  return temperature([=](Index q_pos) {
    return 1 + detail::rounded(strength *
                               std::log1p(static_cast<double>(std::max<Index>(q_pos + 1, 0) / floor_scale)));
  });
}

}  // namespace gqa
