// SPDX-License-Identifier: Apache-2.0
// The matrix products and decompositions conversion needs, by Eigen. What reaches them is a template on Real,
// which is double: so a file that includes this without calling it does not compile Eigen's solvers, which
// takes six seconds.
#pragma once

#include <Eigen/Eigenvalues>
#include <Eigen/SVD>

#include "gqa/convert/matrix.hpp"

namespace gqa::convert::detail {

/// Eigenvalues of a symmetric matrix, largest first, and their eigenvectors, one a column.
struct SymmetricEigen {
  std::vector<double> values;
  Matrix vectors;
};

template <class Real>
struct Algebra {
  using Dense = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Map = Eigen::Map<Dense>;
  using ConstMap = Eigen::Map<const Dense>;

  static ConstMap map(const Matrix& x) { return ConstMap(x.values().data(), x.rows(), x.cols()); }
  static Map map(Matrix& x) { return Map(x.values().data(), x.rows(), x.cols()); }

  /// a b
  static Matrix product(const Matrix& a, const Matrix& b) {
    Matrix c(a.rows(), b.cols());
    map(c).noalias() = map(a) * map(b);
    return c;
  }
  /// a b^T
  static Matrix product_transposed(const Matrix& a, const Matrix& b) {
    Matrix c(a.rows(), b.rows());
    map(c).noalias() = map(a) * map(b).transpose();
    return c;
  }
  /// c += a^T a
  static void add_gram(const Matrix& a, Matrix& c) { map(c).noalias() += map(a).transpose() * map(a); }

  /// The orthogonal matrix R that maximises <R, m>, U V^T of the decomposition m = U S V^T. `unique` tells
  /// whether there is one only: not where a singular value is 0 up to rounding.
  static Matrix nearest_orthogonal(const Matrix& m, bool& unique) {
    using Square = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic>;
    Eigen::JacobiSVD<Square, Eigen::NoQRPreconditioner> svd(map(m),
                                                            Eigen::ComputeFullU | Eigen::ComputeFullV);
    const auto& s = svd.singularValues();
    const Real epsilon = Eigen::NumTraits<Real>::epsilon();
    unique = s.size() == 0 || s(s.size() - 1) > static_cast<Real>(s.size()) * epsilon * s(0);
    Matrix r(m.rows(), m.cols());
    map(r).noalias() = svd.matrixU() * svd.matrixV().transpose();
    return r;
  }

  /// Throws std::invalid_argument where the solver does not converge, which it does not for numbers whose
  /// squares overflow.
  static SymmetricEigen symmetric_eigen(const Matrix& m) {
    using Square = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic>;
    Eigen::SelfAdjointEigenSolver<Square> solver{Square(map(m))};
    GQA_CHECK(solver.info() == Eigen::Success, std::invalid_argument,
              "weights: the eigenvalues of a " << m.rows() << " x " << m.cols()
                                               << " matrix do not converge; are there huge numbers?");
    const Index n = m.rows();
    SymmetricEigen result{std::vector<double>(static_cast<std::size_t>(n)), Matrix(n, n)};
    for (Index i = 0; i < n; ++i)
      result.values[static_cast<std::size_t>(i)] = solver.eigenvalues()(n - 1 - i);
    map(result.vectors) = solver.eigenvectors().rowwise().reverse();
    return result;
  }
};

#ifdef GQA_COMPILED  // it is in the library that gqa::compiled links
extern template struct Algebra<double>;
#endif

}  // namespace gqa::convert::detail
