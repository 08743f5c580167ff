// SPDX-License-Identifier: Apache-2.0
// The only file that names Eigen::ThreadPoolDevice. Threads are always the
// caller's: the library starts none.
#pragma once

#ifdef EIGEN_USE_THREADS  // who says so wants Eigen's device
#include <unsupported/Eigen/CXX11/Tensor>
#endif

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <concepts>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "gqa/core/function_ref.hpp"
#include "gqa/core/shape.hpp"

// Declared, not included: whoever has a pool has included Eigen's header for it.
namespace Eigen {
class ThreadPoolInterface;
struct ThreadPoolDevice;
}  // namespace Eigen

namespace gqa {

/// A callable `void(Index)` that is referred to, not owned: it must outlive the
/// call it is passed to.
using TaskRef = detail::FunctionRef<void(Index)>;

/// Runs `task(i)` once for each i in [0, n), in any order and on any threads,
/// and returns when all are done. `num_threads()` is how many may run at once;
/// it decides how work is cut, never what is computed.
template <class E>
concept Executor = requires(E& e, Index n, TaskRef task) {
  { e.num_threads() } -> std::convertible_to<Index>;
  e.parallel_for(n, task);
};

/// Runs everything on the calling thread; the default.
class Serial {
 public:
  static Index num_threads() { return 1; }
  static void parallel_for(Index n, TaskRef task) {
    for (Index i = 0; i < n; ++i) task(i);
  }
};

namespace detail {

/// The tasks of one parallel_for, counted out to whoever asks.
///
/// A helper may come at any time, or never: a pool can be busy for longer than the work takes, or wait for
/// its caller. So a call waits for those helpers alone that are at work, and closes the door behind its last
/// task. A helper that comes late must find something to look at: queues are never freed, but taken again for
/// later calls, and each call has its own number.
class TaskQueue {
 public:
  /// Opens the queue for a call and returns its number.
  std::uint64_t open(Index n, TaskRef task) {
    n_ = n;
    task_ = task;
    next_.store(0, std::memory_order_relaxed);
    failed_.store(false, std::memory_order_relaxed);
    error_ = nullptr;
    const std::uint64_t door = door_.load(std::memory_order_relaxed) | is_open;
    door_.store(door, std::memory_order_release);
    return door / one_call;
  }

  /// The work of a helper that was sent for by call `call`: none where that is over.
  void help(std::uint64_t call) noexcept {
    std::uint64_t door = door_.load(std::memory_order_relaxed);
    do {
      if (door / one_call != call || (door & is_open) == 0) return;
    } while (!door_.compare_exchange_weak(door, door + one_helper, std::memory_order_acquire,
                                          std::memory_order_relaxed));
    work();
    door_.fetch_sub(one_helper, std::memory_order_release);
  }

  void work() noexcept {
    for (Index i = next_.fetch_add(1, std::memory_order_relaxed); i < n_;
         i = next_.fetch_add(1, std::memory_order_relaxed)) {
      try {
        (*task_)(i);
      } catch (...) {
        if (!failed_.exchange(true)) error_ = std::current_exception();
        skip_rest();
      }
    }
  }
  void skip_rest() noexcept { next_.store(n_, std::memory_order_relaxed); }

  /// Lets no more helpers in, waits for those inside, and returns the first exception of a task, if any.
  /// Helpers mostly end within a task of the caller: it asks again and again for about half a millisecond,
  /// and then after naps of a tenth. (With <thread>, <mutex> and <condition_variable> a call of attention
  /// would take a seventh longer to compile.)
  std::exception_ptr close() noexcept {
    door_.fetch_and(~is_open, std::memory_order_relaxed);
    for (int i = 0; door_.load(std::memory_order_acquire) % is_open != 0; ++i) {
      constexpr timespec nap = {0, 50'000};
      if (i < 1000)
        sched_yield();
      else
        nanosleep(&nap, nullptr);
    }
    door_.fetch_add(one_call, std::memory_order_relaxed);
    return std::exchange(error_, nullptr);
  }

 private:
  friend class TaskQueues;

  // The number of helpers inside, whether the door is open, and the number of the call.
  static constexpr std::uint64_t one_helper = 1, is_open = std::uint64_t{1} << 16, one_call = is_open << 1;

  Index n_ = 0;
  std::optional<TaskRef> task_;
  std::atomic<Index> next_{0};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
  std::atomic<std::uint64_t> door_{0};
  TaskQueue* next_free_ = nullptr;
};

/// The queues nobody uses now: as many have been made as calls were ever under way at once.
class TaskQueues {
 public:
  static TaskQueues& all() {
    static TaskQueues& queues = *new TaskQueues;  // for ever: a pool may outlive whatever else is static
    return queues;
  }

