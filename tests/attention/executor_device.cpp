// SPDX-License-Identifier: Apache-2.0
// Eigen's device, for which Eigen wants a macro before its first header.
#define EIGEN_USE_THREADS
#include <gtest/gtest.h>

#include "gqa/gqa.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

TEST(Attention, RunsOnAThreadPoolDevice) {
  using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;
  Tensor q(200, 4, 32), k(200, 2, 32), v(200, 2, 32), out(200, 4, 32);
  test::Random random(1);
  for (Tensor* x : {&q, &k, &v})
    for (Index i = 0; i < x->size(); ++i) x->data()[i] = static_cast<float>(random.normal());
  const Tensor expected = attention(q, k, v, causal());
  Eigen::ThreadPool pool(3);
  Eigen::ThreadPoolDevice device(&pool, 3);
  attention(device, q, k, v, out, causal());
  for (Index i = 0; i < out.size(); ++i) ASSERT_EQ(out.data()[i], expected.data()[i]);
  const Tensor returned = attention(device, q, k, v, causal());
  for (Index i = 0; i < out.size(); ++i) ASSERT_EQ(returned.data()[i], expected.data()[i]);
}

}  // namespace
}  // namespace gqa
