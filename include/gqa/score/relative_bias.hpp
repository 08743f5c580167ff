// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "gqa/core/rounded.hpp"
#include "gqa/score/score_mod_concept.hpp"

namespace gqa {

/// How T5 (Raffel et al. 2020) sorts distances into buckets: half of them hold one distance each, the others
/// grow with its logarithm up to max_distance. Bidirectional (encoder), keys after the query have buckets of
/// their own, the upper half; otherwise (decoder) they share that of distance 0.
struct RelativeBuckets {
  Index num_buckets = 32;
  Index max_distance = 128;
  bool bidirectional = true;

  /// The bucket of `relative = kv_pos - q_pos`.
  Index of(Index relative) const {
    const Index per_side = bidirectional ? num_buckets / 2 : num_buckets;
    const Index side = bidirectional && relative > 0 ? per_side : 0;
    const Index distance = bidirectional ? std::abs(relative) : std::max<Index>(-relative, 0);
    const Index exact = per_side / 2;
    if (distance < exact) return side + distance;
    // Where a bucket begins the quotient is a whole number, which must not be rounded below itself.
    const double octave = std::log(static_cast<double>(distance) / static_cast<double>(exact)) /
                          std::log(static_cast<double>(max_distance) / static_cast<double>(exact));
    const auto grown =
        static_cast<Index>(detail::rounded(octave * static_cast<double>(per_side - exact)) + 1e-9);
    return side + std::min(exact + grown, per_side - 1);
  }
};

/// A learned bias for each bucket of distances and each query head. A copy shares the table.
class RelativeBias {
 public:
  static constexpr ScoreStage stage = ScoreStage::bias;
  static constexpr bool additive = true;

  template <class T>
  RelativeBias(const RelativeBuckets& buckets, std::span<const T> table, Index num_q_heads)
      : num_q_heads_(num_q_heads), reach_(buckets.max_distance) {
    const Index smallest = buckets.bidirectional ? 4 : 2;
    GQA_CHECK(buckets.num_buckets >= smallest && buckets.num_buckets % smallest == 0, std::invalid_argument,
              "relative_bias: num_buckets is " << buckets.num_buckets << ", expected a positive multiple of "
                                               << smallest);
    GQA_CHECK(buckets.max_distance > buckets.num_buckets / smallest, std::invalid_argument,
              "relative_bias: max_distance is " << buckets.max_distance << ", expected more than the "
                                                << buckets.num_buckets / smallest << " exact buckets");
    GQA_CHECK(num_q_heads >= 1, std::invalid_argument,
              "relative_bias: num_q_heads is " << num_q_heads << ", expected at least 1");
    GQA_CHECK(
        static_cast<Index>(table.size()) == checked_mul(buckets.num_buckets, num_q_heads, "relative_bias"),
        std::invalid_argument,
        "relative_bias: table has " << table.size() << " entries, expected " << buckets.num_buckets
                                    << " buckets x " << num_q_heads << " query heads");
    std::vector<double> by_distance;
    for (Index h = 0; h < num_q_heads; ++h) {
      for (Index relative = -reach_; relative <= reach_; ++relative) {
        by_distance.push_back(
            static_cast<double>(table[static_cast<std::size_t>(buckets.of(relative) * num_q_heads + h)]));
      }
    }
    by_distance_ = std::make_shared<const std::vector<double>>(std::move(by_distance));
  }

  /// The biases of a row lie side by side in the table of relative positions; beyond max_distance, both ends
  /// go on.
  template <class Acc>
  void mod(std::span<Acc> scores, const ScoreRow& at) const {
    const double* head = by_distance_->data() + at.q_head * (2 * reach_ + 1);
    const Index n = static_cast<Index>(scores.size()), first = at.kv_begin - at.q_pos;
    const Index inside = std::clamp<Index>(-reach_ - first, 0, n),
                after = std::clamp<Index>(reach_ + 1 - first, 0, n);
    const auto add = [&](Index begin, Index end, auto bias) {
      if (begin < end) {
        detail::update_row(
            scores.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)), bias);
      }
    };
    add(0, inside, [b = static_cast<Acc>(head[0])](Acc s, int) { return s + b; });
    const double* biases = head + reach_ + first + inside;
    add(inside, after, [=](Acc s, int j) { return s + static_cast<Acc>(biases[j]); });
    add(std::max(inside, after), n, [b = static_cast<Acc>(head[2 * reach_])](Acc s, int) { return s + b; });
  }

  void check(const AttentionExtent& extent) const {
    GQA_CHECK(num_q_heads_ == extent.num_q_heads, std::invalid_argument,
              "relative_bias: num_q_heads is " << num_q_heads_ << ", expected " << extent.num_q_heads);
  }

 private:
  Index num_q_heads_, reach_;
  std::shared_ptr<const std::vector<double>> by_distance_;  // num_q_heads x (2 * reach + 1)
};

/// `score + table[bucket(kv_pos - q_pos)][q_head]`, as in T5: `table` is num_buckets x num_q_heads. Throws
/// std::invalid_argument for a table of another size or buckets T5's formula cannot fill.
template <class T>
RelativeBias relative_bias(const RelativeBuckets& buckets, const std::vector<T>& table, Index num_q_heads) {
  return RelativeBias(buckets, std::span<const T>(table), num_q_heads);
}
template <class T>
RelativeBias relative_bias(const RelativeBuckets& buckets, std::span<const T> table, Index num_q_heads) {
  return RelativeBias(buckets, table, num_q_heads);
}

}  // namespace gqa
