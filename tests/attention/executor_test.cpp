// SPDX-License-Identifier: Apache-2.0
// What attention may run on, and exceptions on the way: they reach the caller, and everything goes on after.
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <string>

#include "attention/attend.hpp"
#include "gqa/gqa.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::Sizes;

/// Large enough to be shared out: a prefill cut by queries, and a decode cut by keys.
const Sizes prefill{200, 200, 4, 2, 32}, decode{1, 6000, 4, 1, 32};

std::vector<float> memory_for(const Sizes& s) {
  return std::vector<float>(static_cast<std::size_t>(s.num_q_tokens * s.num_q_heads * s.value_dim));
}
TensorView<float> view_of(std::vector<float>& out, const Sizes& s) {
  return {out.data(), s.num_q_tokens, s.num_q_heads, s.value_dim};
}

/// Starts from the last task, on the caller's thread, and says it were many.
struct Backwards {
  int tasks = 0;
  static Index num_threads() { return 5; }
  void parallel_for(Index n, TaskRef task) {
    tasks += static_cast<int>(n);
    for (Index i = n - 1; i >= 0; --i) task(i);
  }
};

TEST(Executors, AllGiveTheSameBits) {
  for (const Sizes& sizes : {prefill, decode}) {
    const AttentionCase<float> c(sizes, 1);
    const auto expected = test::run(c, {.mask = causal()}).out;
    auto out = memory_for(sizes);
    const auto expect = [&](auto&& executor) {
      std::fill(out.begin(), out.end(), -7.0f);
      attention(executor, c.q_view(), c.k_view(), c.v_view(), view_of(out, sizes), causal());
      EXPECT_EQ(out, expected);
    };
    expect(Serial{});
    Eigen::ThreadPool pool(3);
    expect(pool);
    expect(static_cast<Eigen::ThreadPoolInterface&>(pool));
    expect(PoolExecutor(pool));
    Backwards own;
    expect(own);
    EXPECT_GT(own.tasks, 1) << "the call was not shared out";
  }
}

TEST(Executors, CalledFromAThreadOfThePool) {
  const AttentionCase<float> c(decode, 2);
  const auto expected = test::run(c, {.mask = causal()}).out;
  Eigen::ThreadPool pool(2);
  Eigen::Barrier done(4);
  std::atomic<int> right{0};
  for (int i = 0; i < 4; ++i) {
    pool.Schedule([&] {
      auto out = memory_for(decode);
      attention(pool, c.q_view(), c.k_view(), c.v_view(), view_of(out, decode), causal());
      right += out == expected;
      done.Notify();
    });
  }
  done.Wait();
  EXPECT_EQ(right, 4);
}

/// A score function that throws, while it is told to.
struct Thrower {
  const std::atomic<bool>* on;
  double operator()(double s, Index, Index, Index kv_pos) const {
    if (*on && kv_pos % 150 == 149) throw std::runtime_error("key " + std::to_string(kv_pos));
    return s;
  }
};

TEST(Exceptions, OfAScoreFunctionReachTheCallerAndTheWorkspaceGoesOn) {
  for (int threads : {1, 2, 3, 8}) {
    test::Threads executor(threads);
    for (const Sizes& sizes : {prefill, decode}) {
      const AttentionCase<float> c(sizes, 3);
      auto out = memory_for(sizes);
      Workspace workspace;
      std::atomic<bool> on{false};
      const auto call = [&] {
        std::fill(out.begin(), out.end(), -7.0f);
        attention(executor, c.q_view(), c.k_view(), c.v_view(), view_of(out, sizes), causal(), Thrower{&on},
                  AttentionOptions{.workspace = &workspace});
        return out;
      };
      const auto expected = call();
      for (int round = 0; round < 10; ++round) {
        on = true;
        try {
          call();
          FAIL() << "no exception with " << threads << " threads";
        } catch (const std::runtime_error& error) {
          EXPECT_EQ(std::string(error.what()).substr(0, 4), "key ");
        }
        on = false;
        ASSERT_EQ(call(), expected) << "the workspace is not usable after an exception";
      }
    }
  }
}

/// An executor that fails before, between or after its tasks.
struct Failing {
  Index after;
  static Index num_threads() { return 3; }
  void parallel_for(Index n, TaskRef task) const {
    for (Index i = 0; i < n; ++i) {
      if (i == after) throw std::runtime_error("executor");
      task(i);
    }
    throw std::runtime_error("executor");
  }
};

TEST(Exceptions, OfAnExecutorReachTheCaller) {
  const AttentionCase<float> c(decode, 4);
  auto out = memory_for(decode);
  Workspace workspace;
  for (Index after : {0, 1, 2, 100}) {
    EXPECT_THROW(attention(Failing{after}, c.q_view(), c.k_view(), c.v_view(), view_of(out, decode), causal(),
                           AttentionOptions{.workspace = &workspace}),
                 std::runtime_error);
    attention(c.q_view(), c.k_view(), c.v_view(), view_of(out, decode), causal(),
              AttentionOptions{.workspace = &workspace});
    EXPECT_EQ(out, test::run(c, {.mask = causal()}).out);
  }
}

}  // namespace
}  // namespace gqa
