// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "products.hpp"

namespace uptrain {

inline constexpr double rms_norm_epsilon = 1e-5;

/// y = g x / rms(x) for each row, rms(x)^2 = mean(x^2) + epsilon (Zhang and Sennrich 2019). `scale` gets
/// 1 / rms of each row.
template <class T>
void rms_norm(const Matrix<T>& x, const T* gain, Eigen::ArrayX<T>& scale, Matrix<T>& y,
              double epsilon = rms_norm_epsilon) {
  const Eigen::Map<const Eigen::ArrayX<T>> g(gain, x.cols());
  for (Index t = 0; t < x.rows(); ++t) {
    scale(t) = 1 / std::sqrt(x.row(t).squaredNorm() / static_cast<T>(x.cols()) + T(epsilon));
    y.row(t).array() = x.row(t).array() * scale(t) * g.transpose();
  }
}

/// Adds to dx what reaches x through the norm, and sets dg, unless that is null. With n = x / rms(x) and dn =
/// g dy:
///
///     dx += (dn - n mean(n dn)) / rms(x),   dg = sum over rows of n dy
template <class T>
void rms_norm_backward(const Matrix<T>& x, const T* gain, const Eigen::ArrayX<T>& scale, const Matrix<T>& dy,
                       Matrix<T>& dx, T* d_gain) {
  const Eigen::Map<const Eigen::ArrayX<T>> g(gain, x.cols());
  Eigen::Map<Eigen::ArrayX<T>> dg(d_gain, d_gain == nullptr ? 0 : x.cols());
  dg.setZero();
  for (Index t = 0; t < x.rows(); ++t) {
    const auto row = x.row(t).transpose().array(), d_row = dy.row(t).transpose().array();
    const T s = scale(t);
    const T mean = s * (row * d_row * g).sum() / static_cast<T>(x.cols());
    dx.row(t).transpose().array() += s * (g * d_row - s * mean * row);
    if (d_gain != nullptr) dg += s * row * d_row;
  }
}

}  // namespace uptrain
