// SPDX-License-Identifier: Apache-2.0
// Executors: every task once, on as many threads as promised, and exceptions that reach the caller.
#include "gqa/core/parallel.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <latch>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <unsupported/Eigen/CXX11/ThreadPool>
#include <utility>
#include <vector>

namespace gqa {
namespace {

/// How often each of n tasks ran.
template <class E>
std::vector<int> runs(E&& executor, Index n) {
  std::vector<std::atomic<int>> count(static_cast<std::size_t>(n));
  executor.parallel_for(n, [&](Index i) { ++count[static_cast<std::size_t>(i)]; });
  return {count.begin(), count.end()};
}

std::vector<int> ones(Index n) { return std::vector<int>(static_cast<std::size_t>(n), 1); }

TEST(TaskRef, RefersToTheCallable) {
  int sum = 0;
  auto add = [&sum, calls = 0](Index i) mutable {
    ++calls;
    sum += static_cast<int>(i) * calls;
  };
  const TaskRef task(add);
  task(10);
  task(10);
  const TaskRef copy = task;
  copy(10);
  EXPECT_EQ(sum, 10 + 20 + 30);
  const auto constant = [&sum](Index i) { sum = static_cast<int>(i); };
  TaskRef{constant}(7);
  EXPECT_EQ(sum, 7);
}

TEST(Serial, RunsInOrderOnTheCallersThread) {
  std::vector<Index> order;
  const auto caller = std::this_thread::get_id();
  Serial::parallel_for(5, [&](Index i) {
    order.push_back(i);
    EXPECT_EQ(std::this_thread::get_id(), caller);
  });
  EXPECT_EQ(order, (std::vector<Index>{0, 1, 2, 3, 4}));
  EXPECT_EQ(Serial::num_threads(), 1);
}

class Pool : public ::testing::TestWithParam<int> {
 protected:
  Eigen::ThreadPool pool{GetParam()};
  PoolExecutor executor{pool};
};

TEST_P(Pool, RunsEachTaskOnce) {
  EXPECT_EQ(executor.num_threads(), GetParam());
  for (Index n : {0, 1, 2, 3, 8, 9, 1000}) EXPECT_EQ(runs(executor, n), ones(n)) << n;
}

TEST_P(Pool, RunsNoMoreTasksAtOnceThanItHasThreads) {
  std::atomic<int> now{0}, most{0};
  executor.parallel_for(64, [&](Index) {
    const int running = ++now;
    int seen = most;
    while (running > seen && !most.compare_exchange_weak(seen, running)) {
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    --now;
  });
  EXPECT_LE(most, GetParam());
}

TEST_P(Pool, RunsAsManyAtOnceAsItHasThreads) {
  // Every task waits for all the others: with fewer threads the wait would time out.
  const auto n = static_cast<Index>(GetParam());
  std::latch all(n);
  std::atomic<int> late{0};
  executor.parallel_for(n, [&](Index) {
    all.count_down();
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!all.try_wait()) {
      if (std::chrono::steady_clock::now() > deadline) {
        ++late;
        break;
      }
      std::this_thread::yield();
    }
  });
  EXPECT_EQ(late, 0);
}

TEST_P(Pool, WaitsForAHelperHoweverLongItsTaskTakes) {
  const Index n = executor.num_threads();
  std::atomic<Index> begun = 0, ended = 0;
  const auto caller = std::this_thread::get_id();
  executor.parallel_for(n, [&](Index) {
    ++begun;
    while (begun < n) std::this_thread::yield();  // each thread has one task
    if (std::this_thread::get_id() != caller) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    ++ended;
  });
  EXPECT_EQ(ended, n);
}

TEST_P(Pool, AnExceptionReachesTheCallerAndThePoolGoesOn) {
  for (Index thrower = 0; thrower < 20; ++thrower) {
    std::atomic<int> finished{0};
    const auto throws = [&] {
      executor.parallel_for(20, [&](Index i) {
        if (i == thrower) throw std::runtime_error("task " + std::to_string(i));
        ++finished;
      });
    };
    try {
      throws();
      FAIL() << "no exception";
    } catch (const std::runtime_error& error) {
      EXPECT_EQ(error.what(), "task " + std::to_string(thrower));
    }
    const int when_it_returned = finished;
    EXPECT_LT(when_it_returned, 20);
    EXPECT_EQ(runs(executor, 20), ones(20));
    EXPECT_EQ(finished, when_it_returned) << "a task ran after parallel_for had returned";
  }
}

TEST_P(Pool, OneOfManyExceptionsReachesTheCaller) {
  for (int round = 0; round < 50; ++round)
    EXPECT_THROW(executor.parallel_for(64, [](Index i) { throw static_cast<int>(i); }), int);
  EXPECT_EQ(runs(executor, 64), ones(64));
}

TEST_P(Pool, ExceptionsOfAnyType) {
  EXPECT_THROW(executor.parallel_for(3, [](Index) { throw "text"; }), const char*);
  EXPECT_THROW(executor.parallel_for(1, [](Index) { throw std::bad_alloc(); }), std::bad_alloc);
}

TEST_P(Pool, CalledFromItsOwnThreads) {
  std::atomic<int> inner{0};
  executor.parallel_for(16, [&](Index) { executor.parallel_for(10, [&](Index) { ++inner; }); });
  EXPECT_EQ(inner, 160);
  EXPECT_THROW(
      executor.parallel_for(
          16, [&](Index) { executor.parallel_for(4, [](Index) { throw std::logic_error("inner"); }); }),
      std::logic_error);
}

TEST_P(Pool, CalledFromATaskThatFillsThePool) {
  // The pool's only threads are inside parallel_for when they call it again.
  std::atomic<int> inner{0};
  Eigen::Barrier done(static_cast<unsigned>(GetParam()));
  for (int i = 0; i < GetParam(); ++i) {
    pool.Schedule([&] {
      executor.parallel_for(100, [&](Index) { ++inner; });
      done.Notify();
    });
  }
  done.Wait();
  EXPECT_EQ(inner, 100 * GetParam());
}

TEST_P(Pool, SharedByCallersOfManyThreads) {
  std::vector<std::thread> callers;
  std::atomic<int> total{0};
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 50; ++round) executor.parallel_for(7, [&](Index) { ++total; });
    });
  }
  for (auto& caller : callers) caller.join();
  EXPECT_EQ(total, 4 * 50 * 7);
}

