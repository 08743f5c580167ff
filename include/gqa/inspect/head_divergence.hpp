// SPDX-License-Identifier: Apache-2.0
// How differently heads look.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "gqa/core/head_grouping.hpp"
#include "gqa/inspect/probability_rows.hpp"

namespace gqa {

/// The Jensen-Shannon divergence between every two heads (Lin 1991), in nats and as the mean over tokens of
///
///     JS(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2,   0 (the same) to ln 2 (nothing in common)
///
/// with p and q divided by their sums. Memory: a number a pair; time: a row for every pair and token.
class HeadDivergence {
 public:
  /// Throws std::invalid_argument for no heads.
  explicit HeadDivergence(Index num_heads) : num_heads_(num_heads) {
    GQA_CHECK(num_heads >= 1, std::invalid_argument,
              "HeadDivergence: num_heads is " << num_heads << ", expected at least 1");
    const auto size = static_cast<std::size_t>(num_heads);
    sums_.resize(size * size);
    counts_.resize(size * size);
    scales_.resize(size);
  }

  /// Throws std::invalid_argument for rows of other heads.
  void add(const ProbabilityRows& rows) {
    detail::check_rows("HeadDivergence", rows, num_heads_);
    for (Index t = 0; t < rows.num_tokens; ++t) {
      for (Index h = 0; h < num_heads_; ++h) {
        double sum = 0;
        for (const float p : rows.row(t, h)) sum += static_cast<double>(p);
        scales_[static_cast<std::size_t>(h)] = sum > 0 ? 1 / sum : 0;
      }
      for (Index a = 0; a < num_heads_; ++a)
        for (Index b = a + 1; b < num_heads_; ++b) add(rows, t, a, b);
    }
  }

  Index num_heads() const { return num_heads_; }

  /// Of two heads. Throws std::invalid_argument for one that is not there.
  double between(Index a, Index b) const {
    GQA_CHECK(a >= 0 && a < num_heads_ && b >= 0 && b < num_heads_, std::invalid_argument,
              "HeadDivergence: heads are " << a << " and " << b << ", expected at least 0 and less than "
                                           << num_heads_);
    const std::size_t i = pair(std::min(a, b), std::max(a, b));
    return counts_[i] == 0 ? 0 : sums_[i] / static_cast<double>(counts_[i]);
  }
  /// Mean over the pairs of heads that share a KV head, and over those that do not; 0 where there are none.
  /// Throws std::invalid_argument for a grouping of other heads.
  double within_groups(const HeadGrouping& grouping) const { return mean(grouping, true); }
  double between_groups(const HeadGrouping& grouping) const { return mean(grouping, false); }

 private:
  std::size_t pair(Index a, Index b) const { return static_cast<std::size_t>(a * num_heads_ + b); }

  void add(const ProbabilityRows& rows, Index t, Index a, Index b) {
    const double scale_a = scales_[static_cast<std::size_t>(a)],
                 scale_b = scales_[static_cast<std::size_t>(b)];
    if (scale_a == 0 || scale_b == 0) return;
    const auto row_a = rows.row(t, a), row_b = rows.row(t, b);
    double sum = 0;
    for (std::size_t c = 0; c < row_a.size(); ++c) {
      const double p = static_cast<double>(row_a[c]) * scale_a, q = static_cast<double>(row_b[c]) * scale_b;
      const double both = p + q;
      // (p ln(2p / (p + q)) + q ln(2q / (p + q))) / 2, term by term: no difference of large numbers.
      if (p > 0) sum += p * std::log(2 * p / both);
      if (q > 0) sum += q * std::log(2 * q / both);
    }
    sums_[pair(a, b)] += std::clamp(sum / 2, 0.0, std::log(2.0));
    ++counts_[pair(a, b)];
  }

  double mean(const HeadGrouping& grouping, bool within) const {
    GQA_CHECK(grouping.num_q_heads() == num_heads_, std::invalid_argument,
              "HeadDivergence: the grouping has " << grouping.num_q_heads() << " query heads, expected "
                                                  << num_heads_);
    double sum = 0;
    Index count = 0;
    for (Index a = 0; a < num_heads_; ++a) {
      for (Index b = a + 1; b < num_heads_; ++b) {
        if ((grouping.kv_head(a) == grouping.kv_head(b)) != within) continue;
        sum += between(a, b);
        ++count;
      }
    }
    return count == 0 ? 0 : sum / static_cast<double>(count);
  }

  Index num_heads_;
  std::vector<double> sums_;   // num_heads x num_heads, above the diagonal
  std::vector<Index> counts_;  // of tokens for which both heads see something
  std::vector<double> scales_;
};

}  // namespace gqa
