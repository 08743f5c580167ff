// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "gqa/convert/head_products.hpp"
#include "gqa/convert/weights.hpp"
#include "gqa/position/rope.hpp"

namespace gqa::convert::detail {

/// The two elements of pair i.
inline std::pair<Index, Index> rotated_pair(const Rope& rope, Index i) {
  if (rope.config().layout == RopeLayout::half) return {i, i + rope.pairs()};
  return {2 * i, 2 * i + 1};
}

/// What the square of an error costs, of each row of Wk and Wv.
struct OutputCosts {
  std::vector<double> keys, values;
};

/// What errors cost in squares of the layer's output. A value's element costs what Wo makes of it. An error e
/// of a key is one of q e in the score of each query that reads it, hence of the probability's share in the
/// output: that times as much as values vary, |Wo (v - E v)|.
template <class Real>
OutputCosts output_costs(const Weights& w, const std::optional<Rope>& rope, double scale,
                         const Calibration* calibration) {
  const Index H = w.num_q_heads(), D = w.head_dim(), Dv = w.value_dim();
  const auto queries = squared_norms<Real>({w.wq, w.bq, w.wq.rows()}, calibration);
  const std::vector<double> no_bias;
  const HeadProducts values = head_products<Real>({w.wv, no_bias, w.num_kv_heads()}, calibration);
  std::vector<double> means(static_cast<std::size_t>(w.wv.rows()));
  if (calibration) {
    const auto mean = calibration->mean();
    for (Index r = 0; r < w.wv.rows(); ++r)
      means[static_cast<std::size_t>(r)] = dot(w.wv.row(r), mean.data(), w.wv.cols());
  }
  Matrix columns(w.wo.cols(), w.wo.rows());
  for (Index r = 0; r < columns.rows(); ++r)
    for (Index c = 0; c < columns.cols(); ++c) columns(r, c) = w.wo(c, r);
  const double gain = rope ? rope->attention_factor() : 1;
  const Index pairs = rope ? rope->pairs() : 0;
  OutputCosts result;
  result.keys.assign(static_cast<std::size_t>(w.wk.rows()), 0.0);
  result.values.assign(static_cast<std::size_t>(w.wv.rows()), 0.0);
  for (Index h = 0; h < H; ++h) {
    const Index g = w.heads.kv_head(h);
    double spread = 0;
    for (Index i = 0; i < Dv; ++i) {
      for (Index j = 0; j < Dv; ++j)
        spread += dot(columns.row(h * Dv + i), columns.row(h * Dv + j), columns.cols()) *
                  (values(g, i, g, j) -
                   means[static_cast<std::size_t>(g * Dv + i)] * means[static_cast<std::size_t>(g * Dv + j)]);
      const double* const column = columns.row(h * Dv + i);
      result.values[static_cast<std::size_t>(g * Dv + i)] += dot(column, column, columns.cols());
    }
    const double cost = scale * scale * std::max(spread, 0.0);
    const auto query = [&](Index e) { return queries[static_cast<std::size_t>(h * D + e)]; };
    const auto key = [&](Index e) -> double& { return result.keys[static_cast<std::size_t>(g * D + e)]; };
    for (Index e = 2 * pairs; e < D; ++e) key(e) += cost * query(e);
    for (Index i = 0; i < pairs; ++i) {
      const auto [a, b] = rotated_pair(*rope, i);
      const double both = cost * std::pow(gain, 4) * (query(a) + query(b)) / 2;
      key(a) += both;
      key(b) += both;
    }
  }
  // Nothing costs nothing: what no query looks at would else be divided by 0.
  const auto floor = [](std::vector<double>& costs) {
    const double most = *std::max_element(costs.begin(), costs.end());
    for (double& x : costs) x = most > 0 ? std::max(x, 1e-12 * most) : 1;
  };
  floor(result.keys);
  floor(result.values);
  return result;
}

}  // namespace gqa::convert::detail
