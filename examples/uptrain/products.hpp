// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>

#include "gqa/core/shape.hpp"
#include "gqa/layer/linear.hpp"

namespace uptrain {

using gqa::Index;

/// Row after row: a row for each token, or for each output of a weight.
template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using MatrixMap = Eigen::Map<Matrix<T>>;
template <class T>
using ConstMatrixMap = Eigen::Map<const Matrix<T>>;

/// y = x W^T
template <class T>
void multiply(const Matrix<T>& x, const ConstMatrixMap<T>& weight, Matrix<T>& y, gqa::Workspace& workspace) {
  gqa::linear(x, weight, y, {.workspace = &workspace});
}

/// Of y = x W^T, with dy the loss's gradient by y:  dx = dy W,  dW = dy^T x
template <class T>
void multiply_backward(const Matrix<T>& x, const ConstMatrixMap<T>& weight, const Matrix<T>& dy,
                       Matrix<T>& dx, MatrixMap<T> d_weight, gqa::Workspace& workspace) {
  const gqa::LinearOptions options{.workspace = &workspace};
  const gqa::MatrixView w(weight), inputs(x), d_outputs(dy);
  gqa::linear(dy, w.transposed(), dx, options);
  gqa::linear(d_outputs.transposed(), inputs.transposed(), d_weight, options);
}

}  // namespace uptrain
