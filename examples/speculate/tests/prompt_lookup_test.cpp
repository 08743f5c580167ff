// SPDX-License-Identifier: Apache-2.0
#include "prompt_lookup.hpp"

#include <gtest/gtest.h>

#include <random>

namespace speculate {
namespace {

using Ids = std::vector<TokenId>;
using Found = std::vector<Ids>;

TEST(PromptLookup, FindsWhatFollowedBefore) {
  const PromptLookup lookup{.ngram = 2, .draft = 8, .branches = 4};
  //             0  1  2  3  4  5  6  7  8  9 10
  const Ids text{1, 2, 5, 6, 7, 1, 2, 8, 3, 1, 2};
  EXPECT_EQ(lookup.continuations(text, 2), (Found{{8, 3}, {5, 6}})) << "the latest first";
  EXPECT_EQ(lookup.continuations(text, 0), Found{});
  EXPECT_EQ(lookup.continuations(Ids{4, 5, 6, 3, 4}, 1), Found{}) << "3 4 has not been there";
  EXPECT_EQ(lookup.continuations(Ids{4, 5, 6}, 3), Found{});
  EXPECT_EQ(lookup.continuations(Ids{4, 4}, 3), Found{});
  EXPECT_EQ(lookup.continuations(Ids{4}, 3), Found{});
}

TEST(PromptLookup, LooksForAsManyTokensAsAsked) {
  const Ids text{1, 2, 3, 5, 9, 2, 3, 6, 9, 3, 7, 1, 2, 3};
  const auto first = [&](Index ngram) {
    return PromptLookup{.ngram = ngram, .branches = 1}.continuations(text, 1);
  };
  EXPECT_EQ(first(3), Found{{5}});
  EXPECT_EQ(first(2), Found{{6}});
  EXPECT_EQ(first(1), Found{{7}});
  EXPECT_EQ(first(4), Found{});
  EXPECT_EQ(first(64), Found{});
}

TEST(PromptLookup, GoesOnAsARepetitionPastTheEnd) {
  const PromptLookup lookup{.ngram = 3, .draft = 8, .branches = 1};
  EXPECT_EQ(lookup.continuations(Ids{7, 7, 7, 7}, 5), (Found{{7, 7, 7, 7, 7}}));
  EXPECT_EQ(lookup.continuations(Ids{1, 2, 3, 1, 2, 3}, 7), (Found{{1, 2, 3, 1, 2, 3, 1}}));
}

TEST(PromptLookup, GivesDifferentContinuationsUpToTheBranches) {
  Ids text;
  for (const TokenId next : {5, 6, 5, 7, 8, 5}) text.insert(text.end(), {1, next, 0});
  text.push_back(1);
  for (const Index branches : {1, 2, 3, 4, 9}) {
    const auto found = PromptLookup{.ngram = 1, .draft = 4, .branches = branches}.continuations(text, 1);
    const Found all{{5}, {8}, {7}, {6}};
    EXPECT_EQ(found, Found(all.begin(), all.begin() + std::min<Index>(branches, 4)));
  }
}

TEST(PromptLookup, BeginsWithWhatIsSure) {
  const PromptLookup lookup{.ngram = 2, .draft = 6, .branches = 1};
  const Ids text{3, 4, 5, 6, 7, 2}, sure{3, 4};
  const TokenTree tree = lookup(text, sure, 100);
  EXPECT_EQ(Ids(tree.tokens().begin(), tree.tokens().end()), (Ids{2, 3, 4, 5, 6, 7, 2}));
  EXPECT_EQ(tree.trunk_size(), 7);
  EXPECT_EQ(lookup(text, sure, 1).size(), 2);
  EXPECT_EQ(lookup(text, sure, 0).size(), 1);
  EXPECT_EQ((PromptLookup{.draft = 1}(text, sure, 100).size()), 2);
  EXPECT_EQ((PromptLookup{.draft = 0}(text, sure, 100).size()), 1);
}

TEST(PromptLookup, GivesEveryBranchAShare) {
  Ids text;
  for (const TokenId next : {5, 6, 7}) text.insert(text.end(), {1, next, next, next, next, 0});
  text.push_back(1);
  const auto sizes = [&](Index draft, Index branches) {
    const TokenTree tree = PromptLookup{.ngram = 1, .draft = draft, .branches = branches}(text, {}, 100);
    std::vector<Index> all;
    for (Index i = 1; i < tree.size(); ++i) {
      if (tree.parents()[static_cast<std::size_t>(i)] == 0) all.push_back(0);
      ++all.back();
    }
    return all;
  };
  EXPECT_EQ(sizes(8, 1), (std::vector<Index>{8}));
  EXPECT_EQ(sizes(8, 2), (std::vector<Index>{6, 2}));
  EXPECT_EQ(sizes(8, 3), (std::vector<Index>{6, 1, 1}));
  EXPECT_EQ(sizes(12, 3), (std::vector<Index>{8, 2, 2}));
  EXPECT_EQ(sizes(3, 2), (std::vector<Index>{2, 1})) << "never none, as long as half is the trunk's";
  EXPECT_EQ(sizes(3, 3), (std::vector<Index>{2, 1}));
  EXPECT_EQ(sizes(1, 3), (std::vector<Index>{1}));
}

TEST(PromptLookup, DraftsAtMostWhatIsAllowed) {
  std::mt19937 random(5);
  bool branched = false, full = false;
  for (int round = 0; round < 2000; ++round) {
    const auto below = [&](Index end) { return static_cast<Index>(random()) % end; };
    Ids text(1 + random() % 60), sure(random() % 4);
    for (TokenId& each : text) each = static_cast<TokenId>(below(4));
    for (TokenId& each : sure) each = static_cast<TokenId>(below(4));
    const PromptLookup lookup{.ngram = 1 + below(4), .draft = below(12), .branches = 1 + below(5)};
    const Index most = below(12);
    const TokenTree tree = lookup(text, sure, most);
    const Index drafted = tree.size() - 1;
    ASSERT_LE(drafted, std::min(lookup.draft, most));
    ASSERT_EQ(tree.tokens()[0], text.back());
    for (Index i = 0; i < std::min(drafted, std::ssize(sure)); ++i)
      ASSERT_EQ(tree.tokens()[static_cast<std::size_t>(i) + 1], sure[static_cast<std::size_t>(i)]);
    ASSERT_GE(tree.trunk_size() - 1, (drafted + 1) / 2) << "half of what is drafted is the best guess";
    branched |= tree.trunk_size() < tree.size();
    full |= drafted == lookup.draft && drafted > 5;
    if (lookup.branches == 1) {
      ASSERT_EQ(tree.trunk_size(), tree.size());
    }
  }
  EXPECT_TRUE(branched);
  EXPECT_TRUE(full);
}

}  // namespace
}  // namespace speculate
