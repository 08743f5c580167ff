// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "gqa/convert/head_products.hpp"
#include "gqa/convert/report.hpp"

namespace gqa::convert {

/// Keys and values of all KV heads from one latent vector a token, c = `down` x, which is what a cache
/// holds: k = `key_up` c + bk, v = `value_up` c + bv. Keys are rotated after they are made from it, so with
/// RoPE a cache of latents costs that product for each key it reads.
struct LowRank {
  Matrix down;      // rank x inputs
  Matrix key_up;    // (G * D) x rank
  Matrix value_up;  // (G * Dv) x rank
  /// Of the projections of keys above those of values, largest first; over the calibration's inputs where
  /// there is one. The squared error of rank r is the sum of the squares from the r-th (from 0) on.
  std::vector<double> singular_values;
  /// The source with Wk and Wv of this rank, `key_up` `down` and `value_up` `down`: any layer can run it.
  Weights weights;
  Report report;

  Index rank() const { return down.rows(); }
};

/// The rank at which a latent vector takes as much of a cache as `num_kv_heads` heads: G (D + Dv).
inline Index rank_of_budget(const Weights& source, Index num_kv_heads) {
  GQA_CHECK(num_kv_heads >= 1 && num_kv_heads <= source.num_kv_heads(), std::invalid_argument,
            "num_kv_heads is " << num_kv_heads << ", expected 1 to " << source.num_kv_heads());
  return num_kv_heads * (source.head_dim() + source.value_dim());
}

/// The best approximation of [Wk; Wv] of rank r, U U^T [Wk; Wv] with U the r leading left singular vectors
/// (Eckart and Young 1936); of [Wk; Wv] C^(1/2) where there is a calibration with second moments C, so that
/// keys and values, not weights, come out as near as they can (Palu, Chang et al. 2024, arXiv 2407.21118).
/// Biases are kept as they are. At full rank nothing changes up to rounding.
///
/// U comes from the eigenvectors of a (G (D + Dv))^2 matrix: time grows with its cube. Throws
/// std::invalid_argument for weights that do not fit each other, a rank below 1 or above G (D + Dv) or the
/// width of the inputs, whichever is less, and a calibration of another width or of too few tokens to span
/// all directions (see Calibration::add_noise).
template <class Real = double>
LowRank low_rank(const Weights& source, Index rank, const Calibration* calibration = nullptr) {
  using A = detail::Algebra<Real>;
  source.check();
  const Index G = source.num_kv_heads(), inputs = source.kv_inputs();
  const Index key_rows = source.wk.rows(), rows = key_rows + source.wv.rows();
  const Index most = std::min(rows, inputs);
  GQA_CHECK(rank >= 1 && rank <= most, std::invalid_argument,
            "rank is " << rank << ", expected 1 to " << most);
  if (calibration) {
    calibration->check(inputs);
    detail::check_full_rank<Real>(*calibration);
  }

  Matrix both(rows, inputs);
  std::copy(source.wk.values().begin(), source.wk.values().end(), both.row(0));
  std::copy(source.wv.values().begin(), source.wv.values().end(), both.row(key_rows));
  const std::vector<double> no_bias;
  const auto eigen = A::symmetric_eigen(detail::head_products<Real>({both, no_bias, 1}, calibration).all);

  LowRank result{Matrix(), Matrix(key_rows, rank), Matrix(rows - key_rows, rank), {}, source, {}};
  Matrix up(rows, rank);
  for (Index r = 0; r < rows; ++r)
    for (Index i = 0; i < rank; ++i) up(r, i) = eigen.vectors(r, i);
  for (double x : eigen.values) result.singular_values.push_back(std::sqrt(std::max(x, 0.0)));
  result.singular_values.resize(static_cast<std::size_t>(most));
  Matrix across(rank, rows);
  for (Index r = 0; r < rows; ++r)
    for (Index i = 0; i < rank; ++i) across(i, r) = up(r, i);
  result.down = A::product(across, both);
  std::copy_n(up.row(0), key_rows * rank, result.key_up.row(0));
  std::copy_n(up.row(key_rows), (rows - key_rows) * rank, result.value_up.row(0));
  result.weights.wk = A::product(result.key_up, result.down);
  result.weights.wv = A::product(result.value_up, result.down);

  const auto told = [&](const Matrix& before, const std::vector<double>& bias, const Matrix& after) {
    HeadReport report;
    Matrix difference = before;
    for (std::size_t i = 0; i < difference.values().size(); ++i) difference.values()[i] -= after.values()[i];
    report.errors = detail::squared_norms<Real>({difference, no_bias, G}, calibration);
    report.norms = detail::norms<Real>({before, bias, G}, calibration);
    return report;
  };
  result.report.keys = told(source.wk, source.bk, result.weights.wk);
  result.report.values = told(source.wv, source.bv, result.weights.wv);
  result.report.cache_before = source.cache();
  result.report.cache_after = {rank};
  return result;
}

}  // namespace gqa::convert
