// SPDX-License-Identifier: Apache-2.0
// What tokens are made of after several layers.
#pragma once

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "gqa/inspect/probability_rows.hpp"

namespace gqa {

/// Attention rollout (Abnar and Zuidema 2020): with A_l the mean over a layer's heads,
///
///     R_l = (A_l + I) / 2 * R_(l-1),   R_0 = I
///
/// whose row i says how much of each token there is in token i after layer l, if the residual stream counts
/// as much as attention. Rows sum to 1. Rows of A_l are divided by their sums; one that sees nothing is I's.
///
/// Only the columns of chosen source tokens are kept, n x sources: with a fixed number of them memory is
/// linear in n. A layer's rows come in any pieces, and next_layer() after each layer.
class Rollout {
 public:
  /// Of n tokens at positions 0 to n - 1: all sources, a full matrix. Throws std::invalid_argument for n < 1.
  explicit Rollout(Index num_tokens) : Rollout(num_tokens, all(num_tokens)) {}
  /// Throws std::invalid_argument for a source that is no token.
  Rollout(Index num_tokens, std::vector<Index> sources)
      : num_tokens_(num_tokens), sources_(std::move(sources)) {
    GQA_CHECK(num_tokens >= 1, std::invalid_argument,
              "Rollout: num_tokens is " << num_tokens << ", expected at least 1");
    const auto size = static_cast<std::size_t>(checked_mul(num_tokens, num_sources(), "Rollout"));
    below_.resize(size);
    for (Index s = 0; s < num_sources(); ++s) {
      const Index source = sources_[static_cast<std::size_t>(s)];
      GQA_CHECK(source >= 0 && source < num_tokens, std::invalid_argument,
                "Rollout: source is " << source << ", expected at least 0 and less than " << num_tokens);
      below_[at(source, s)] = 1;
    }
    above_ = below_;
    mean_.resize(static_cast<std::size_t>(num_tokens));
  }

  /// Rows of the layer that comes next, each token's once; a token without rows goes on as it is. Throws
  /// std::invalid_argument for tokens or keys beyond the last.
  void add(const ProbabilityRows& rows) {
    detail::check_rows("Rollout", rows, rows.num_heads);
    GQA_CHECK(rows.num_heads >= 1 && rows.first_position >= 0 && rows.first_key >= 0 &&
                  rows.position(rows.num_tokens) <= num_tokens_ &&
                  rows.first_key + rows.num_keys <= num_tokens_,
              std::invalid_argument,
              "Rollout: rows up to position " << rows.position(rows.num_tokens) << " of keys up to "
                                              << rows.first_key + rows.num_keys << ", expected at most "
                                              << num_tokens_);
    for (Index t = 0; t < rows.num_tokens; ++t) add(rows, t);
  }

  void next_layer() { below_ = above_; }

  Index num_tokens() const { return num_tokens_; }
  Index num_sources() const { return std::ssize(sources_); }
  const std::vector<Index>& sources() const { return sources_; }
  /// How much of source s (of the list's) there is in a token after the layers so far.
  double operator()(Index token, Index s) const { return above_[at(token, s)]; }

 private:
  static std::vector<Index> all(Index n) {
    std::vector<Index> sources(static_cast<std::size_t>(std::max<Index>(n, 0)));
    std::iota(sources.begin(), sources.end(), Index{0});
    return sources;
  }
  std::size_t at(Index token, Index s) const { return static_cast<std::size_t>(token * num_sources() + s); }

  void add(const ProbabilityRows& rows, Index t) {
    std::fill_n(mean_.begin(), rows.num_keys, 0.0);
    double sum = 0;
    for (Index h = 0; h < rows.num_heads; ++h) {
      const auto row = rows.row(t, h);
      for (std::size_t c = 0; c < row.size(); ++c) mean_[c] += static_cast<double>(row[c]);
    }
    for (Index c = 0; c < rows.num_keys; ++c) sum += mean_[static_cast<std::size_t>(c)];
    if (!(sum > 0)) return;
    const Index i = rows.position(t);
    for (Index s = 0; s < num_sources(); ++s) above_[at(i, s)] = below_[at(i, s)] / 2;
    for (Index c = 0; c < rows.num_keys; ++c) {
      const double p = mean_[static_cast<std::size_t>(c)] / sum / 2;
      if (p == 0) continue;
      for (Index s = 0; s < num_sources(); ++s) above_[at(i, s)] += p * below_[at(rows.first_key + c, s)];
    }
  }

  Index num_tokens_;
  std::vector<Index> sources_;
  std::vector<double> below_, above_;  // num_tokens x sources: before and after the layer that is added
  std::vector<double> mean_;           // of a token's heads
};

}  // namespace gqa
