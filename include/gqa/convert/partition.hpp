// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <vector>

#include "gqa/convert/matrix.hpp"
#include "gqa/core/head_grouping.hpp"

namespace gqa::convert {

namespace detail {

/// Throws std::invalid_argument unless these are distances of pairs: square, finite, symmetric, 0 to itself
/// and none negative.
inline void check_distances(const Matrix& d) {
  GQA_CHECK(d.rows() > 0 && d.rows() == d.cols(), std::invalid_argument,
            "distances: size is " << d.rows() << " x " << d.cols() << ", expected heads x heads");
  check_finite(d, "distances");
  for (Index h = 0; h < d.rows(); ++h)
    for (Index k = 0; k < d.rows(); ++k)
      GQA_CHECK(d(h, k) >= 0 && d(h, k) == d(k, h) && (h != k || d(h, k) == 0), std::invalid_argument,
                "distances: element (" << h << ", " << k << ") is " << d(h, k)
                                       << ", expected at least 0, 0 on the diagonal and the same as (" << k
                                       << ", " << h << ")");
}

inline void check_groups(Index heads, Index groups) {
  GQA_CHECK(groups >= 1 && groups <= heads, std::invalid_argument,
            "groups is " << groups << ", expected 1 to the " << heads << " heads");
}
inline void check_equal_groups(Index heads, Index groups) {
  check_groups(heads, groups);
  GQA_CHECK(heads % groups == 0, std::invalid_argument,
            "heads is " << heads << ", expected a multiple of the " << groups
                        << " groups; asymmetric_groups makes groups of different sizes");
}

/// A partition as it is being searched for: the group of each head, what each group costs, and sums of
/// distances, so that a change is judged in O(1).
class Partition {
 public:
  Partition(const Matrix& distances, std::vector<Index> group_of, Index groups)
      : d_(&distances), group_of_(std::move(group_of)), members_(static_cast<std::size_t>(groups)) {
    sums_ = Matrix(heads(), groups);
    for (Index h = 0; h < heads(); ++h) {
      ++members_[static_cast<std::size_t>(group(h))];
      for (Index k = 0; k < heads(); ++k) sums_(k, group(h)) += distances(k, h);
    }
  }

  Index heads() const { return static_cast<Index>(group_of_.size()); }
  Index groups() const { return static_cast<Index>(members_.size()); }
  Index group(Index h) const { return group_of_[static_cast<std::size_t>(h)]; }
  Index size(Index g) const { return members_[static_cast<std::size_t>(g)]; }
  const std::vector<Index>& group_of() const { return group_of_; }

  /// The sum over groups of the distances of its pairs over its size: for squared distances, the sum of
  /// squared distances from the group's mean.
  double cost() const {
    double cost = 0;
    for (Index g = 0; g < groups(); ++g) cost += group_cost(pairs(g), size(g));
    return cost;
  }

  /// What the cost gains where head h moves to group g, which is not its own.
  double move_gain(Index h, Index g) const {
    const Index from = group(h);
    return group_cost(pairs(from) - sums_(h, from), size(from) - 1) +
           group_cost(pairs(g) + sums_(h, g), size(g) + 1) - group_cost(pairs(from), size(from)) -
           group_cost(pairs(g), size(g));
  }
  /// The same where h and k, of different groups, change places.
  double swap_gain(Index h, Index k) const {
    const Index a = group(h), b = group(k);
    const double between = (*d_)(h, k);
    return (sums_(k, a) - between - sums_(h, a)) / static_cast<double>(size(a)) +
           (sums_(h, b) - between - sums_(k, b)) / static_cast<double>(size(b));
  }

  void move(Index h, Index g) {
    const Index from = group(h);
    for (Index k = 0; k < heads(); ++k) {
      sums_(k, from) -= (*d_)(k, h);
      sums_(k, g) += (*d_)(k, h);
    }
    --members_[static_cast<std::size_t>(from)];
    ++members_[static_cast<std::size_t>(g)];
    group_of_[static_cast<std::size_t>(h)] = g;
  }

 private:
  static double group_cost(double pair_sum, Index size) {
    return size == 0 ? 0 : pair_sum / static_cast<double>(size);
  }
  double pairs(Index g) const {
    double sum = 0;
    for (Index h = 0; h < heads(); ++h)
      if (group(h) == g) sum += sums_(h, g);
    return sum / 2;
  }

  const Matrix* d_;
  std::vector<Index> group_of_, members_;
  Matrix sums_;  // of the distances from a head to the members of a group
};

/// Takes the change that gains most, over and over, until none gains: swaps, and moves where sizes are free.
/// The cost falls at each step by more than rounding, so it ends.
inline void descend(Partition& p, double scale, bool sizes_are_free) {
  const double least = 1e-12 * scale;
  for (;;) {
    double best = -least;
    Index h_best = -1, k_best = -1, g_best = -1;
    for (Index h = 0; h < p.heads(); ++h) {
      for (Index k = h + 1; k < p.heads(); ++k)
        if (p.group(h) != p.group(k))
          if (const double gain = p.swap_gain(h, k); gain < best)
            best = gain, h_best = h, k_best = k, g_best = -1;
      for (Index g = 0; sizes_are_free && g < p.groups(); ++g)
        if (g != p.group(h) && p.size(p.group(h)) > 1)
          if (const double gain = p.move_gain(h, g); gain < best)
            best = gain, h_best = h, k_best = -1, g_best = g;
    }
    if (h_best < 0) return;
    if (k_best < 0) {
      p.move(h_best, g_best);
    } else {
      const Index g = p.group(h_best);
      p.move(h_best, p.group(k_best));
      p.move(k_best, g);
    }
  }
}

/// Groups numbered by their first heads.
inline HeadGrouping grouping_of(const std::vector<Index>& group_of, Index groups) {
  std::vector<Index> number(static_cast<std::size_t>(groups), -1), map;
  Index next = 0;
  for (Index g : group_of) {
    Index& n = number[static_cast<std::size_t>(g)];
    if (n < 0) n = next++;
    map.push_back(n);
  }
  return HeadGrouping(std::move(map), groups);
}

inline std::vector<Index> map_of(const HeadGrouping& grouping) {
  std::vector<Index> map;
  for (Index h = 0; h < grouping.num_q_heads(); ++h) map.push_back(grouping.kv_head(h));
  return map;
}

}  // namespace detail

/// What a grouping costs in `distances`: the sum over groups of the distances of its pairs over its size. Of
/// HeadDistance::plain it is the error of merge_heads() by the mean; of HeadDistance::aligned a bound below
/// that by the aligned mean, exact for pairs. Throws std::invalid_argument for sizes that do not fit.
inline double grouping_cost(const Matrix& distances, const HeadGrouping& grouping) {
  detail::check_distances(distances);
  GQA_CHECK(grouping.num_q_heads() == distances.rows(), std::invalid_argument,
            "grouping: heads is " << grouping.num_q_heads() << ", expected the " << distances.rows()
                                  << " heads of the distances");
  return detail::Partition(distances, detail::map_of(grouping), grouping.num_kv_heads()).cost();
}

}  // namespace gqa::convert
