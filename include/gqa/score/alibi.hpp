// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <vector>

#include "gqa/core/rounded.hpp"
#include "gqa/score/score_mod_concept.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa {

/// The slopes of Press et al. 2022 for any number of heads. For a power of two, the geometric sequence
/// 2^(-8 (h + 1) / num_q_heads); otherwise that of the largest power of two n below, then every other slope
/// of the sequence for 2 n, from its first. Throws std::invalid_argument unless num_q_heads >= 1.
inline std::vector<double> alibi_slopes(Index num_q_heads) {
  GQA_CHECK(num_q_heads >= 1, std::invalid_argument,
            "alibi: num_q_heads is " << num_q_heads << ", expected at least 1");
  const auto n = static_cast<Index>(std::bit_floor(static_cast<std::size_t>(num_q_heads)));
  std::vector<double> slopes;
  for (Index h = 0; h < num_q_heads; ++h) {
    const double exponent = h < n ? -8.0 * static_cast<double>(h + 1) / static_cast<double>(n)
                                  : -8.0 * static_cast<double>(2 * (h - n) + 1) / static_cast<double>(2 * n);
    slopes.push_back(std::exp2(exponent));
  }
  return slopes;
}

/// A penalty in proportion to distance, steeper in some heads than in others. A copy shares the slopes.
class Alibi {
 public:
  static constexpr ScoreStage stage = ScoreStage::bias;
  static constexpr bool additive = true;

  explicit Alibi(std::vector<double> slopes)
      : slopes_(std::make_shared<const std::vector<double>>(std::move(slopes))) {
    for (std::size_t h = 0; h < slopes_->size(); ++h)
      GQA_CHECK(std::isfinite((*slopes_)[h]), std::invalid_argument,
                "alibi: slopes[" << h << "] is " << (*slopes_)[h] << ", expected a finite number");
  }

  template <class Acc>
  void mod(std::span<Acc> scores, const ScoreRow& at) const {
    const Acc slope = static_cast<Acc>((*slopes_)[static_cast<std::size_t>(at.q_head)]);
    simd::score_kernels<Acc>(isa()).subtract_distance(scores.data(), static_cast<Index>(scores.size()),
                                                      static_cast<Acc>(at.q_pos - at.kv_begin), slope);
  }

  /// The slopes, one a query head.
  Index num_parameters(const AttentionExtent&) const { return static_cast<Index>(slopes_->size()); }
  static constexpr ParametersApart parameters_apart() { return {.by_kv_head = true}; }
  template <class Acc>
  void accumulate(std::span<const Acc> d_scores, std::span<const Acc>, const ScoreRow& at,
                  std::span<double> gradient) const {
    double sum = 0;
    for (std::size_t j = 0; j < d_scores.size(); ++j) {
      const Index distance = std::abs(at.q_pos - at.kv_begin - static_cast<Index>(j));
      sum += detail::rounded(static_cast<double>(d_scores[j]) * static_cast<double>(distance));
    }
    gradient[static_cast<std::size_t>(at.q_head)] -= sum;
  }

  void check(const AttentionExtent& extent) const {
    GQA_CHECK(static_cast<Index>(slopes_->size()) == extent.num_q_heads, std::invalid_argument,
              "alibi: slopes has " << slopes_->size() << " entries, expected one for each of "
                                   << extent.num_q_heads << " query heads");
    const auto farthest = static_cast<double>(
        std::max({extent.q.end - 1 - extent.kv.begin, extent.kv.end - 1 - extent.q.begin, Index{1}}));
    for (std::size_t h = 0; h < slopes_->size(); ++h)
      GQA_CHECK(extent.holds((*slopes_)[h] * farthest), std::invalid_argument,
                "alibi: slopes[" << h << "] is " << (*slopes_)[h] << ", expected a number that "
                                 << extent.score_type() << " holds, also times the distance " << farthest);
  }

 private:
  std::shared_ptr<const std::vector<double>> slopes_;
};

/// `score - slope[q_head] * |q_pos - kv_pos|` with the published slopes.
inline Alibi alibi(Index num_q_heads) { return Alibi(alibi_slopes(num_q_heads)); }

/// The same with slopes of one's own, one a query head. Throws std::invalid_argument for one that is not
/// finite, and attention does for another number of them, or one whose largest penalty overflows.
inline Alibi alibi(std::vector<double> slopes) { return Alibi(std::move(slopes)); }

}  // namespace gqa
