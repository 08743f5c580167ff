// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "gqa/core/rounded.hpp"
#include "gqa/score/score_mod_concept.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa {

/// Bounds scores smoothly to (-cap, cap).
class SoftCap {
 public:
  static constexpr ScoreStage stage = ScoreStage::soft_cap;

  explicit SoftCap(double cap) : cap_(cap) {
    GQA_CHECK(cap > 0 && std::isfinite(cap), std::invalid_argument,
              "soft_cap: cap is " << cap << ", expected a finite number above 0");
  }

  void check(const AttentionExtent& extent) const {
    const double cap = extent.in_double ? cap_ : static_cast<double>(static_cast<float>(cap_));
    GQA_CHECK(extent.holds(cap_) && extent.holds(1 / cap), std::invalid_argument,
              "soft_cap: cap is " << cap_ << ", expected a number that " << extent.score_type()
                                  << " holds, and its inverse too");
  }

  template <class Acc>
  void mod(std::span<Acc> scores, const ScoreRow&) const {
    simd::score_kernels<Acc>(isa()).soft_cap(scores.data(), static_cast<Index>(scores.size()),
                                             static_cast<Acc>(cap_));
  }

  /// 1 - tanh(s / cap)^2.
  template <class Acc>
  void differentiate(std::span<const Acc> scores, std::span<Acc> slopes, const ScoreRow&) const {
    simd::gradient_kernels<Acc>(isa()).soft_cap_slope(
        scores.data(), slopes.data(), static_cast<Index>(scores.size()), static_cast<Acc>(cap_));
  }

  /// The cap: tanh x - x (1 - tanh(x)^2) for x = s / cap.
  static Index num_parameters(const AttentionExtent&) { return 1; }
  template <class Acc>
  void accumulate(std::span<const Acc> d_scores, std::span<const Acc> scores, const ScoreRow&,
                  std::span<double> gradient) const {
    for (std::size_t j = 0; j < scores.size(); ++j) {
      const double x = static_cast<double>(scores[j]) / cap_, t = std::tanh(x);
      gradient[0] +=
          detail::rounded(static_cast<double>(d_scores[j]) * (t - detail::rounded(x * (1 - t) * (1 + t))));
    }
  }

 private:
  double cap_;
};

/// `cap * tanh(score / cap)`, before biases and the mask, as in Gemma 2. Throws std::invalid_argument unless
/// cap is finite and above 0, and attention does for one too large or too small for the type of its scores.
inline SoftCap soft_cap(double cap) { return SoftCap(cap); }

}  // namespace gqa