TEST_P(Pool, ACallDoesNotWaitForABusyPool) {
  // Every thread of the pool is taken until after the call has returned: waiting for one would not end.
  // Latches that the threads share: they may look at them a little longer than this test lasts.
  const auto taken = std::make_shared<std::latch>(GetParam()), free = std::make_shared<std::latch>(1);
  for (int i = 0; i < GetParam(); ++i) {
    pool.Schedule([=] {
      taken->count_down();
      free->wait();
    });
  }
  taken->wait();
  for (int round = 0; round < 300; ++round) {
    std::atomic<int> ran{0};
    executor.parallel_for(40, [&](Index) { ++ran; });
    ASSERT_EQ(ran, 40);
  }
  EXPECT_THROW(executor.parallel_for(9, [](Index i) { throw static_cast<int>(i); }), int);
  free->count_down();
  // The helpers of all those calls come now, and find nothing to do.
  EXPECT_EQ(runs(executor, 100), ones(100));
}

TEST_P(Pool, ThreadsThatWaitForWhatTheirCallerDoesNext) {
  const auto next = std::make_shared<std::latch>(1), waited = std::make_shared<std::latch>(GetParam());
  for (int i = 0; i < GetParam(); ++i) {
    pool.Schedule([=] {
      next->wait();
      waited->count_down();
    });
  }
  EXPECT_EQ(runs(executor, 30), ones(30));
  next->count_down();
  waited->wait();
}

