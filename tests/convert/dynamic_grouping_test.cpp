// SPDX-License-Identifier: Apache-2.0
#include "gqa/convert/dynamic_grouping.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "support/message_of.hpp"
#include "support/random.hpp"

namespace gqa::test {
namespace {

using convert::DynamicGrouping;
using convert::query_head_counts;
using Counts = std::vector<Index>;

Index sum(const Counts& counts) { return std::accumulate(counts.begin(), counts.end(), Index{0}); }

TEST(QueryHeadCounts, FollowTheRatioOfNorms) {
  EXPECT_EQ(query_head_counts({1, 2, 3, 2}, 16), (Counts{2, 4, 6, 4}));
  EXPECT_EQ(query_head_counts({1, 1e9}, 10), (Counts{1, 9}));
  EXPECT_EQ(query_head_counts({3, 1}, 2), (Counts{1, 1}));
  EXPECT_EQ(query_head_counts({7}, 5), (Counts{5}));
  // Shares 3.5, 1.4 and 2.1 of 7, rounded to the nearest.
  EXPECT_EQ(query_head_counts({5, 2, 3}, 7), (Counts{4, 1, 2}));
}

TEST(QueryHeadCounts, OfEqualNormsAreUniform) {
  for (const double norm : {1.0, 0.0, 1e-300, 1e300, 0.1})
    for (const auto& [heads, groups] : {std::pair<Index, std::size_t>{8, 2}, {32, 8}, {9, 3}, {71, 71}})
      EXPECT_EQ(query_head_counts(std::vector<double>(groups, norm), heads),
                Counts(groups, heads / static_cast<Index>(groups)));
}

TEST(QueryHeadCounts, AreAtLeastOneAndSumUp) {
  for (const std::uint64_t seed : seeds(200)) {
    Random random(seed);
    std::vector<double> norms;
    const Index groups = random.integer(1, 9), heads = groups + random.integer(0, 40);
    for (Index g = 0; g < groups; ++g) norms.push_back(std::exp(4 * random.normal()));
    const Counts counts = query_head_counts(norms, heads);
    EXPECT_EQ(sum(counts), heads);
    EXPECT_GE(*std::min_element(counts.begin(), counts.end()), 1);
    // More for the longer one, never less.
    for (std::size_t a = 0; a < norms.size(); ++a)
      for (std::size_t b = 0; b < norms.size(); ++b)
        if (norms[a] > norms[b]) {
          EXPECT_GE(counts[a], counts[b]);
        }
    // Permuted norms, permuted counts.
    std::vector<std::size_t> order(norms.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (std::size_t i = order.size(); i > 1; --i)
      std::swap(order[i - 1], order[static_cast<std::size_t>(random.integer(0, static_cast<Index>(i) - 1))]);
    std::vector<double> permuted;
    Counts expected;
    for (const std::size_t i : order) permuted.push_back(norms[i]), expected.push_back(counts[i]);
    EXPECT_EQ(query_head_counts(permuted, heads), expected);
  }
}

TEST(KeyNorms, AreFrobeniusNormsOfHeads) {
  // batch 2 x tokens 2 x heads 2 x dim 1
  const float k[] = {3, 1, 4, 2, 6, 0, 8, 0};
  EXPECT_EQ(convert::key_norms(TensorView<const float>(k, 2, 2, 2, 1)),
            (std::vector<double>{5 + 10, std::sqrt(5.0)}));
  const auto heads = convert::key_driven_grouping(TensorView<const float>(k, 2, 2, 2, 1), 8);
  Counts counts;
  for (Index g = 0; g < 2; ++g) counts.push_back(heads.table().size(g));
  EXPECT_EQ(counts, (Counts{7, 1}));
  for (Index h = 0; h < 8; ++h) EXPECT_EQ(heads.kv_head(h), h / 7);
}

TEST(DynamicGrouping, FollowsTheAverageOnceInAnInterval) {
  DynamicGrouping dynamic(8, 2, 0.5, 2);
  EXPECT_EQ(dynamic.heads().table().size(0), 4);
  EXPECT_FALSE(dynamic.update({3, 1}));
  EXPECT_EQ(dynamic.heads().table().size(0), 4);
  EXPECT_TRUE(dynamic.update({3, 1}));
  EXPECT_EQ(dynamic.heads().table().size(0), 6);
  EXPECT_FALSE(dynamic.update({0, 8}));
  EXPECT_EQ(dynamic.average(), (std::vector<double>{1.5, 4.5}));
  EXPECT_TRUE(dynamic.update({0.5, 1.5}));
  EXPECT_EQ(dynamic.average(), (std::vector<double>{1, 3}));
  EXPECT_EQ(dynamic.heads().table().size(0), 2);
}

// One that forgets at once and follows each step is the key-driven grouping.
TEST(DynamicGrouping, ThatForgetsAtOnceIsKeyDriven) {
  Random random(3);
  DynamicGrouping dynamic(12, 3, 0);
  for (int step = 0; step < 5; ++step) {
    const std::vector<double> norms{random.uniform(), random.uniform(), random.uniform()};
    ASSERT_TRUE(dynamic.update(norms));
    for (Index g = 0; g < 3; ++g)
      EXPECT_EQ(dynamic.heads().table().size(g), query_head_counts(norms, 12)[static_cast<std::size_t>(g)]);
  }
}

TEST(DynamicGrouping, SaysWhatDoesNotFit) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(message_of([] { query_head_counts({}, 3); }), "norms: KV heads is 0, expected at least 1");
  EXPECT_EQ(message_of([] {
              query_head_counts({1, 2}, 1);
            }),
            "num_q_heads is 1, expected at least the 2 KV heads");
  EXPECT_EQ(message_of([&] {
              query_head_counts({1, nan}, 4);
            }),
            "norms: that of KV head 1 is nan, expected a finite number of at least 0");
  EXPECT_EQ(message_of([] { query_head_counts({-1}, 4); }),
            "norms: that of KV head 0 is -1, expected a finite number of at least 0");
  EXPECT_EQ(message_of([] {
              convert::grouping_of_counts({2, -1});
            }),
            "counts: that of KV head 1 is -1, expected at least 0");
  EXPECT_EQ(message_of([] {
              convert::grouping_of_counts({0, 0});
            }),
            "HeadGrouping: no query heads, expected at least 1");
  EXPECT_EQ(message_of([] { DynamicGrouping(7, 2); }),
            "q: heads is 7, expected a multiple of the 2 heads of k");
  EXPECT_EQ(message_of([] { DynamicGrouping(8, 2, 1); }), "keep is 1, expected at least 0 and less than 1");
  EXPECT_EQ(message_of([] { DynamicGrouping(8, 2, 0.5, 0); }), "interval is 0, expected at least 1");
  DynamicGrouping dynamic(8, 2, 0.5);
  dynamic.update({1, 2});
  EXPECT_EQ(message_of([&] { dynamic.update({1, 2, 3}); }), "norms: KV heads is 3, expected 2");
  EXPECT_EQ(message_of([&] {
              dynamic.update({1, INFINITY});
            }),
            "norms: that of KV head 1 is inf, expected a finite number of at least 0");
  EXPECT_EQ(dynamic.average(), (std::vector<double>{1, 2}));
}

}  // namespace
}  // namespace gqa::test
