// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

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

  template <class Acc>
  void mod(std::span<Acc> scores, const ScoreRow&) const {
    simd::row_kernels<Acc>(isa()).soft_cap(scores.data(), static_cast<Index>(scores.size()),
                                           static_cast<Acc>(cap_));
  }

  /// 1 - tanh(s / cap)^2.
  template <class Acc>
  void differentiate(std::span<const Acc> scores, std::span<Acc> slopes, const ScoreRow&) const {
    for (std::size_t j = 0; j < scores.size(); ++j) {
      const Acc t = std::tanh(scores[j] / static_cast<Acc>(cap_));
      slopes[j] *= (1 - t) * (1 + t);
    }
  }

 private:
  double cap_;
};

/// `cap * tanh(score / cap)`, before biases and the mask, as in Gemma 2. Throws std::invalid_argument unless
/// cap is above 0.
inline SoftCap soft_cap(double cap) { return SoftCap(cap); }

}  // namespace gqa
