// SPDX-License-Identifier: Apache-2.0
#include "gqa/core/head_grouping.hpp"

#include <gtest/gtest.h>

#include <string>

namespace gqa {
namespace {

using Groups = std::vector<std::vector<Index>>;

/// The query heads of each KV head, as the kernel reads them.
Groups groups_of(const detail::HeadTable& table) {
  Groups groups;
  for (Index g = 0; g < table.num_kv_heads; ++g) {
    groups.emplace_back();
    for (Index i = 0; i < table.size(g); ++i) groups.back().push_back(table.q_head(g, i));
  }
  return groups;
}

template <class F>
std::string refused(F&& f) {
  try {
    f();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing thrown";
}

TEST(HeadGrouping, AnyMap) {
  const HeadGrouping grouping({2, 0, 2, 2, 0}, 4);
  EXPECT_EQ(grouping.num_q_heads(), 5);
  EXPECT_EQ(grouping.num_kv_heads(), 4);
  EXPECT_EQ(grouping.kv_head(0), 2);
  EXPECT_EQ(grouping.kv_head(4), 0);
  const auto table = grouping.table();
  EXPECT_EQ(groups_of(table), (Groups{{1, 4}, {}, {0, 2, 3}, {}}));
  EXPECT_EQ(table.num_q_heads, 5);
  EXPECT_EQ(table.group_size, 3) << "of the largest group";
}

TEST(HeadGrouping, Contiguous) {
  const auto grouping = HeadGrouping::contiguous(6, 2);
  EXPECT_EQ(groups_of(grouping.table()), (Groups{{0, 1, 2}, {3, 4, 5}}));
  EXPECT_EQ(grouping.table().group_size, 3);
  const detail::HeadTable plain{6, 2, 3};
  EXPECT_EQ(groups_of(plain), groups_of(grouping.table())) << "what attention() does by itself";
}

TEST(HeadGrouping, Strided) {
  EXPECT_EQ(groups_of(HeadGrouping::strided(6, 2).table()), (Groups{{0, 2, 4}, {1, 3, 5}}));
  EXPECT_EQ(groups_of(HeadGrouping::strided(3, 3).table()), (Groups{{0}, {1}, {2}}));
}

TEST(HeadGrouping, ACopyOutlivesTheOriginal) {
  auto original = std::make_unique<HeadGrouping>(std::vector<Index>{1, 0, 1}, 2);
  const HeadGrouping copy = *original;
  original.reset();
  EXPECT_EQ(groups_of(copy.table()), (Groups{{1}, {0, 2}}));
}

TEST(HeadGrouping, MapsThatAreWrong) {
  EXPECT_EQ(refused([] {
              HeadGrouping({0, 2, 1}, 2);
            }),
            "HeadGrouping: query head 1 reads KV head 2, expected less than 2");
  EXPECT_NE(refused([] {
              HeadGrouping({0, 1, -1}, 2);
            }).find("query head 2 reads KV head -1"),
            std::string::npos);
  EXPECT_EQ(refused([] { HeadGrouping({}, 2); }), "HeadGrouping: no query heads, expected at least 1");
  EXPECT_EQ(refused([] { HeadGrouping({0}, 0); }), "HeadGrouping: num_kv_heads is 0, expected at least 1");
  EXPECT_EQ(refused([] { HeadGrouping::contiguous(5, 2); }),
            "q: heads is 5, expected a multiple of the 2 heads of k");
  EXPECT_EQ(refused([] { HeadGrouping::strided(5, 2); }),
            "q: heads is 5, expected a multiple of the 2 heads of k");
  EXPECT_NE(refused([] { HeadGrouping::strided(4, 0); }), "nothing thrown");
}

}  // namespace
}  // namespace gqa
