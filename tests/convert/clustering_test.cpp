// SPDX-License-Identifier: Apache-2.0
#include "gqa/convert/clustering.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "gqa/convert/asymmetric.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace gqa::test {
namespace {

using convert::Matrix;

/// Squared distances of points in the plane.
Matrix distances_of(const std::vector<std::pair<double, double>>& points) {
  const auto n = static_cast<Index>(points.size());
  Matrix d(n, n);
  for (Index h = 0; h < n; ++h)
    for (Index k = 0; k < n; ++k) {
      const auto& [x, y] = points[static_cast<std::size_t>(h)];
      const auto& [u, v] = points[static_cast<std::size_t>(k)];
      d(h, k) = (x - u) * (x - u) + (y - v) * (y - v);
    }
  return d;
}

Matrix random_distances(Index heads, std::uint64_t seed) {
  Random random(seed);
  std::vector<std::pair<double, double>> points;
  for (Index h = 0; h < heads; ++h) points.emplace_back(random.normal(), random.normal());
  return distances_of(points);
}

/// Clusters of these sizes, far apart, their heads in any order; `group_of` tells the cluster of each.
Matrix planted(const std::vector<Index>& sizes, std::uint64_t seed, std::vector<Index>& group_of) {
  Random random(seed);
  group_of.clear();
  for (std::size_t g = 0; g < sizes.size(); ++g)
    group_of.insert(group_of.end(), static_cast<std::size_t>(sizes[g]), static_cast<Index>(g));
  for (std::size_t i = group_of.size(); i > 1; --i)
    std::swap(group_of[i - 1],
              group_of[static_cast<std::size_t>(random.integer(0, static_cast<Index>(i) - 1))]);
  std::vector<std::pair<double, double>> points;
  for (const Index g : group_of)
    points.emplace_back(10 * static_cast<double>(g) + random.uniform(), random.uniform());
  return distances_of(points);
}

/// The groups as sets, so that their numbers do not matter.
std::set<std::set<Index>> sets_of(const HeadGrouping& grouping) {
  std::vector<std::set<Index>> sets(static_cast<std::size_t>(grouping.num_kv_heads()));
  for (Index h = 0; h < grouping.num_q_heads(); ++h)
    sets[static_cast<std::size_t>(grouping.kv_head(h))].insert(h);
  return {sets.begin(), sets.end()};
}

std::vector<Index> sizes_of(const HeadGrouping& grouping) {
  std::vector<Index> sizes;
  for (Index g = 0; g < grouping.num_kv_heads(); ++g) sizes.push_back(grouping.table().size(g));
  return sizes;
}

struct Clustering {
  const char* name;
  std::function<HeadGrouping(const Matrix&, Index)> cluster;
};
const Clustering clusterings[] = {
    {"k-means", [](const Matrix& d, Index g) { return convert::balanced_kmeans_groups(d, g); }},
    {"agglomerative", [](const Matrix& d, Index g) { return convert::agglomerative_groups(d, g); }},
    {"clustered", [](const Matrix& d, Index g) { return convert::clustered_groups(d, g); }},
    {"exhaustive",
     [](const Matrix& d, Index g) {
       return d.rows() <= 12 ? convert::exhaustive_groups(d, g) : convert::clustered_groups(d, g);
     }},
};

TEST(Clustering, FindsPlantedClusters) {
  std::vector<Index> group_of;
  for (const auto& [heads, groups] :
       {std::pair<Index, Index>{8, 2}, {9, 3}, {12, 4}, {12, 2}, {32, 8}, {40, 5}})
    for (const std::uint64_t seed : seeds(5)) {
      const Matrix d =
          planted(std::vector<Index>(static_cast<std::size_t>(groups), heads / groups), seed, group_of);
      const auto expected = sets_of(HeadGrouping(group_of, groups));
      for (const auto& [name, cluster] : clusterings)
        EXPECT_EQ(sets_of(cluster(d, groups)), expected) << name << ", " << heads << " heads, seed " << seed;
      EXPECT_EQ(sets_of(convert::asymmetric_groups(d, groups)), expected);
    }
}

TEST(Clustering, FindsPlantedClustersOfAnySizes) {
  std::vector<Index> group_of;
  for (const std::uint64_t seed : seeds(5)) {
    const Matrix d = planted({1, 5, 2, 9, 3}, seed, group_of);
    EXPECT_EQ(sets_of(convert::asymmetric_groups(d, 5)), sets_of(HeadGrouping(group_of, 5)));
  }
}

// Groups of equal size, numbered by their first heads, and at the end of every search no swap gains.
TEST(Clustering, MakesEqualGroupsThatNoSwapImproves) {
  for (const std::uint64_t seed : seeds(5))
    for (const auto& [heads, groups] : {std::pair<Index, Index>{12, 3}, {15, 5}, {32, 4}}) {
      const Matrix d = random_distances(heads, seed);
      for (const auto& [name, cluster] : clusterings) {
        const HeadGrouping g = cluster(d, groups);
        EXPECT_EQ(sizes_of(g), std::vector<Index>(static_cast<std::size_t>(groups), heads / groups)) << name;
        EXPECT_EQ(g.kv_head(0), 0);
        std::vector<Index> map;
        for (Index h = 0; h < heads; ++h) map.push_back(g.kv_head(h));
        const double cost = convert::grouping_cost(d, g);
        for (Index h = 0; h < heads; ++h)
          for (Index k = 0; k < h; ++k) {
            std::swap(map[static_cast<std::size_t>(h)], map[static_cast<std::size_t>(k)]);
            EXPECT_GE(convert::grouping_cost(d, HeadGrouping(map, groups)), cost - 1e-9) << name;
            std::swap(map[static_cast<std::size_t>(h)], map[static_cast<std::size_t>(k)]);
          }
      }
    }
}

TEST(Clustering, MakesFreeGroupsThatNoMoveImproves) {
  for (const std::uint64_t seed : seeds(30)) {
    const Index heads = 18, groups = 6;
    const Matrix d = random_distances(heads, seed);
    // From groups by chance: those that asymmetric_groups() begins with leave little to do.
    convert::detail::Partition p(d, convert::detail::map_of(convert::random_groups(heads, groups, seed)),
                                 groups);
    convert::detail::descend(p, convert::detail::largest_distance(d), true);
    const double cost = convert::grouping_cost(d, HeadGrouping(p.group_of(), groups));
    EXPECT_NEAR(p.cost(), cost, 1e-12);
    for (Index h = 0; h < heads; ++h)
      for (Index to = 0; to < groups; ++to) {
        auto map = p.group_of();
        map[static_cast<std::size_t>(h)] = to;
        EXPECT_GE(convert::grouping_cost(d, HeadGrouping(map, groups)), cost - 1e-9);
      }
  }
}

// What it begins with is mostly better by moves, and here always.
TEST(Clustering, AsymmetricGroupsLeaveNoMoveThatImproves) {
  for (const std::uint64_t seed : seeds(10)) {
    const Index heads = 18, groups = 6;
    const Matrix d = random_distances(heads, seed);
    const auto found = convert::detail::map_of(convert::asymmetric_groups(d, groups));
    const double cost = convert::grouping_cost(d, HeadGrouping(found, groups));
    for (std::size_t h = 0; h < found.size(); ++h)
      for (Index to = 0; to < groups; ++to) {
        auto map = found;
        map[h] = to;
        EXPECT_GE(convert::grouping_cost(d, HeadGrouping(map, groups)), cost - 1e-9) << seed;
      }
  }
}

// Of many groups, k-means from 64 beginnings is not always the cheapest.
TEST(Clustering, TakesTheCheapestOfItsCandidates) {
  const Matrix d = random_distances(48, 8);
  const double agglomerative = convert::grouping_cost(d, convert::agglomerative_groups(d, 16));
  EXPECT_LT(agglomerative, 0.999 * convert::grouping_cost(d, convert::balanced_kmeans_groups(d, 16)));
  EXPECT_EQ(convert::grouping_cost(d, convert::clustered_groups(d, 16)), agglomerative);
}

TEST(Clustering, MoreStartsCostNoMore) {
  for (const std::uint64_t seed : seeds(10)) {
    const Matrix d = random_distances(24, seed);
    double before = INFINITY;
    for (const Index starts : {1, 4, 16}) {
      const double cost = convert::grouping_cost(d, convert::balanced_kmeans_groups(d, 6, seed, starts));
      EXPECT_LE(cost, before);
      before = cost;
    }
  }
}

// Ward by definition: of all pairs of groups, those whose union costs least in all are joined.
TEST(Clustering, AgglomerationIsWards) {
  for (const std::uint64_t seed : seeds(5)) {
    const Matrix d = random_distances(9, seed);
    std::vector<Index> map(9);
    std::iota(map.begin(), map.end(), Index{0});
    for (Index left = 9; left > 3; --left) {
      double least = INFINITY;
      std::vector<Index> best;
      for (Index a = 0; a < 9; ++a)
        for (Index b = 0; b < a; ++b) {
          if (std::count(map.begin(), map.end(), a) == 0 || std::count(map.begin(), map.end(), b) == 0)
            continue;
          auto joined = map;
          std::replace(joined.begin(), joined.end(), a, b);
          const double cost = convert::grouping_cost(d, HeadGrouping(joined, 9));
          if (cost < least) least = cost, best = joined;
        }
      map = best;
      const auto groups = convert::detail::agglomerate(d, left - 1);
      EXPECT_NEAR(convert::grouping_cost(d, HeadGrouping(groups, left - 1)), least, 1e-12);
    }
  }
}

TEST(Clustering, CostsNoMoreThanContiguousOrStrided) {
  for (const std::uint64_t seed : seeds(20))
    for (const auto& [heads, groups] : {std::pair<Index, Index>{6, 3}, {16, 4}, {32, 8}}) {
      const Matrix d = random_distances(heads, seed);
      const double clustered = convert::grouping_cost(d, convert::clustered_groups(d, groups));
      EXPECT_LE(clustered, convert::grouping_cost(d, HeadGrouping::contiguous(heads, groups)));
      EXPECT_LE(clustered, convert::grouping_cost(d, HeadGrouping::strided(heads, groups)));
      EXPECT_LE(clustered, convert::grouping_cost(d, convert::agglomerative_groups(d, groups)));
      EXPECT_LE(clustered,
                convert::grouping_cost(d, convert::balanced_kmeans_groups(d, groups, 0, 1)) + 1e-12);
      const double free = convert::grouping_cost(d, convert::asymmetric_groups(d, groups));
      EXPECT_LE(free, clustered + 1e-12);
    }
}

/// The least cost of all partitions into `groups`, of sizes `size` where it is not 0, tried one by one.
double least_cost(const Matrix& d, Index groups, Index size) {
  const Index heads = d.rows();
  double least = INFINITY;
  std::vector<Index> map(static_cast<std::size_t>(heads));
  for (;;) {
    const HeadGrouping g(map, groups);
    const auto sizes = sizes_of(g);
    if (std::all_of(sizes.begin(), sizes.end(), [&](Index n) { return size == 0 ? n > 0 : n == size; }))
      least = std::min(least, convert::grouping_cost(d, g));
    std::size_t h = 0;
    while (h < map.size() && ++map[h] == groups) map[h++] = 0;
    if (h == map.size()) return least;
  }
}

TEST(Clustering, ExhaustiveIsTheBestThereIs) {
  for (const std::uint64_t seed : seeds(3))
    for (const auto& [heads, groups] : {std::pair<Index, Index>{6, 2}, {6, 3}, {8, 2}, {5, 1}, {4, 4}}) {
      const Matrix d = random_distances(heads, seed);
      EXPECT_NEAR(convert::grouping_cost(d, convert::exhaustive_groups(d, groups)),
                  least_cost(d, groups, heads / groups), 1e-12);
    }
}

// With free sizes a search is no proof; on small cases it finds the least all the same.
TEST(Clustering, AsymmetricIsMostlyTheBestThereIs) {
  int best = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const Matrix d = random_distances(7, seed);
    const double cost = convert::grouping_cost(d, convert::asymmetric_groups(d, 3));
    const double least = least_cost(d, 3, 0);
    EXPECT_GE(cost, least - 1e-12);
    if (cost <= least + 1e-12) ++best;
  }
  EXPECT_GE(best, 16);
}

