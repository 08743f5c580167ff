// SPDX-License-Identifier: Apache-2.0
// Query heads shared out over KV heads while a model runs (Khan et al. 2024, arXiv 2408.08454).
#pragma once

#include <cmath>
#include <numeric>
#include <vector>

#include "gqa/core/head_grouping.hpp"
#include "gqa/core/tensor.hpp"

namespace gqa::convert {

namespace detail {

inline void check_norms(const std::vector<double>& norms) {
  GQA_CHECK(!norms.empty(), std::invalid_argument, "norms: KV heads is 0, expected at least 1");
  for (std::size_t g = 0; g < norms.size(); ++g)
    GQA_CHECK(
        norms[g] >= 0 && std::isfinite(norms[g]), std::invalid_argument,
        "norms: that of KV head " << g << " is " << norms[g] << ", expected a finite number of at least 0");
}

}  // namespace detail

/// The norm of each KV head's keys, of all tokens; over a batch the sum of the sequences' norms. `k` is
/// tokens x G x D, or batch first. Summed in double.
template <TensorLike K>
std::vector<double> key_norms(const K& k) {
  const auto view = as_view(k);
  std::vector<double> norms(static_cast<std::size_t>(view.heads));
  for (Index b = 0; b < view.batch; ++b)
    for (Index g = 0; g < view.heads; ++g) {
      double squares = 0;
      for (Index t = 0; t < view.tokens; ++t)
        for (Index d = 0; d < view.dim; ++d) {
          const double x = static_cast<double>(view.at(b, t, g)[d]);
          squares += x * x;
        }
      norms[static_cast<std::size_t>(g)] += std::sqrt(squares);
    }
  return norms;
}

/// How many query heads each KV head gets, in the ratio of the norms of their keys: at least 1 each and
/// `num_q_heads` in all. One after another, a query head goes where norm / (2 count + 1) is largest
/// (Webster's method: shares rounded to the nearest so that they sum up); of equals to the KV head with
/// fewest, then to the first. So equal norms give the uniform H / G, and counts move with their norms.
///
/// The authors' code rounds shares of min-max-scaled norms, which leaves the least head without queries and
/// divides 0 by 0 where norms are equal. Throws std::invalid_argument for norms that are no finite numbers or
/// negative, and fewer query heads than KV heads.
inline std::vector<Index> query_head_counts(const std::vector<double>& norms, Index num_q_heads) {
  detail::check_norms(norms);
  const auto num_kv_heads = static_cast<Index>(norms.size());
  GQA_CHECK(num_q_heads >= num_kv_heads, std::invalid_argument,
            "num_q_heads is " << num_q_heads << ", expected at least the " << num_kv_heads << " KV heads");
  std::vector<Index> counts(norms.size(), 1);
  const auto claim = [&](std::size_t g) { return norms[g] / static_cast<double>(2 * counts[g] + 1); };
  for (Index given = num_kv_heads; given < num_q_heads; ++given) {
    std::size_t to = 0;
    for (std::size_t g = 1; g < norms.size(); ++g)
      if (claim(g) > claim(to) || (claim(g) == claim(to) && counts[g] < counts[to])) to = g;
    ++counts[to];
  }
  return counts;
}

/// The map in which KV head g is read by the next `counts[g]` query heads. Throws std::invalid_argument for
/// negative counts or where they are all 0.
inline HeadGrouping grouping_of_counts(const std::vector<Index>& counts) {
  std::vector<Index> map;
  for (std::size_t g = 0; g < counts.size(); ++g) {
    GQA_CHECK(counts[g] >= 0, std::invalid_argument,
              "counts: that of KV head " << g << " is " << counts[g] << ", expected at least 0");
    map.insert(map.end(), static_cast<std::size_t>(counts[g]), static_cast<Index>(g));
  }
  return HeadGrouping(std::move(map), static_cast<Index>(counts.size()));
}

/// Key-distributed GQA: the map for these very keys, made anew each forward, to be given to attention().
template <TensorLike K>
HeadGrouping key_driven_grouping(const K& k, Index num_q_heads) {
  return grouping_of_counts(query_head_counts(key_norms(k), num_q_heads));
}

/// Dynamic key-distributed GQA: the map follows a moving average of key norms, and changes once in an
/// interval of steps rather than each forward,
///
///     average <- keep * average + (1 - keep) * norms    (the first norms as they are).
class DynamicGrouping {
 public:
  /// Uniform until the first interval is over. Throws std::invalid_argument unless H is a multiple of G,
  /// 0 <= keep < 1 and the interval is at least 1.
  DynamicGrouping(Index num_q_heads, Index num_kv_heads, double keep = 0.9, Index interval = 1)
      : heads_(HeadGrouping::contiguous(num_q_heads, num_kv_heads)), keep_(keep), interval_(interval) {
    GQA_CHECK(keep >= 0 && keep < 1, std::invalid_argument,
              "keep is " << keep << ", expected at least 0 and less than 1");
    GQA_CHECK(interval >= 1, std::invalid_argument, "interval is " << interval << ", expected at least 1");
  }

  /// Takes in the norms of a step's keys; returns whether the map was made anew. Throws std::invalid_argument
  /// for another number of KV heads or norms that are none, nothing changed.
  bool update(const std::vector<double>& norms) {
    detail::check_norms(norms);
    GQA_CHECK(static_cast<Index>(norms.size()) == heads_.num_kv_heads(), std::invalid_argument,
              "norms: KV heads is " << norms.size() << ", expected " << heads_.num_kv_heads());
    if (average_.empty()) average_ = norms;
    for (std::size_t g = 0; g < norms.size(); ++g) average_[g] = keep_ * average_[g] + (1 - keep_) * norms[g];
    if (++steps_ % interval_ != 0) return false;
    heads_ = grouping_of_counts(query_head_counts(average_, heads_.num_q_heads()));
    return true;
  }

  /// The map as it stands, for attention().
  const HeadGrouping& heads() const { return heads_; }
  const std::vector<double>& average() const { return average_; }

 private:
  HeadGrouping heads_;
  double keep_;
  Index interval_, steps_ = 0;
  std::vector<double> average_;
};

}  // namespace gqa::convert
