// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "products.hpp"

namespace uptrain {

/// y = a sigmoid(a) b of a row's halves a and b (SwiGLU, Shazeer 2020).
template <class T>
void swiglu(const Matrix<T>& x, Matrix<T>& y) {
  const Index hidden = y.cols();
  for (Index t = 0; t < x.rows(); ++t) {
    const auto a = x.row(t).head(hidden).array(), b = x.row(t).tail(hidden).array();
    y.row(t).array() = a * b / (1 + (-a).exp());
  }
}

/// With s = sigmoid(a):  da = dy b s (1 + a (1 - s)),  db = dy a s
template <class T>
void swiglu_backward(const Matrix<T>& x, const Matrix<T>& dy, Matrix<T>& dx) {
  const Index hidden = dy.cols();
  Eigen::Array<T, 1, Eigen::Dynamic> s(hidden);
  for (Index t = 0; t < x.rows(); ++t) {
    const auto a = x.row(t).head(hidden).array(), b = x.row(t).tail(hidden).array(), d = dy.row(t).array();
    s = 1 / (1 + (-a).exp());
    dx.row(t).head(hidden).array() = d * b * s * (1 + a * (1 - s));
    dx.row(t).tail(hidden).array() = d * a * s;
  }
}

}  // namespace uptrain
