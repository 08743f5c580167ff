// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "gqa/core/parallel.hpp"
#include "model.hpp"

namespace generate {

/// y <- x W^T (+ bias), a row of x and y for each token. Outputs are cut into blocks of a size that depends
/// on the number of tokens alone, so that no bit of y depends on the number of threads.
inline void multiply(gqa::PoolExecutor executor, const Eigen::Ref<const Matrix>& x, const Matrix& weight,
                     const Vector& bias, Eigen::Ref<Matrix> y) {
  // One token reads every weight once: small blocks spread them evenly. For many tokens Eigen repacks x for
  // each block: large ones make that worthwhile.
  const Index block = x.rows() == 1 ? 64 : 256;
  executor.parallel_for(gqa::ceil_div(weight.rows(), block), [&](Index i) {
    const Index first = i * block, count = std::min(block, weight.rows() - first);
    const auto rows = weight.middleRows(first, count);
    auto part = y.middleCols(first, count);
    if (x.rows() == 1) {
      part.row(0).transpose().noalias() = rows * x.row(0).transpose();
    } else {
      part.noalias() = x * rows.transpose();
    }
    if (bias.size() != 0) part.rowwise() += bias.segment(first, count);
  });
}

}  // namespace generate
