// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "gqa/convert/partition.hpp"
#include "gqa/core/random.hpp"

namespace gqa::convert {

/// Groups of equal size by chance. Throws std::invalid_argument unless `heads` is a multiple of `groups`.
inline HeadGrouping random_groups(Index heads, Index groups, std::uint64_t seed) {
  detail::check_equal_groups(heads, groups);
  std::vector<Index> map(static_cast<std::size_t>(heads));
  for (std::size_t h = 0; h < map.size(); ++h) map[h] = static_cast<Index>(h) % groups;
  gqa::detail::Random(seed).shuffle(map);
  return HeadGrouping(std::move(map), groups);
}

/// The most heads that exhaustive_groups() takes: 12 heads have at most 15,400 partitions into equal groups.
inline constexpr Index max_exhaustive_heads = 12;

namespace detail {

inline double largest_distance(const Matrix& d) {
  return *std::max_element(d.values().begin(), d.values().end());
}

/// Every partition into groups of at most `most` heads, each once: a head joins a group there is or opens the
/// next. What costs more than the best so far is given up: costs only grow, for distances are not negative
/// and a group's cost is its pairs over the size it ends with.
class ExhaustiveSearch {
 public:
  ExhaustiveSearch(const Matrix& distances, Index groups, Index smallest, Index largest)
      : d_(distances),
        groups_(groups),
        smallest_(smallest),
        largest_(largest),
        now_(static_cast<std::size_t>(d_.rows())),
        sizes_(static_cast<std::size_t>(groups)),
        pairs_(static_cast<std::size_t>(groups)) {
    place(0, 0);
  }
  const std::vector<Index>& best() const { return best_; }

 private:
  void place(Index h, Index opened) {
    if (h == d_.rows()) {
      double cost = 0;
      for (std::size_t g = 0; g < sizes_.size(); ++g) {
        if (sizes_[g] < smallest_) return;
        cost += pairs_[g] / static_cast<double>(sizes_[g]);
      }
      if (cost < least_) least_ = cost, best_ = now_;
      return;
    }
    if (groups_ - opened > d_.rows() - h) return;  // too few heads left to open the others
    for (Index g = 0; g < std::min(opened + 1, groups_); ++g) {
      const auto at = static_cast<std::size_t>(g);
      if (sizes_[at] == largest_) continue;
      double added = 0;
      for (Index k = 0; k < h; ++k)
        if (now_[static_cast<std::size_t>(k)] == g) added += d_(h, k);
      now_[static_cast<std::size_t>(h)] = g;
      ++sizes_[at];
      pairs_[at] += added;
      if (bound() < least_) place(h + 1, std::max(opened, g + 1));
      pairs_[at] -= added;
      --sizes_[at];
      now_[static_cast<std::size_t>(h)] = -1;
    }
  }
  double bound() const {
    double sum = 0;
    for (double pairs : pairs_) sum += pairs;
    return sum / static_cast<double>(largest_);
  }

