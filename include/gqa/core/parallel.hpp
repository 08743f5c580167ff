// SPDX-License-Identifier: Apache-2.0
// The only file that names Eigen::ThreadPoolDevice. Threads are always the
// caller's: the library starts none.
#pragma once

#ifndef EIGEN_USE_THREADS
#include <unsupported/Eigen/CXX11/ThreadPool>
namespace Eigen {
struct ThreadPoolDevice;
}
#else
#include <unsupported/Eigen/CXX11/Tensor>
#endif

#include <algorithm>
#include <atomic>
#include <concepts>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>

#include "gqa/core/shape.hpp"

namespace gqa {

/// A callable `void(Index)` that is referred to, not owned: it must outlive the
/// call it is passed to.
class TaskRef {
 public:
  template <class F>
  requires(!std::same_as<std::remove_cvref_t<F>, TaskRef> && std::invocable<F&, Index>)
      TaskRef(F&& f)  // NOLINT: converts from any callable on purpose
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* object, Index i) { (*static_cast<std::remove_reference_t<F>*>(object))(i); }) {}
  void operator()(Index i) const { call_(object_, i); }

 private:
  void* object_;
  void (*call_)(void*, Index);
};

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

/// Counts tasks out to whoever asks and keeps the first exception; after one,
/// the rest are skipped.
class TaskQueue {
 public:
  TaskQueue(Index n, TaskRef task, Index workers) : n_(n), task_(task), working_(workers) {}

  void work() noexcept {
    for (Index i = next_.fetch_add(1, std::memory_order_relaxed); i < n_;
         i = next_.fetch_add(1, std::memory_order_relaxed)) {
      try {
        task_(i);
      } catch (...) {
        if (!failed_.exchange(true)) error_ = std::current_exception();
        next_.store(n_, std::memory_order_relaxed);
      }
    }
  }

  /// Called once by each helper as its last act: after the last one the queue
  /// may be gone.
  void leave() noexcept {
    std::lock_guard lock(mutex_);
    if (--working_ == 0) all_left_.notify_one();
  }

  /// Helpers mostly end within microseconds of the caller: it asks again for about 50 us before it sleeps, as
  /// falling asleep and waking would take as long as a short decode.
  void wait() {
    for (int i = 0; i < 200 && working_.load(std::memory_order_acquire) != 0; ++i) std::this_thread::yield();
    std::unique_lock lock(mutex_);
    all_left_.wait(lock, [this] { return working_ == 0; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  const Index n_;
  const TaskRef task_;
  std::atomic<Index> next_{0};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
  std::mutex mutex_;
  std::condition_variable all_left_;
  std::atomic<Index> working_;
};

}  // namespace detail

/// An Eigen thread pool as an Executor. The calling thread works too, so a pool
/// of N threads runs at most N tasks at once: N - 1 on the pool. Called from
/// one of the pool's own threads, it runs serially, as waiting there could
/// deadlock.
class PoolExecutor {
 public:
  explicit PoolExecutor(Eigen::ThreadPoolInterface& pool) : pool_(&pool) {}

  Index num_threads() const { return pool_->NumThreads(); }

  void parallel_for(Index n, TaskRef task) const {
    const Index helpers = std::min<Index>(n, num_threads()) - 1;
    if (helpers <= 0 || pool_->CurrentThreadId() >= 0) {
      Serial::parallel_for(n, task);
      return;
    }
    detail::TaskQueue queue(n, task, helpers);
    for (Index i = 0; i < helpers; ++i) {
      // One captured pointer: std::function keeps it in place, so scheduling
      // allocates nothing.
      pool_->Schedule([&queue] {
        queue.work();
        queue.leave();
      });
    }
    queue.work();
    queue.wait();
  }

 private:
  Eigen::ThreadPoolInterface* pool_;
};

namespace detail {

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

}  // namespace gqa
