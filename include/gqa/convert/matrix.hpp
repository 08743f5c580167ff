// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "gqa/core/error.hpp"
#include "gqa/core/scalar.hpp"
#include "gqa/core/shape.hpp"

/// From the weights of multi-head attention to those of grouped-query attention: which heads to join, how,
/// and what that costs.
namespace gqa::convert {

/// rows x cols numbers, row after row, in double. Conversion reads f32, f64, f16 or bf16 once, computes in
/// double and rounds once, in copy_to. The memory is a vector's and no Eigen matrix's, whose alignment
/// depends on a file's flags.
class Matrix {
 public:
  Matrix() = default;

  /// Zeros. Throws std::invalid_argument for a negative size, std::length_error on overflow.
  Matrix(Index rows, Index cols) : rows_(rows), cols_(cols) {
    GQA_CHECK(rows >= 0 && cols >= 0, std::invalid_argument,
              "matrix: sizes are " << rows << " x " << cols << ", expected none to be negative");
    values_.resize(static_cast<std::size_t>(checked_mul(rows, cols, "matrix")));
  }

  /// A copy of rows x cols numbers that lie row after row.
  template <Scalar T>
  Matrix(const T* data, Index rows, Index cols) : Matrix(rows, cols) {
    for (std::size_t i = 0; i < values_.size(); ++i) values_[i] = static_cast<double>(data[i]);
  }

  /// A copy of an Eigen matrix of either layout.
  template <class Derived>
  explicit Matrix(const Eigen::MatrixBase<Derived>& other) : Matrix(other.rows(), other.cols()) {
    for (Index r = 0; r < rows_; ++r)
      for (Index c = 0; c < cols_; ++c) (*this)(r, c) = static_cast<double>(other(r, c));
  }

  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  bool empty() const { return values_.empty(); }

  double* row(Index r) { return values_.data() + r * cols_; }
  const double* row(Index r) const { return values_.data() + r * cols_; }
  double& operator()(Index r, Index c) { return row(r)[c]; }
  double operator()(Index r, Index c) const { return row(r)[c]; }
  std::vector<double>& values() { return values_; }
  const std::vector<double>& values() const { return values_; }

  /// Writes the numbers row after row, each rounded to the nearest T.
  template <Scalar T>
  void copy_to(T* data) const {
    for (std::size_t i = 0; i < values_.size(); ++i) data[i] = rounded_to<T>(values_[i]);
  }

  static Matrix identity(Index n) {
    Matrix one(n, n);
    for (Index i = 0; i < n; ++i) one(i, i) = 1;
    return one;
  }

  friend bool operator==(const Matrix&, const Matrix&) = default;

 private:
  Index rows_ = 0, cols_ = 0;
  std::vector<double> values_;
};

namespace detail {

/// Throws std::invalid_argument naming the first element that is no number.
inline void check_finite(const Matrix& x, const char* name) {
  for (Index r = 0; r < x.rows(); ++r)
    for (Index c = 0; c < x.cols(); ++c)
      GQA_CHECK(
          std::isfinite(x(r, c)), std::invalid_argument,
          name << ": element (" << r << ", " << c << ") is " << x(r, c) << ", expected a finite number");
}
inline void check_finite(const std::vector<double>& x, const char* name) {
  for (std::size_t i = 0; i < x.size(); ++i)
    GQA_CHECK(std::isfinite(x[i]), std::invalid_argument,
              name << ": element " << i << " is " << x[i] << ", expected a finite number");
}

}  // namespace detail

}  // namespace gqa::convert