  const Matrix& d_;
  Index groups_, smallest_, largest_;
  std::vector<Index> now_, sizes_;
  std::vector<double> pairs_;
  std::vector<Index> best_;
  double least_ = std::numeric_limits<double>::infinity();
};

/// Joins the two groups whose union costs least (Ward 1963) until `groups` are left.
inline std::vector<Index> agglomerate(const Matrix& d, Index groups) {
  const Index heads = d.rows();
  std::vector<Index> group_of(static_cast<std::size_t>(heads));
  std::iota(group_of.begin(), group_of.end(), Index{0});
  Matrix between = d;  // sums of distances of the members of two groups; twice those of pairs within one
  std::vector<double> size(static_cast<std::size_t>(heads), 1.0);
  std::vector<bool> gone(static_cast<std::size_t>(heads));
  const auto at = [](Index g) { return static_cast<std::size_t>(g); };
  for (Index left = heads; left > groups; --left) {
    Index a_best = -1, b_best = -1;
    double best = std::numeric_limits<double>::infinity();
    for (Index a = 0; a < heads; ++a)
      for (Index b = a + 1; b < heads; ++b) {
        if (gone[at(a)] || gone[at(b)]) continue;
        const double na = size[at(a)], nb = size[at(b)];
        const double within_a = between(a, a) / 2, within_b = between(b, b) / 2;
        const double rise = (within_a + within_b + between(a, b)) / (na + nb) - within_a / na - within_b / nb;
        if (rise < best) best = rise, a_best = a, b_best = b;
      }
    const double both = between(a_best, a_best) + between(b_best, b_best) + 2 * between(a_best, b_best);
    for (Index c = 0; c < heads; ++c) {
      between(a_best, c) += between(b_best, c);
      between(c, a_best) = between(a_best, c);
    }
    between(a_best, a_best) = both;
    size[at(a_best)] += size[at(b_best)];
    gone[at(b_best)] = true;
    for (Index& g : group_of)
      if (g == b_best) g = a_best;
  }
  std::vector<Index> number(static_cast<std::size_t>(heads), -1);
  Index next = 0;
  for (Index& g : group_of) {
    Index& n = number[at(g)];
    if (n < 0) n = next++;
    g = n;
  }
  return group_of;
}

/// Moves heads out of groups that are too large, the cheapest move first, until all have the same size.
inline void balance(Partition& p) {
  const Index size = p.heads() / p.groups();
  for (;;) {
    Index h_best = -1, g_best = -1;
    double best = std::numeric_limits<double>::infinity();
    for (Index h = 0; h < p.heads(); ++h)
      for (Index g = 0; g < p.groups(); ++g)
        if (p.size(p.group(h)) > size && p.size(g) < size)
          if (const double gain = p.move_gain(h, g); gain < best) best = gain, h_best = h, g_best = g;
    if (h_best < 0) return;
    p.move(h_best, g_best);
  }
}

}  // namespace detail

/// The cheapest of all groupings into equal sizes. Throws std::invalid_argument for distances that are none,
/// more than max_exhaustive_heads, or heads that are no multiple of the groups.
inline HeadGrouping exhaustive_groups(const Matrix& distances, Index groups) {
  detail::check_distances(distances);
  const Index heads = distances.rows();
  detail::check_equal_groups(heads, groups);
  GQA_CHECK(
      heads <= max_exhaustive_heads, std::invalid_argument,
      "heads is " << heads << ", expected at most " << max_exhaustive_heads << " to try every grouping");
  const Index size = heads / groups;
  return detail::grouping_of(detail::ExhaustiveSearch(distances, groups, size, size).best(), groups);
}

/// Balanced k-means: from each of `starts` random groupings, the swap of two heads that gains most until none
/// gains; the cheapest of them. Of squared distances this is k-means in which clusters keep their size: the
/// cost is that of the clusters' means, which need not be known. Throws as exhaustive_groups(), but for the
/// number of heads.
inline HeadGrouping balanced_kmeans_groups(const Matrix& distances, Index groups, std::uint64_t seed = 0,
                                           Index starts = 64) {
  detail::check_distances(distances);
  const Index heads = distances.rows();
  detail::check_equal_groups(heads, groups);
  GQA_CHECK(starts >= 1, std::invalid_argument, "starts is " << starts << ", expected at least 1");
  gqa::detail::Random random(seed);
  std::vector<Index> map(static_cast<std::size_t>(heads)), best;
  for (std::size_t h = 0; h < map.size(); ++h) map[h] = static_cast<Index>(h) / (heads / groups);
  double least = std::numeric_limits<double>::infinity();
  for (Index start = 0; start < starts; ++start) {
    random.shuffle(map);
    detail::Partition p(distances, map, groups);
    detail::descend(p, detail::largest_distance(distances), false);
    const double cost = p.cost();
    if (cost < least) least = cost, best = p.group_of();
  }
  return detail::grouping_of(best, groups);
}

/// Agglomerative: the two groups whose union costs least are joined (Ward), over and over; then heads move to
/// where sizes are equal, and swap while that gains. Throws as balanced_kmeans_groups() does.
inline HeadGrouping agglomerative_groups(const Matrix& distances, Index groups) {
  detail::check_distances(distances);
  detail::check_equal_groups(distances.rows(), groups);
  detail::Partition p(distances, detail::agglomerate(distances, groups), groups);
  detail::balance(p);
  detail::descend(p, detail::largest_distance(distances), false);
  return detail::grouping_of(p.group_of(), groups);
}

/// Groups of equal size of heads that are alike: the best there is for up to max_exhaustive_heads, else the
/// cheapest that balanced_kmeans_groups() and agglomerative_groups() find. Never costs more than contiguous
/// or strided groups. Throws as balanced_kmeans_groups() does.
///
/// There is no evolutionary search as in QCQA: of 60 groupings over 40,000 generations it took 40 to 80 times
/// as long, found nothing cheaper for 12, 32 in 4 and 64 heads, and for 32 in 8 groups was dearer in 14 of 20
/// cases and cheaper, by under 1 %, in 5.
inline HeadGrouping clustered_groups(const Matrix& distances, Index groups, std::uint64_t seed = 0) {
  detail::check_distances(distances);
  const Index heads = distances.rows();
  detail::check_equal_groups(heads, groups);
  if (heads <= max_exhaustive_heads) return exhaustive_groups(distances, groups);
  HeadGrouping best = HeadGrouping::contiguous(heads, groups);
  double least = grouping_cost(distances, best);
  for (HeadGrouping candidate :
       {HeadGrouping::strided(heads, groups), agglomerative_groups(distances, groups),
        balanced_kmeans_groups(distances, groups, seed)}) {
    const double cost = grouping_cost(distances, candidate);
    if (cost < least) least = cost, best = std::move(candidate);
  }
  return best;
}

}  // namespace gqa::convert