TEST_P(Pool, TwoPoolsThatCallOnEachOther) {
  // All threads of both are at work when they call.
  Eigen::ThreadPool other(GetParam());
  const PoolExecutor there(other);
  const auto all = std::make_shared<std::latch>(2 * GetParam()),
             done = std::make_shared<std::latch>(2 * GetParam());
  std::atomic<int> inner{0};
  const auto call = [&, all, done](const PoolExecutor& callee) {
    all->arrive_and_wait();
    callee.parallel_for(8, [&](Index) { ++inner; });
    done->count_down();
  };
  for (int i = 0; i < GetParam(); ++i) {
    pool.Schedule([&, call] { call(there); });
    other.Schedule([&, call] { call(executor); });
  }
  done->wait();
  EXPECT_EQ(inner, 2 * GetParam() * 8);
}

TEST_P(Pool, MayGoBeforeTheHelpersItNeverStarted) {
  std::atomic<int> ran{0};
  {
    Eigen::ThreadPool short_lived(GetParam());
    for (int i = 0; i < GetParam(); ++i)
      short_lived.Schedule([] { std::this_thread::sleep_for(std::chrono::milliseconds(20)); });
    PoolExecutor(short_lived).parallel_for(50, [&](Index) { ++ran; });
  }
  EXPECT_EQ(ran, 50);
}

INSTANTIATE_TEST_SUITE_P(Threads, Pool, ::testing::Values(1, 2, 3, 8));

/// A pool that takes a few tasks, runs them when it likes or never, and then throws.
class UnwillingPool : public Eigen::ThreadPoolInterface {
 public:
  explicit UnwillingPool(int willing) : willing_(willing) {}
  ~UnwillingPool() override { run(); }

  void Schedule(std::function<void()> task) override {
    if (willing_-- == 0) throw std::runtime_error("no more");
    tasks_.push_back(std::move(task));
  }
  int NumThreads() const override { return 8; }
  int CurrentThreadId() const override { return -1; }
  void run() {
    for (auto& task : std::exchange(tasks_, {})) task();
  }

 private:
  int willing_;
  std::vector<std::function<void()>> tasks_;
};

TEST(UnwillingPool, WhatScheduleThrowsReachesTheCallerAndNothingStaysBehind) {
  for (int willing = 0; willing < 7; ++willing) {
    UnwillingPool pool(willing);
    {
      int ran = 0;
      const auto task = [&](Index) { ++ran; };
      EXPECT_THROW(PoolExecutor(pool).parallel_for(20, task), std::runtime_error);
      EXPECT_EQ(ran, 0);
    }
    pool.run();  // the task is gone
    EXPECT_EQ(runs(Serial{}, 3), ones(3));
  }
}

TEST(UnwillingPool, HelpersThatComeLateServeNoOtherCall) {
  UnwillingPool pool(100);
  EXPECT_EQ(runs(PoolExecutor(pool), 20), ones(20));
  // The same queue is taken again, while the first call's helpers are still to come.
  std::vector<int> count(20);
  PoolExecutor(pool).parallel_for(20, [&](Index i) {
    if (i == 10) pool.run();
    ++count[static_cast<std::size_t>(i)];
  });
  EXPECT_EQ(count, ones(20));
}

/// The least an Executor is.
struct Own {
  int calls = 0;
  static int num_threads() { return 3; }
  void parallel_for(Index n, TaskRef task) {
    ++calls;
    for (Index i = n - 1; i >= 0; --i) task(i);
  }
};

TEST(AsExecutor, TakesExecutorsAsTheyAreAndWrapsPools) {
  static_assert(Executor<Own> && Executor<Serial> && Executor<const PoolExecutor>);
  static_assert(ExecutorLike<Own&> && ExecutorLike<Eigen::ThreadPool&> &&
                ExecutorLike<Eigen::ThreadPoolInterface&>);
  static_assert(!ExecutorLike<int> && !ExecutorLike<float*>);
  Own own;
  static_assert(std::is_same_v<decltype(as_executor(own)), Own&>);
  EXPECT_EQ(runs(as_executor(own), 4), ones(4));
  EXPECT_EQ(own.calls, 1);

  Eigen::ThreadPool pool(2);
  static_assert(std::is_same_v<decltype(as_executor(pool)), PoolExecutor>);
  EXPECT_EQ(runs(as_executor(pool), 40), ones(40));
  Eigen::ThreadPoolInterface& interface = pool;
  EXPECT_EQ(as_executor(interface).num_threads(), 2);
}

}  // namespace
}  // namespace gqa