  TaskQueue& take() {
    lock();
    TaskQueue* const queue = free_;
    if (queue != nullptr) free_ = queue->next_free_;
    unlock();
    return queue != nullptr ? *queue : *new TaskQueue;
  }
  void give_back(TaskQueue& queue) noexcept {
    lock();
    queue.next_free_ = std::exchange(free_, &queue);
    unlock();
  }

 private:
  // Held for two assignments at a time.
  void lock() noexcept {
    while (busy_.test_and_set(std::memory_order_acquire)) sched_yield();
  }
  void unlock() noexcept { busy_.clear(std::memory_order_release); }

  std::atomic_flag busy_;
  TaskQueue* free_ = nullptr;
};

}  // namespace detail

/// An Eigen thread pool as an Executor. The calling thread works too, so a pool of N threads runs at most N
/// tasks at once: N - 1 on the pool. It returns as soon as the tasks are done, whoever did them: a pool that
/// is busy, or that waits for this caller, costs the help of its threads and no time. Called from one of the
/// pool's own threads, it runs serially. Throws what a task or the pool's Schedule throws, when no task runs
/// any more.
class PoolExecutor {
 public:
  explicit PoolExecutor(Eigen::ThreadPoolInterface& pool) : pool_(&pool) {}

  // Templates, as the pool is known where they are called.
  template <class Pool = Eigen::ThreadPoolInterface>
  Index num_threads() const {
    return static_cast<const Pool*>(pool_)->NumThreads();
  }

  template <class Pool = Eigen::ThreadPoolInterface>
  void parallel_for(Index n, TaskRef task) const {
    Pool* const pool = pool_;
    constexpr Index most_helpers =
        1 << 12;  // far more than there are threads, far fewer than a queue can count
    const Index helpers = std::min({n, num_threads<Pool>(), most_helpers}) - 1;
    if (helpers <= 0 || pool->CurrentThreadId() >= 0) {
      Serial::parallel_for(n, task);
      return;
    }
    detail::TaskQueue& queue = detail::TaskQueues::all().take();
    const std::uint64_t call = queue.open(n, task);
    std::exception_ptr error;
    try {
      // Two words captured: std::function keeps them in place, so scheduling allocates nothing.
      for (Index i = 0; i < helpers; ++i) pool->Schedule([&queue, call] { queue.help(call); });
    } catch (...) {
      error = std::current_exception();
      queue.skip_rest();
    }
    queue.work();
    const std::exception_ptr task_error = queue.close();
    detail::TaskQueues::all().give_back(queue);
    if (error) std::rethrow_exception(error);
    if (task_error) std::rethrow_exception(task_error);
  }

 private:
  Eigen::ThreadPoolInterface* pool_;
};

namespace detail {

/// An Executor, whatever it is.
struct ExecutorRef {
  Index num_threads;
  FunctionRef<void(Index, TaskRef)> parallel_for;
};

template <class E>
concept EigenPool = std::derived_from<std::remove_cvref_t<E>, Eigen::ThreadPoolInterface>;
template <class E>
concept EigenDevice = std::same_as<std::remove_cvref_t<E>, Eigen::ThreadPoolDevice>;

}  // namespace detail

/// Whatever attention() takes to run on: an Executor, an Eigen::ThreadPool or
/// an Eigen::ThreadPoolDevice.
template <class E>
concept ExecutorLike = Executor<std::remove_cvref_t<E>> || detail::EigenPool<E> || detail::EigenDevice<E>;

template <ExecutorLike E>
decltype(auto) as_executor(E& e) {
  if constexpr (detail::EigenPool<E>)
    return PoolExecutor(e);
  else if constexpr (detail::EigenDevice<E>)
    return PoolExecutor(*e.getPool());
  else
    return (e);
}

namespace detail {

/// Calls `use(ExecutorRef)`.
template <class E, class Use>
decltype(auto) with_executor(E& executor, Use&& use) {
  decltype(auto) runner = as_executor(executor);
  const auto run = [&](Index n, TaskRef task) { runner.parallel_for(n, task); };
  return use(ExecutorRef{static_cast<Index>(runner.num_threads()), run});
}

}  // namespace detail

}  // namespace gqa
