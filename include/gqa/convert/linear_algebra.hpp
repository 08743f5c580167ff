// SPDX-License-Identifier: Apache-2.0
// The matrix products and decompositions conversion needs, by Eigen. What reaches them is a template on Real,
// which is double: so a file that includes this without calling it does not compile Eigen's solvers, which
// takes six seconds.
#pragma once

#include <Eigen/Eigenvalues>
#include <Eigen/LU>
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
  using Square = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic>;
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

  /// Replaces x by its orthogonal polar factor, U V^T of x = U S V^T, by Newton's iteration with scaling
  /// (Higham 1986): x <- (s x + x^-T / s) / 2. False where x is singular or close to it.
  static bool polar_factor(Square& x) {
    const Real n = static_cast<Real>(x.rows()), epsilon = Eigen::NumTraits<Real>::epsilon();
    const auto size = [](const Square& y) {  // of its singular values, between the largest and that over n
      return std::sqrt(y.cwiseAbs().colwise().sum().maxCoeff()) *
             std::sqrt(y.cwiseAbs().rowwise().sum().maxCoeff());
    };
    // Eight steps are enough for every matrix that is not turned away.
    for (int step = 0; step < 30; ++step) {
      const Eigen::PartialPivLU<Square> lu(x);
      // The 1-norm's condition is at most n times the 2-norm's, whose limit is n epsilon, and this an
      // estimate.
      if (step == 0 && !(lu.rcond() > 1000 * n * n * epsilon)) return false;
      const Square inverse = lu.inverse();
      Real scale = std::sqrt(size(inverse) / size(x));
      if (std::abs(scale - 1) < Real(0.01)) scale = 1;
      const Square next = (scale * x + inverse.transpose() / scale) / 2;
      const Real moved = (next - x).norm();
      x = next;
      // Unscaled steps square the error: it is below the half of moved^2.
      if (scale == 1 && moved * moved <= epsilon) return true;
    }
    return false;
  }

  /// The orthogonal matrix R that maximises <R, m>, U V^T of the decomposition m = U S V^T. `unique` tells
  /// whether there is one only: not where a singular value is 0 up to rounding.
  static Matrix nearest_orthogonal(const Matrix& m, bool& unique) {
    if (m.empty()) return m;
    if (const Real largest = map(m).cwiseAbs().maxCoeff(); largest > 0) {
      Square x = map(m) / largest;
      if (polar_factor(x)) {
        unique = true;
        return Matrix(x);
      }
    }
    Eigen::JacobiSVD<Square, Eigen::NoQRPreconditioner> svd(map(m),
                                                            Eigen::ComputeFullU | Eigen::ComputeFullV);
    const auto& s = svd.singularValues();
    const Real epsilon = Eigen::NumTraits<Real>::epsilon();
    unique = s(s.size() - 1) > static_cast<Real>(s.size()) * epsilon * s(0);
    Matrix r(m.rows(), m.cols());
    map(r).noalias() = svd.matrixU() * svd.matrixV().transpose();
    return r;
  }

  /// Eigenvalues alone, smallest first: a seventh of the arithmetic. Throws as symmetric_eigen().
  static std::vector<double> symmetric_eigenvalues(const Matrix& m) {
    Eigen::SelfAdjointEigenSolver<Square> solver(Square(map(m)), Eigen::EigenvaluesOnly);
    check_converged(solver.info() == Eigen::Success, m.rows());
    return {solver.eigenvalues().data(), solver.eigenvalues().data() + m.rows()};
  }

  /// Throws std::invalid_argument where the solver does not converge, which it does not for numbers whose
  /// squares overflow.
  static SymmetricEigen symmetric_eigen(const Matrix& m) {
    Eigen::SelfAdjointEigenSolver<Square> solver{Square(map(m))};
    check_converged(solver.info() == Eigen::Success, m.rows());
    const Index n = m.rows();
    SymmetricEigen result{std::vector<double>(static_cast<std::size_t>(n)), Matrix(n, n)};
    for (Index i = 0; i < n; ++i)
      result.values[static_cast<std::size_t>(i)] = solver.eigenvalues()(n - 1 - i);
    map(result.vectors) = solver.eigenvectors().rowwise().reverse();
    return result;
  }

 private:
  static void check_converged(bool converged, Index n) {
    GQA_CHECK(converged, std::invalid_argument,
              "weights: the eigenvalues of a " << n << " x " << n
                                               << " matrix do not converge; are there huge numbers?");
  }
};

#ifdef GQA_COMPILED  // it is in the library that gqa::compiled links
extern template struct Algebra<double>;
#endif

}  // namespace gqa::convert::detail
