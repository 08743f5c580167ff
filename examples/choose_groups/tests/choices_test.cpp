// SPDX-License-Identifier: Apache-2.0
// The set that nothing beats, against comparing all with all.
#include "choices.hpp"

#include <gtest/gtest.h>

namespace choose_groups {
namespace {

const gqa::CostRates rates{.element_bytes = 2,
                           .read = {{{1 << 20, 100e9}, {16 << 20, 50e9}, {128 << 20, 20e9}}},
                           .multiply = 50e9,
                           .score = 5e9,
                           .call = 1e-6};
const Use use{.layers = 3, .heads = 12, .head_dim = 64, .context = 5000, .batch = 2};

std::vector<Choice> choices_with(const std::vector<double>& losses) {
  auto choices = choices_of(use, rates);
  for (std::size_t i = 0; i < choices.size(); ++i)
    if (losses[i] >= 0) choices[i].loss = losses[i];
  return choices;
}

std::vector<Index> front_of(const std::vector<double>& losses, double same_loss = 0) {
  auto choices = choices_with(losses);
  mark_front(choices, same_loss);
  std::vector<Index> front;
  for (const Choice& c : choices)
    if (c.on_front) front.push_back(c.kv_heads);
  return front;
}

TEST(Choices, AreTheDivisorsWithTheirCost) {
  const auto choices = choices_of(use, rates);
  ASSERT_EQ(choices.size(), 6u);
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const Index G = std::vector<Index>{1, 2, 3, 4, 6, 12}[i];
    EXPECT_EQ(choices[i].kv_heads, G);
    // 10 slabs of 512 tokens, keys and values of 64 dims, 2 bytes, 3 layers, 2 sequences
    EXPECT_NEAR(static_cast<double>(choices[i].bytes), static_cast<double>(10 * 512 * G * 128 * 2 * 3 * 2),
                30000);
    gqa::CallShape shape{
        .num_q_heads = 12, .num_kv_heads = G, .head_dim = 64, .kv_tokens = 5000, .num_seqs = 2};
    EXPECT_EQ(choices[i].decode,
              3 * gqa::predicted_seconds(rates, shape, {.footprint = static_cast<double>(choices[i].bytes)}));
    if (i > 0) {
      EXPECT_GT(choices[i].decode, choices[i - 1].decode);
      EXPECT_GE(choices[i].prefill, choices[i - 1].prefill);
    }
  }
}

TEST(Choices, WhatLosesLessStaysOnTheFront) {
  EXPECT_EQ(front_of({6, 5, 4, 3, 2, 1}), (std::vector<Index>{1, 2, 3, 4, 6, 12}));
  EXPECT_EQ(front_of({3, 5, 4, 3, 2, 2}), (std::vector<Index>{1, 6}));
  EXPECT_EQ(front_of({1, 1, 1, 1, 1, 1}), (std::vector<Index>{1}));
  // Within a tenth they are the same; what is dropped so drops no others.
  EXPECT_EQ(front_of({1.3, 1.25, 1.15, 1.1, 1.06, 1.0}, 0.1), (std::vector<Index>{1, 3, 12}));
  // No figure: it takes more memory and time, and nothing is known to be better of it.
  EXPECT_EQ(front_of({3, -1, 2, -1, 2, 1}), (std::vector<Index>{1, 3, 12}));
  EXPECT_EQ(front_of({-1, -1, -1, -1, -1, -1}), (std::vector<Index>{1}));
}

TEST(Choices, TheBestWithinLimits) {
  auto choices = choices_with({6, 5, 4, 3, 2, 1});
  mark_front(choices, 0);
  const auto best = [&](const Limits& limits) {
    mark_fits(choices, limits);
    const Choice* found = best_of(choices);
    return found == nullptr ? 0 : found->kv_heads;
  };
  EXPECT_EQ(best({}), 12);
  EXPECT_EQ(best({.bytes = choices[3].bytes}), 4);
  EXPECT_EQ(best({.bytes = choices[3].bytes - 1}), 3);
  EXPECT_EQ(best({.decode = choices[1].decode}), 2);
  EXPECT_EQ(best({.bytes = choices[3].bytes, .decode = choices[2].decode}), 3);
  EXPECT_EQ(best({.loss = 2}), 12);
  EXPECT_EQ(best({.bytes = choices[2].bytes, .loss = 3}), 0);
}

}  // namespace
}  // namespace choose_groups
