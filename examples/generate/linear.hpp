// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "gqa/core/parallel.hpp"
#include "model.hpp"

namespace generate {

/// y <- x W^T (+ bias), a row of x and y for each token. Each product of a row of W and a token is summed in
/// an order of its own, so no bit of y depends on the number of threads or on how many tokens are computed at
/// once.
inline void multiply(gqa::PoolExecutor executor, const Eigen::Ref<const Matrix>& x, const Matrix& weight,
                     const Vector& bias, Eigen::Ref<Matrix> y) {
  // Few enough rows of W that they stay in the second-level cache while all tokens pass by (64 x 1,536 x 4
  // bytes are 393 kB), and enough of them that a block is worth a task. A matrix-vector product a token is no
  // slower than Eigen's matrix product, which at the baseline instruction set is as bound by arithmetic.
  constexpr Index block = 64;
  executor.parallel_for(gqa::ceil_div(weight.rows(), block), [&](Index i) {
    const Index first = i * block, count = std::min(block, weight.rows() - first);
    const auto rows = weight.middleRows(first, count);
    for (Index t = 0; t < x.rows(); ++t) {
      auto part = y.row(t).segment(first, count);
      part.transpose().noalias() = rows * x.row(t).transpose();
      if (bias.size() != 0) part += bias.segment(first, count);
    }
  });
}

}  // namespace generate
