// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "gqa/core/random.hpp"
#include "gqa/core/rounded.hpp"
#include "gqa/core/shape.hpp"

namespace gqa::detail {

/// The clusters of one head's queries: rows of `dim` numbers.
struct QueryClusters {
  std::vector<Index> cluster_of;            // of each query
  std::vector<std::vector<Index>> members;  // none empty
  std::vector<double> centres;              // clusters x dim
  double distortion = 0;                    // summed over queries
  double multiply_adds = 0;
};

/// k-means (Lloyd), begun at queries drawn by their squared distance from those drawn before (Arthur and
/// Vassilvitskii 2007): so no two beginnings are alike, and with as many clusters as there are different
/// queries each has its own.
inline QueryClusters cluster_queries(const std::vector<double>& q, Index n, Index most_clusters,
                                     Index iterations, std::uint64_t seed) {
  const Index dim = static_cast<Index>(q.size()) / n;
  const auto at = [](Index i) { return static_cast<std::size_t>(i); };
  QueryClusters result;
  result.cluster_of.assign(at(n), 0);
  const auto distance = [&](const double* a, const double* b) {
    result.multiply_adds += static_cast<double>(dim);
    double sum = 0;
    for (Index d = 0; d < dim; ++d) sum += rounded((a[d] - b[d]) * (a[d] - b[d]));
    return sum;
  };
  const auto query = [&](Index i) { return q.data() + i * dim; };

  Random random(seed);
  std::vector<double> nearest(at(n), std::numeric_limits<double>::infinity());
  Index next = random.below(n);
  Index clusters = 0;
  while (true) {
    result.centres.insert(result.centres.end(), query(next), query(next) + dim);
    const double* const centre = result.centres.data() + clusters * dim;
    double total = 0;
    for (Index i = 0; i < n; ++i) {
      const double d = distance(query(i), centre);
      if (d < nearest[at(i)]) nearest[at(i)] = d, result.cluster_of[at(i)] = clusters;
      total += nearest[at(i)];
    }
    if (++clusters == std::min(most_clusters, n) || total == 0) break;
    double left = total * random.uniform();
    next = -1;
    for (Index i = 0; i < n && (next < 0 || left >= 0); ++i) {
      if (nearest[at(i)] == 0) continue;
      next = i;
      left -= nearest[at(i)];
    }
  }

  const auto recentre = [&] {
    std::fill(result.centres.begin(), result.centres.end(), 0.0);
    std::vector<Index> sizes(at(clusters));
    for (Index i = 0; i < n; ++i) {
      const Index c = result.cluster_of[at(i)];
      ++sizes[at(c)];
      for (Index d = 0; d < dim; ++d) result.centres[at(c * dim + d)] += query(i)[d];
    }
    for (Index c = 0; c < clusters; ++c)
      for (Index d = 0; d < dim && sizes[at(c)] > 0; ++d)
        result.centres[at(c * dim + d)] /= static_cast<double>(sizes[at(c)]);
    return sizes;
  };
  std::vector<Index> sizes = recentre();
  for (Index iteration = 0; iteration < iterations; ++iteration) {
    bool moved = false;
    for (Index i = 0; i < n; ++i) {
      Index& mine = result.cluster_of[at(i)];
      double least = distance(query(i), result.centres.data() + mine * dim);
      for (Index c = 0; c < clusters; ++c) {
        if (c == mine || sizes[at(c)] == 0) continue;
        const double d = distance(query(i), result.centres.data() + c * dim);
        if (d < least) least = d, mine = c, moved = true;
      }
    }
    if (!moved) break;
    sizes = recentre();
  }

  // Those that lost all their queries are gone.
  std::vector<Index> number(at(clusters), -1);
  Index kept = 0;
  for (Index c = 0; c < clusters; ++c) {
    if (sizes[at(c)] == 0) continue;
    std::copy_n(result.centres.begin() + c * dim, dim, result.centres.begin() + kept * dim);
    number[at(c)] = kept++;
  }
  result.centres.resize(at(kept * dim));
  result.members.resize(at(kept));
  for (Index i = 0; i < n; ++i) {
    Index& c = result.cluster_of[at(i)];
    c = number[at(c)];
    result.members[at(c)].push_back(i);
    double sum = 0;
    for (Index d = 0; d < dim; ++d) {
      const double x = query(i)[d] - result.centres[at(c * dim + d)];
      sum += x * x;
    }
    result.distortion += sum;
  }
  return result;
}

}  // namespace gqa::detail
