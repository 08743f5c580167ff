// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <atomic>
#include <thread>
#include <vector>

#include "gqa/core/parallel.hpp"
#include "support/random.hpp"

namespace gqa::test {

template <class T>
using ByRows = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using ByColumns = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;

/// Normal numbers.
template <class T>
ByRows<T> matrix(Index rows, Index columns, std::uint64_t seed, double deviation = 1) {
  const auto values = random_values<T>(seed, rows * columns, deviation);
  return ByRows<T>::Map(values.data(), rows, columns);
}

/// An executor of so many threads, made for each call.
class Threads {
 public:
  explicit Threads(int n) : n_(n) {}
  Index num_threads() const { return n_; }
  void parallel_for(Index n, TaskRef task) {
    ++calls_;
    std::atomic<Index> next{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < n_; ++t)
      threads.emplace_back([&] {
        for (Index i = next++; i < n; i = next++) task(i);
      });
    for (std::thread& thread : threads) thread.join();
  }
  int calls() const { return calls_; }

 private:
  int n_, calls_ = 0;
};

}  // namespace gqa::test
