// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "gqa/core/rounded.hpp"
#include "gqa/mask/mask_concept.hpp"
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
    relative = std::max(relative, -std::numeric_limits<Index>::max());
    const Index distance = bidirectional ? std::abs(relative) : std::max<Index>(-relative, 0);
    const Index exact = per_side / 2;
    if (distance < exact) return side + distance;
    if (distance >= max_distance || exact == 0) return side + std::max<Index>(per_side - 1, 0);
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
      : num_q_heads_(num_q_heads), near_(near_of(buckets)) {
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
    auto parts = std::make_shared<Table>();
    for (const T& value : table) {
      const auto x = static_cast<double>(value);
      GQA_CHECK(x < std::numeric_limits<double>::infinity(), std::invalid_argument,
                "relative_bias: table[" << parts->by_bucket.size() << "] is " << x
                                        << ", expected a number or -inf");
      parts->by_bucket.push_back(x);
      if (std::isfinite(x)) parts->largest = std::max(parts->largest, std::abs(x));
    }
    for (Index relative = -near_; relative <= near_; ++relative)
      parts->near_buckets.push_back(buckets.of(relative));
    for (Index h = 0; h < num_q_heads; ++h)
      for (const Index bucket : parts->near_buckets)
        parts->by_distance.push_back(parts->by_bucket[static_cast<std::size_t>(bucket * num_q_heads + h)]);
    for (const Index sign : {-1, 1}) add_far_runs(buckets, sign, *parts);
    table_ = std::move(parts);
  }

  /// The biases of a row lie side by side in the table of near distances; beyond it, a bucket is a run of
  /// keys.
  template <class Acc>
  void mod(std::span<Acc> scores, const ScoreRow& at) const {
    const Index n = static_cast<Index>(scores.size()), first = at.kv_begin - at.q_pos;
    const auto part = [&](Index begin, Index end) {
      return scores.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    };
    for (Index j = 0, end = 0; j < n; j = end) {
      const Index relative = first + j;
      if (relative < -near_ || relative > near_) {
        const Run& run = run_of(relative);
        end = std::min(n, run.relative.end - first);
        const std::size_t cell = static_cast<std::size_t>(run.bucket * num_q_heads_ + at.q_head);
        detail::update_row(part(j, end),
                           [b = static_cast<Acc>(table_->by_bucket[cell])](Acc s, int) { return s + b; });
      } else {
        end = std::min(n, near_ + 1 - first);
        const double* biases = table_->by_distance.data() + at.q_head * (2 * near_ + 1) + near_ + relative;
        detail::update_row(part(j, end), [=](Acc s, int i) { return s + static_cast<Acc>(biases[i]); });
      }
    }
  }

  /// The table, num_buckets x num_q_heads.
  Index num_parameters(const AttentionExtent&) const { return static_cast<Index>(table_->by_bucket.size()); }
  static constexpr ParametersApart parameters_apart() { return {.by_kv_head = true}; }
  template <class Acc>
  void accumulate(std::span<const Acc> d_scores, std::span<const Acc>, const ScoreRow& at,
                  std::span<double> gradient) const {
    for (std::size_t j = 0; j < d_scores.size(); ++j) {
      const Index relative = at.kv_begin + static_cast<Index>(j) - at.q_pos;
      const bool is_far = relative < -near_ || relative > near_;
      const Index bucket =
          is_far ? run_of(relative).bucket : table_->near_buckets[static_cast<std::size_t>(near_ + relative)];
      gradient[static_cast<std::size_t>(bucket * num_q_heads_ + at.q_head)] +=
          static_cast<double>(d_scores[j]);
    }
  }

  void check(const AttentionExtent& extent) const {
    GQA_CHECK(num_q_heads_ == extent.num_q_heads, std::invalid_argument,
              "relative_bias: num_q_heads is " << num_q_heads_ << ", expected " << extent.num_q_heads);
    GQA_CHECK(extent.holds(table_->largest), std::invalid_argument,
              "relative_bias: table has a bias of "
                  << table_->largest << " or its negative, expected numbers that " << extent.score_type()
                  << " holds");
  }

 private:
  /// Relative positions that share a bucket.
  struct Run {
    Range relative;
    Index bucket;
  };
  struct Table {
    std::vector<double> by_distance;  // num_q_heads x (2 * near + 1)
    std::vector<double> by_bucket;    // num_buckets x num_q_heads
    std::vector<Index> near_buckets;  // 2 * near + 1
    std::vector<Run> far_runs;        // of the others, in ascending order
    double largest = 0;               // finite magnitude
  };

  /// Distances looked up one by one: all of them unless that would take much more memory than the caller's
  /// own table.
  static Index near_of(const RelativeBuckets& buckets) {
    return std::min(buckets.max_distance, std::max<Index>(4096, buckets.num_buckets));
  }

  /// The runs beyond the near distances on one side of the query: a bucket's end is found by halving, as
  /// buckets do not fall with the distance.
  void add_far_runs(const RelativeBuckets& buckets, Index sign, Table& parts) const {
    std::vector<Run> runs;
    for (Index begin = near_ + 1; begin <= farthest;) {
      const Index bucket = buckets.of(sign * begin);
      Index last = begin, after = farthest + 1;
      if (buckets.of(sign * farthest) == bucket) last = farthest;
      while (last < farthest && after - last > 1) {
        const Index middle = last + (after - last) / 2;
        (buckets.of(sign * middle) == bucket ? last : after) = middle;
      }
      runs.push_back({sign > 0 ? Range{begin, last + 1} : Range{-last, -begin + 1}, bucket});
      begin = last + 1;
    }
    if (sign < 0) std::reverse(runs.begin(), runs.end());
    parts.far_runs.insert(parts.far_runs.end(), runs.begin(), runs.end());
  }

  const Run& run_of(Index relative) const {
    return *std::upper_bound(table_->far_runs.begin(), table_->far_runs.end(), relative,
                             [](Index r, const Run& run) { return r < run.relative.end; });
  }

  /// Two positions are no further apart than this.
  static constexpr Index farthest = 2 * max_position;

  Index num_q_heads_, near_;
  std::shared_ptr<const Table> table_;
};

/// `score + table[bucket(kv_pos - q_pos)][q_head]`, as in T5: `table` is num_buckets x num_q_heads. Throws
/// std::invalid_argument for a table of another size, with NaN or +inf in it, or buckets T5's formula cannot
/// fill, and attention does where the type of its scores does not hold the numbers in it.
template <class T>
RelativeBias relative_bias(const RelativeBuckets& buckets, const std::vector<T>& table, Index num_q_heads) {
  return RelativeBias(buckets, std::span<const T>(table), num_q_heads);
}
template <class T>
RelativeBias relative_bias(const RelativeBuckets& buckets, std::span<const T> table, Index num_q_heads) {
  return RelativeBias(buckets, table, num_q_heads);
}

}  // namespace gqa
