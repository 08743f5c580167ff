// SPDX-License-Identifier: Apache-2.0
// The best approximation of few dimensions, where errors of some rows cost more than those of others.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "gqa/convert/head_products.hpp"
#include "gqa/convert/report.hpp"

namespace gqa::convert::detail {

/// A projection with its bias as one more column, zeros where there is none.
inline Matrix with_bias(const Matrix& w, const std::vector<double>& bias) {
  Matrix both(w.rows(), w.cols() + 1);
  for (Index r = 0; r < w.rows(); ++r) {
    std::copy_n(w.row(r), w.cols(), both.row(r));
    if (!bias.empty()) both(r, w.cols()) = bias[static_cast<std::size_t>(r)];
  }
  return both;
}

inline Matrix without_bias(const Matrix& both, std::vector<double>* bias) {
  Matrix w(both.rows(), both.cols() - 1);
  for (Index r = 0; r < w.rows(); ++r) {
    std::copy_n(both.row(r), w.cols(), w.row(r));
    if (bias) bias->push_back(both(r, w.cols()));
  }
  return w;
}

/// to += factor * from, of whole rows.
inline void add_row(Matrix& to, Index row, const Matrix& from, Index of, double factor) {
  if (factor == 0) return;
  for (Index c = 0; c < to.cols(); ++c) to(row, c) += factor * from(of, c);
}

/// Rows f of functions x -> W x + b as f = up c, c = down x of few elements.
struct WeightedLowRank {
  Matrix down;                  // rank x (inputs + 1), the bias last
  Matrix up;                    // rows x rank
  std::vector<double> squares;  // of all dimensions' singular values, largest first
  Matrix lost;                  // f - up c, rows x (inputs + 1)
};

/// U U^T of rank r with U the leading eigenvectors of E[f f^T], each row times the root of what its error
/// costs.
template <class Real>
WeightedLowRank weighted_low_rank(const Matrix& rows, const std::vector<double>& costs, Index rank,
                                  const Calibration* calibration) {
  Matrix weighted = rows;
  for (Index r = 0; r < rows.rows(); ++r)
    for (Index c = 0; c < rows.cols(); ++c) weighted(r, c) *= std::sqrt(costs[static_cast<std::size_t>(r)]);
  std::vector<double> bias;
  const Matrix matrix = without_bias(weighted, &bias);
  auto eigen = Algebra<Real>::symmetric_eigen(head_products<Real>({matrix, bias, 1}, calibration).all);
  WeightedLowRank result{Matrix(), Matrix(rows.rows(), rank), std::move(eigen.values), rows};
  Matrix across(rank, rows.rows());
  for (Index r = 0; r < rows.rows(); ++r)
    for (Index i = 0; i < rank; ++i) {
      across(i, r) = eigen.vectors(r, i);
      result.up(r, i) = eigen.vectors(r, i) / std::sqrt(costs[static_cast<std::size_t>(r)]);
    }
  result.down = Algebra<Real>::product(across, weighted);
  const Matrix kept = Algebra<Real>::product(result.up, result.down);
  for (std::size_t i = 0; i < kept.values().size(); ++i) result.lost.values()[i] -= kept.values()[i];
  return result;
}

/// What rows of all heads lost of a projection, head by head.
template <class Real>
HeadReport report_of(const Matrix& w, const std::vector<double>& bias, const Matrix& lost, Index heads,
                     const Calibration* calibration) {
  std::vector<double> offset;
  const Matrix matrix = without_bias(lost, &offset);
  HeadReport report;
  report.errors = squared_norms<Real>({matrix, offset, heads}, calibration);
  report.norms = norms<Real>({w, bias, heads}, calibration);
  return report;
}

/// The same of a layer's keys and values, and what its cache held.
template <class Real>
Report report_of(const Weights& source, const Matrix& lost_of_keys, const Matrix& lost_of_values,
                 const Calibration* calibration, CacheCost cache_after) {
  const Index heads = source.num_kv_heads();
  return {.keys = report_of<Real>(source.wk, source.bk, lost_of_keys, heads, calibration),
          .values = report_of<Real>(source.wv, source.bv, lost_of_values, heads, calibration),
          .cache_before = source.cache(),
          .cache_after = cache_after};
}

/// Some rows of a matrix.
inline Matrix rows_of(const Matrix& from, Index first, Index count) {
  Matrix part(count, from.cols());
  std::copy_n(from.row(first), count * from.cols(), part.row(0));
  return part;
}

}  // namespace gqa::convert::detail
