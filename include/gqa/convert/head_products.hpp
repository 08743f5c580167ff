// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "gqa/convert/calibration.hpp"

namespace gqa::convert::detail {

/// The functions x -> W x + b of heads side by side, which is all that similarity, alignment and errors look
/// at. Their inner product is E <W x + b, W' x + b'> over the calibration's inputs, or that of the numbers
/// themselves where there is none.
struct HeadFunctions {
  const Matrix& weights;  // (heads * dim) x inputs
  const std::vector<double>& bias;
  Index heads;

  Index dim() const { return weights.rows() / heads; }
  double bias_of(Index row) const { return bias.empty() ? 0 : bias[static_cast<std::size_t>(row)]; }
};

/// E (W x + b)(W x + b)^T: block (h, k), dim x dim, holds the products of the rows of heads h and k.
struct HeadProducts {
  Matrix all;  // (heads * dim) x (heads * dim)
  Index heads = 0, dim = 0;

  double operator()(Index h, Index i, Index k, Index j) const { return all(h * dim + i, k * dim + j); }

  Matrix block(Index h, Index k) const {
    Matrix b(dim, dim);
    for (Index i = 0; i < dim; ++i)
      for (Index j = 0; j < dim; ++j) b(i, j) = (*this)(h, i, k, j);
    return b;
  }
  /// Those of some elements of each head.
  HeadProducts of_elements(const std::vector<Index>& elements) const {
    const auto n = static_cast<Index>(elements.size());
    if (n == dim) return *this;
    HeadProducts part{Matrix(heads * n, heads * n), heads, n};
    for (Index r = 0; r < heads * n; ++r)
      for (Index c = 0; c < heads * n; ++c)
        part.all(r, c) = (*this)(r / n, elements[static_cast<std::size_t>(r % n)], c / n,
                                 elements[static_cast<std::size_t>(c % n)]);
    return part;
  }
  /// <f_h, f_k>
  double inner(Index h, Index k) const {
    double sum = 0;
    for (Index i = 0; i < dim; ++i) sum += (*this)(h, i, k, i);
    return sum;
  }
};

inline double dot(const double* a, const double* b, Index n) {
  double sum = 0;
  for (Index i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

template <class Real>
HeadProducts head_products(const HeadFunctions& f, const Calibration* calibration) {
  const Matrix& w = f.weights;
  HeadProducts products{Matrix(), f.heads, f.dim()};
  std::vector<double> means(static_cast<std::size_t>(w.rows()));  // E[W x]
  if (calibration == nullptr) {
    products.all = Algebra<Real>::product_transposed(w, w);
  } else {
    products.all = Algebra<Real>::product_transposed(Algebra<Real>::product(w, calibration->moments()), w);
    const auto mean = calibration->mean();
    for (Index r = 0; r < w.rows(); ++r)
      means[static_cast<std::size_t>(r)] = dot(w.row(r), mean.data(), w.cols());
  }
  const auto mean_of = [&](Index r) { return means[static_cast<std::size_t>(r)]; };
  if (!f.bias.empty())
    for (Index r = 0; r < w.rows(); ++r)
      for (Index c = 0; c < w.rows(); ++c)
        products.all(r, c) +=
            mean_of(r) * f.bias_of(c) + f.bias_of(r) * mean_of(c) + f.bias_of(r) * f.bias_of(c);
  check_finite(products.all, "weights: products of heads");
  return products;
}

/// The squared norm of each head's function; rounding takes none below 0.
template <class Real>
std::vector<double> squared_norms(const HeadFunctions& f, const Calibration* calibration) {
  const Matrix& w = f.weights;
  const Matrix seen = calibration ? Algebra<Real>::product(w, calibration->moments()) : w;
  const auto mean = calibration ? calibration->mean() : std::vector<double>();
  std::vector<double> norms(static_cast<std::size_t>(f.heads));
  for (Index r = 0; r < w.rows(); ++r) {
    const double bias = f.bias_of(r);
    const double offset = calibration ? dot(w.row(r), mean.data(), w.cols()) : 0;
    norms[static_cast<std::size_t>(r / f.dim())] +=
        dot(seen.row(r), w.row(r), w.cols()) + 2 * bias * offset + bias * bias;
  }
  for (double& x : norms) x = std::max(x, 0.0);
  return norms;
}
/// Their roots.
template <class Real>
std::vector<double> norms(const HeadFunctions& f, const Calibration* calibration) {
  auto roots = squared_norms<Real>(f, calibration);
  for (double& x : roots) x = std::sqrt(x);
  return roots;
}

}  // namespace gqa::convert::detail
