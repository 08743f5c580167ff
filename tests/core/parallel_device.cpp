// SPDX-License-Identifier: Apache-2.0
// Eigen's device, for which Eigen wants a macro before its first header.
#define EIGEN_USE_THREADS
#include <gtest/gtest.h>

#include <atomic>

#include "gqa/core/parallel.hpp"

namespace gqa {
namespace {

TEST(ThreadPoolDevice, IsTheExecutorOfItsPool) {
  static_assert(ExecutorLike<Eigen::ThreadPoolDevice&>);
  for (int threads : {1, 2, 3, 8}) {
    Eigen::ThreadPool pool(threads);
    Eigen::ThreadPoolDevice device(&pool, threads);
    const auto executor = as_executor(device);
    EXPECT_EQ(executor.num_threads(), threads);
    std::atomic<int> sum{0};
    executor.parallel_for(100, [&](Index i) { sum += static_cast<int>(i); });
    EXPECT_EQ(sum, 4950);
    EXPECT_THROW(executor.parallel_for(100, [](Index i) { throw i; }), Index);
  }
}

}  // namespace
}  // namespace gqa