TEST(Clustering, HeadsThatAreAllAlikeGiveGroupsToo) {
  const Matrix d(16, 16);
  for (const auto& [name, cluster] : clusterings)
    EXPECT_EQ(sizes_of(cluster(d, 4)), std::vector<Index>(4, 4)) << name;
  EXPECT_EQ(convert::asymmetric_groups(d, 5).num_kv_heads(), 5);
  for (const Index size : sizes_of(convert::asymmetric_groups(d, 5))) EXPECT_GE(size, 1);
}

TEST(RandomGroups, AreEqualAndDependOnTheSeedAlone) {
  const auto a = convert::random_groups(12, 4, 1), b = convert::random_groups(12, 4, 1);
  EXPECT_EQ(sizes_of(a), std::vector<Index>(4, 3));
  for (Index h = 0; h < 12; ++h) EXPECT_EQ(a.kv_head(h), b.kv_head(h));
  std::set<std::set<std::set<Index>>> different;
  for (std::uint64_t seed = 0; seed < 10; ++seed)
    different.insert(sets_of(convert::random_groups(12, 4, seed)));
  EXPECT_GE(different.size(), 9u);
}

TEST(Clustering, SaysWhatDoesNotFit) {
  const Matrix d = random_distances(13, 1);
  EXPECT_EQ(message_of([&] { convert::exhaustive_groups(d, 1); }),
            "heads is 13, expected at most 12 to try every grouping");
  for (const auto& clustering : clusterings) {
    const auto& name = clustering.name;
    const auto& cluster = clustering.cluster;  // a lambda takes no structured binding along
    EXPECT_EQ(message_of([&] { cluster(d, 4); }),
              "heads is 13, expected a multiple of the 4 groups; asymmetric_groups makes groups of different "
              "sizes")
        << name;
    EXPECT_EQ(message_of([&] { cluster(d, 0); }), "groups is 0, expected 1 to the 13 heads") << name;
    EXPECT_EQ(message_of([&] { cluster(Matrix(2, 3), 1); }),
              "distances: size is 2 x 3, expected heads x heads");
  }
  EXPECT_EQ(message_of([&] { convert::asymmetric_groups(d, 14); }),
            "groups is 14, expected 1 to the 13 heads");
  EXPECT_EQ(message_of([&] { convert::random_groups(13, 4, 1); }),
            message_of([&] { convert::clustered_groups(d, 4); }));
  EXPECT_EQ(message_of([&] { convert::balanced_kmeans_groups(d, 1, 0, 0); }),
            "starts is 0, expected at least 1");
  EXPECT_EQ(message_of([&] { convert::grouping_cost(d, HeadGrouping::contiguous(12, 3)); }),
            "grouping: heads is 12, expected the 13 heads of the distances");
  Matrix wrong = d;
  wrong(1, 2) = wrong(2, 1) = -1;
  EXPECT_EQ(message_of([&] { convert::clustered_groups(wrong, 1); }),
            "distances: element (1, 2) is -1, expected at least 0, 0 on the diagonal and the same as (2, 1)");
  wrong(1, 2) = 4;
  wrong(2, 1) = 3;
  EXPECT_EQ(message_of([&] { convert::clustered_groups(wrong, 1); }),
            "distances: element (1, 2) is 4, expected at least 0, 0 on the diagonal and the same as (2, 1)");
  wrong = d;
  wrong(3, 3) = 1;
  EXPECT_EQ(message_of([&] { convert::asymmetric_groups(wrong, 1); }),
            "distances: element (3, 3) is 1, expected at least 0, 0 on the diagonal and the same as (3, 3)");
  Matrix nan = d;
  nan(0, 1) = NAN;
  EXPECT_EQ(message_of([&] { convert::clustered_groups(nan, 1); }),
            "distances: element (0, 1) is nan, expected a finite number");
}

