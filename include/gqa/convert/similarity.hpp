// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "gqa/convert/align.hpp"

namespace gqa::convert {

/// How unlike two KV heads are, keys and values together.
enum class HeadDistance {
  plain,           ///< |K_h - K_k|^2 + |V_h - V_k|^2: what a mean of the two loses, twice
  aligned,         ///< the same after the best change of basis of one of them
  aligned_cosine,  ///< 2 - <R K_h, K_k> / (|K_h| |K_k|) - the same of values: blind to size
  cka,             ///< 2 - CKA of keys - CKA of values (Kornblith et al. 2019, arXiv 1905.00414)
};

namespace detail {

/// Linear CKA, |<f_h, f_k^T>|_F^2 / (|<f_h, f_h^T>|_F |<f_k, f_k^T>|_F), not centred; 0 beside a head of 0.
inline double cka(const HeadProducts& f, Index h, Index k) {
  const auto squares = [&](Index a, Index b) {
    double sum = 0;
    for (Index i = 0; i < f.dim; ++i)
      for (Index j = 0; j < f.dim; ++j) sum += f(a, i, b, j) * f(a, i, b, j);
    return sum;
  };
  const double norms = std::sqrt(squares(h, h)) * std::sqrt(squares(k, k));
  return norms > 0 ? squares(h, k) / norms : 0;
}

/// The largest <R f_h, f_k> over the changes of basis that are allowed.
template <class Real>
double aligned_inner(const HeadProducts& f, Index h, Index k, const KeyBasis& basis) {
  const Matrix m = f.block(k, h);
  bool unique = true;
  const Matrix r = nearest_in<Real>(basis, m, unique);
  return dot(r.values().data(), m.values().data(), f.dim * f.dim);
}

inline double cosine(double inner, double squared_a, double squared_b) {
  const double norms = std::sqrt(std::max(squared_a, 0.0)) * std::sqrt(std::max(squared_b, 0.0));
  return norms > 0 ? inner / norms : 0;
}

}  // namespace detail

/// Distances of all pairs of KV heads, G x G, symmetric, none negative: what the clusterings of heads read.
/// `basis` matters for the aligned ones. Over the calibration's inputs where there is one, else of weights.
/// Throws as align_heads() does.
template <class Real = double>
Matrix head_distances(const Weights& weights, HeadDistance kind, const KeyBasis& basis,
                      const Calibration* calibration = nullptr) {
  weights.check();
  basis.check(weights.head_dim());
  if (calibration) calibration->check(weights.kv_inputs());
  const Index G = weights.num_kv_heads();
  Matrix distances(G, G);
  const auto add = [&](const detail::HeadProducts& f, const KeyBasis& changes) {
    for (Index h = 0; h < G; ++h)
      for (Index k = h + 1; k < G; ++k) {
        const double a = f.inner(h, h), b = f.inner(k, k);
        double distance = 0;
        switch (kind) {
          case HeadDistance::plain:
            distance = a + b - 2 * f.inner(h, k);
            break;
          case HeadDistance::aligned:
            distance = a + b - 2 * detail::aligned_inner<Real>(f, h, k, changes);
            break;
          case HeadDistance::aligned_cosine:
            distance = 1 - detail::cosine(detail::aligned_inner<Real>(f, h, k, changes), a, b);
            break;
          case HeadDistance::cka:
            distance = 1 - detail::cka(f, h, k);
            break;
        }
        distances(h, k) += std::max(distance, 0.0);
      }
  };
  add(detail::head_products<Real>({weights.wk, weights.bk, G}, calibration), basis);
  add(detail::head_products<Real>({weights.wv, weights.bv, G}, calibration), KeyBasis::unrestricted());
  for (Index h = 0; h < G; ++h)
    for (Index k = 0; k < h; ++k) distances(h, k) = distances(k, h);
  return distances;
}

}  // namespace gqa::convert
