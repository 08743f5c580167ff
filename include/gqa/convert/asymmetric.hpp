// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>
#include <vector>

#include "gqa/convert/clustering.hpp"

namespace gqa::convert {

/// Groups of any sizes of heads that are alike, at the cache of `groups` KV heads (QCQA, Joshi et al. 2024,
/// arXiv 2406.10247; AsymGQA, Chen et al. 2024, arXiv 2406.14963). From Ward's groups, from equal ones where
/// the number allows, and from contiguous ones, the move or swap that gains most until none gains: never
/// costs more than any of these. Throws std::invalid_argument for distances that are none and groups below 1
/// or above the heads.
inline HeadGrouping asymmetric_groups(const Matrix& distances, Index groups, std::uint64_t seed = 0) {
  detail::check_distances(distances);
  const Index heads = distances.rows();
  detail::check_groups(heads, groups);
  std::vector<std::vector<Index>> starts;
  starts.push_back(detail::agglomerate(distances, groups));
  std::vector<Index> contiguous;
  for (Index h = 0; h < heads; ++h) contiguous.push_back(h * groups / heads);
  starts.push_back(contiguous);
  if (heads % groups == 0) starts.push_back(detail::map_of(clustered_groups(distances, groups, seed)));
  std::vector<Index> best;
  double least = std::numeric_limits<double>::infinity();
  for (const auto& start : starts) {
    detail::Partition p(distances, start, groups);
    detail::descend(p, detail::largest_distance(distances), true);
    const double cost = p.cost();
    if (cost < least) least = cost, best = p.group_of();
  }
  return detail::grouping_of(best, groups);
}

/// How many KV heads each layer gets of `budget` in all, so that the sum of errors is least: `errors[l][n -
/// 1]` is what layer l loses with n of them, such as grouping_cost() of asymmetric_groups(). Every layer gets
/// one at least and none more than it has errors for; fewer than the budget are used where more would not
/// help. Exact, by dynamic programming over the layers. Throws std::invalid_argument for errors that are no
/// finite numbers and a budget below the number of layers.
inline std::vector<Index> allocate_kv_heads(const std::vector<std::vector<double>>& errors, Index budget) {
  const auto layers = static_cast<Index>(errors.size());
  GQA_CHECK(layers > 0, std::invalid_argument, "errors: layers is 0, expected at least 1");
  GQA_CHECK(
      budget >= layers, std::invalid_argument,
      "budget is " << budget << " KV heads, expected at least 1 for each of the " << layers << " layers");
  Index most = 0;
  for (const auto& layer : errors) {
    GQA_CHECK(!layer.empty(), std::invalid_argument,
              "errors: a layer has none, expected that of 1 KV head and so on");
    detail::check_finite(layer, "errors");
    most = checked_add(most, static_cast<Index>(layer.size()), "errors");
  }
  budget = std::min(budget, most);
  const double infinity = std::numeric_limits<double>::infinity();
  // least(l, b): the error of the first l layers with b KV heads, of which layer l - 1 has taken(l, b).
  Matrix least(layers + 1, budget + 1), taken(layers + 1, budget + 1);
  for (double& x : least.values()) x = infinity;
  least(0, 0) = 0;
  for (Index l = 1; l <= layers; ++l) {
    const auto& layer = errors[static_cast<std::size_t>(l - 1)];
    for (Index b = l; b <= budget; ++b)
      for (Index n = 1; n <= std::min<Index>(b, static_cast<Index>(layer.size())); ++n) {
        const double error = least(l - 1, b - n) + layer[static_cast<std::size_t>(n - 1)];
        if (error < least(l, b)) least(l, b) = error, taken(l, b) = static_cast<double>(n);
      }
  }
  Index used = layers;
  for (Index b = layers; b <= budget; ++b)
    if (least(layers, b) < least(layers, used)) used = b;
  std::vector<Index> heads(static_cast<std::size_t>(layers));
  for (Index l = layers; l > 0; --l) {
    const auto n = static_cast<Index>(taken(l, used));
    heads[static_cast<std::size_t>(l - 1)] = n;
    used -= n;
  }
  return heads;
}

}  // namespace gqa::convert