TEST(AllocateKvHeads, SpendsTheBudgetWhereItHelpsMost) {
  const std::vector<std::vector<double>> errors = {{10, 4, 3, 2}, {9, 8, 7, 0}, {5, 5, 5, 5}};
  EXPECT_EQ(convert::allocate_kv_heads(errors, 3), (std::vector<Index>{1, 1, 1}));
  EXPECT_EQ(convert::allocate_kv_heads(errors, 4), (std::vector<Index>{2, 1, 1}));
  EXPECT_EQ(convert::allocate_kv_heads(errors, 6), (std::vector<Index>{1, 4, 1}));
  EXPECT_EQ(convert::allocate_kv_heads(errors, 9), (std::vector<Index>{4, 4, 1}));
  EXPECT_EQ(convert::allocate_kv_heads(errors, 1000), (std::vector<Index>{4, 4, 1}));
}

TEST(AllocateKvHeads, SaysWhatBudgetsCannotBeMet) {
  EXPECT_EQ(message_of([] {
              convert::allocate_kv_heads({{1}, {2}, {3}}, 2);
            }),
            "budget is 2 KV heads, expected at least 1 for each of the 3 layers");
  EXPECT_EQ(message_of([] { convert::allocate_kv_heads({}, 2); }),
            "errors: layers is 0, expected at least 1");
  EXPECT_EQ(message_of([] {
              convert::allocate_kv_heads({{1}, {}}, 2);
            }),
            "errors: a layer has none, expected that of 1 KV head and so on");
  EXPECT_EQ(message_of([] {
              convert::allocate_kv_heads({{1, NAN}}, 2);
            }),
            "errors: element 1 is nan, expected a finite number");
}

}  // namespace
}  // namespace gqa::test
