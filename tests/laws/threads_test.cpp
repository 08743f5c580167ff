// SPDX-License-Identifier: Apache-2.0
// Threads and batches change no bit.
#include <gtest/gtest.h>

#include "laws/slices.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::How;
using test::Result;
using test::Sizes;
using test::Threads;

template <class T>
class ThreadsAndBatches : public ::testing::Test {};
TYPED_TEST_SUITE(ThreadsAndBatches, test::AllScalars, test::ScalarNames);

TYPED_TEST(ThreadsAndBatches, OneTwoThreeAndEightThreadsAreOne) {
  const std::vector<Sizes> shapes = {{1, 5000, 8, 1, 64},        // decode, split by keys
                                     {1, 3000, 6, 3, 40, 24},    // decode, split by heads and keys
                                     {5, 2100, 7, 1, 33},        // a few tokens
                                     {400, 400, 4, 2, 32},       // prefill, split by queries
                                     {130, 1500, 8, 2, 24, 7}};  // a later chunk of one
  std::uint64_t seed = 1;
  for (const Sizes& sizes : shapes) {
    const AttentionCase<TypeParam> c(sizes, seed++);
    for (const Window mask : {causal(), no_mask(), window(900, 100)}) {
      const auto expected = test::run(c, {.mask = mask});
      for (int n : {1, 2, 3, 8}) {
        Threads threads(n);
        for (int round = 0; round < 3; ++round) {
          EXPECT_TRUE(same(test::run(c, {.mask = mask, .threads = &threads}), expected))
              << sizes.name() << ", " << n << " threads";
          EXPECT_TRUE(same(test::run_cached(c, {.mask = mask, .threads = &threads}), expected))
              << "cache, " << sizes.name() << ", " << n << " threads";
        }
        EXPECT_TRUE(n == 1 || threads.calls() > 0 || mask == window(900, 100))
            << "not shared out: " << sizes.name();
      }
    }
  }
}

TYPED_TEST(ThreadsAndBatches, ABatchIsItsSequences) {
  using T = TypeParam;
  for (const Sizes& sizes : {Sizes{1, 600, 4, 2, 40, 24}, Sizes{30, 90, 4, 2, 40, 24}}) {
    const Index B = 5;
    AttentionCase<T> batch(sizes, 1);
    batch.q.clear();
    batch.k.clear();
    batch.v.clear();
    Result<T> each;
    for (Index b = 0; b < B; ++b) {
      const AttentionCase<T> one(sizes, static_cast<std::uint64_t>(b) + 20);
      batch.q.insert(batch.q.end(), one.q.begin(), one.q.end());
      batch.k.insert(batch.k.end(), one.k.begin(), one.k.end());
      batch.v.insert(batch.v.end(), one.v.begin(), one.v.end());
      each.append(test::run(one, {.mask = causal()}));
    }
    const Sizes& s = sizes;
    for (int n : {1, 2, 3, 8}) {
      Threads threads(n);
      const auto together = test::run<T>(
          {.mask = causal(), .threads = &threads},
          TensorView<const T>(batch.q.data(), B, s.num_q_tokens, s.num_q_heads, s.head_dim), s.value_dim,
          TensorView<const T>(batch.k.data(), B, s.num_kv_tokens, s.num_kv_heads, s.head_dim),
          TensorView<const T>(batch.v.data(), B, s.num_kv_tokens, s.num_kv_heads, s.value_dim));
      EXPECT_TRUE(same(together, each)) << sizes.name() << ", " << n << " threads";
    }
  }
}

TYPED_TEST(ThreadsAndBatches, RandomShapes) {
  Threads three(3), eight(8);
  for (std::uint64_t seed : test::seeds(25)) {
    test::Random random(seed);
    const Index G = random.integer(1, 4), group = random.pick(std::vector<Index>{1, 2, 4, 7, 16});
    const Sizes sizes{random.flip() ? random.integer(1, 4) : random.integer(1, 150),
                      random.integer(1, 3000),
                      G * group,
                      G,
                      random.integer(1, 70),
                      random.integer(1, 70)};
    const AttentionCase<TypeParam> c(sizes, seed);
    How how{.mask = random.flip() ? causal() : sliding_window(random.integer(1, 2000))};
    const auto expected = test::run(c, how);
    for (Threads* threads : {&three, &eight}) {
      how.threads = threads;
      EXPECT_TRUE(same(test::run(c, how), expected)) << "seed " << seed << ", " << sizes.name();
    }
  }
}

TYPED_TEST(ThreadsAndBatches, WorkCutOtherwiseIsTheSame) {
  const std::vector<Tuning> cuts = {{.block_rows = 1},
                                    {.block_rows = 5, .task_rows = 35},
                                    {.block_rows = 1 << 20},
                                    {.task_rows = 3, .tasks_per_thread = 1},
                                    {.threads = 1},
                                    {.threads = 2, .tasks_per_thread = 7},
                                    {.threads = 3, .block_rows = 96, .tasks_per_thread = 1 << 20}};
  Threads threads(3);
  std::uint64_t seed = 50;
  for (const Sizes& sizes :
       {Sizes{1, 5000, 8, 1, 64}, Sizes{9, 700, 6, 3, 40, 24}, Sizes{260, 300, 8, 2, 33}}) {
    const AttentionCase<TypeParam> c(sizes, seed++);
    for (const Window mask : {causal(), window(90, 10)}) {
      const auto expected = test::run(c, {.mask = mask});
      for (std::size_t i = 0; i < cuts.size(); ++i) {
        const How how{.mask = mask, .threads = i == 0 ? nullptr : &threads, .tuning = cuts[i]};
        EXPECT_TRUE(same(test::run(c, how), expected)) << sizes.name() << ", cut " << i;
        EXPECT_TRUE(same(test::run_cached(c, how), expected)) << "cache, " << sizes.name() << ", cut " << i;
      }
    }
  }
}

TYPED_TEST(ThreadsAndBatches, AWorkspaceKeptFromOtherCallsIsANewOne) {
  Workspace workspace;
  Threads threads(3);
  for (std::uint64_t seed : test::seeds(20)) {
    test::Random random(seed);
    const Sizes sizes{random.integer(1, 100), random.integer(1, 2000), 4, 2, random.integer(1, 70)};
    const AttentionCase<TypeParam> c(sizes, seed);
    const How kept{.mask = causal(), .workspace = &workspace, .threads = random.flip() ? &threads : nullptr};
    EXPECT_TRUE(same(test::run(c, kept), test::run(c, {.mask = causal()}))) << sizes.name();
  }
}

}  // namespace
}  // namespace gqa
