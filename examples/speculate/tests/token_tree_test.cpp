// SPDX-License-Identifier: Apache-2.0
#include "token_tree.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace speculate {
namespace {

using Ids = std::vector<TokenId>;

std::vector<Index> parents(const TokenTree& tree) { return {tree.parents().begin(), tree.parents().end()}; }
Ids tokens(const TokenTree& tree) { return {tree.tokens().begin(), tree.tokens().end()}; }

TEST(TokenTree, MergesBranchesWhereTheyBeginAlike) {
  TokenTree tree(9);
  EXPECT_EQ(tree.trunk_size(), 1);
  EXPECT_EQ(tree.add(Ids{1, 2, 3}), 3);
  EXPECT_EQ(tree.add(Ids{1, 2, 4, 5}), 2);
  EXPECT_EQ(tree.add(Ids{2, 2}), 2);
  EXPECT_EQ(tree.add(Ids{1, 2}), 0);
  EXPECT_EQ(tree.add(Ids{}), 0);
  EXPECT_EQ(tokens(tree), (Ids{9, 1, 2, 3, 4, 5, 2, 2}));
  EXPECT_EQ(parents(tree), (std::vector<Index>{-1, 0, 1, 2, 2, 4, 0, 6}));
  EXPECT_EQ(tree.trunk_size(), 4);
  EXPECT_EQ(tree.child(0, 2), 6);
  EXPECT_EQ(tree.child(2, 4), 4);
  EXPECT_EQ(tree.child(2, 5), -1);
  EXPECT_EQ(tree.child(7, 2), -1);
}

TEST(TokenTree, AddsAsManyAsAsked) {
  TokenTree tree(9);
  EXPECT_EQ(tree.add(Ids{1, 2, 3}, 2), 2);
  EXPECT_EQ(tokens(tree), (Ids{9, 1, 2}));
  EXPECT_EQ(tree.add(Ids{1, 2, 7, 8}, 1), 1);  // those there do not count
  EXPECT_EQ(tokens(tree), (Ids{9, 1, 2, 7}));
  EXPECT_EQ(tree.trunk_size(), 4) << "it lies behind the trunk without a gap: it is part of it";
  EXPECT_EQ(tree.add(Ids{5}, 0), 0);
  EXPECT_EQ(tree.size(), 4);
}

/// Against a set of all prefixes, whatever the branches.
TEST(TokenTree, HoldsEveryPrefixOnce) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    TokenTree tree(0);
    std::set<Ids> prefixes;
    Ids trunk;
    for (unsigned b = 0; b < 1 + random() % 5; ++b) {
      Ids branch(random() % 6);
      for (TokenId& each : branch) each = static_cast<TokenId>(random() % 3);
      if (b == 0) trunk = branch;
      tree.add(branch);
      for (std::size_t n = 1; n <= branch.size(); ++n)
        prefixes.insert({branch.begin(), branch.begin() + static_cast<std::ptrdiff_t>(n)});
    }
    std::set<Ids> paths;
    std::vector<Ids> path(static_cast<std::size_t>(tree.size()));
    for (std::size_t i = 1; i < path.size(); ++i) {
      const auto parent = static_cast<std::size_t>(tree.parents()[i]);
      ASSERT_LT(parent, i);
      path[i] = path[parent];
      path[i].push_back(tree.tokens()[i]);
      EXPECT_TRUE(paths.insert(path[i]).second) << "twice";
    }
    EXPECT_EQ(paths, prefixes);
    ASSERT_GE(tree.trunk_size(), std::ssize(trunk) + 1);
    EXPECT_EQ(path[trunk.size()], trunk);
  }
}

}  // namespace
}  // namespace speculate
