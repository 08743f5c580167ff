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

/// What squares of errors cost in the layer's output.
struct OutputCosts {
  std::vector<double> keys;  ///< of each row of Wk, relative to each other
  double key_share = 1;      ///< of keys, where those of values cost 1, on the mean over rows
};

/// Of the cost of an error of keys, as output_costs() estimates it, what counts: most of it softmax takes
/// back, for all of a query's scores to err alike changes nothing, and few keys have much of its probability.
/// Measured for one latent of 128 elements a layer of SmolLM2-135M, 2,048 tokens: perplexity 25.6, with a
/// quarter of it 31.7, with keys and values as they are 26.8; of half the text 33.9, with four times it 35.3,
/// with all 48.6: one text, the best of about ten settings, so that some of the gain may be choice. Costs
/// that differ from row to row err less in layers' outputs, and gave 29.1 at best.
inline constexpr double counted_key_cost = 1.0 / 16;

/// An error e of a key is one of q e in the score of each query that reads it, hence of a probability: that
/// times as much as values vary, |Wo (v - E v)|. An error of a value costs what Wo makes of it.
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
  double of_values = 0;
  for (Index h = 0; h < H; ++h) {
    const Index g = w.heads.kv_head(h);
    double spread = 0;
    for (Index i = 0; i < Dv; ++i) {
      for (Index j = 0; j < Dv; ++j)
        spread += dot(columns.row(h * Dv + i), columns.row(h * Dv + j), columns.cols()) *
                  (values(g, i, g, j) -
                   means[static_cast<std::size_t>(g * Dv + i)] * means[static_cast<std::size_t>(g * Dv + j)]);
      const double* const column = columns.row(h * Dv + i);
      of_values += dot(column, column, columns.cols());
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
  const double most = *std::max_element(result.keys.begin(), result.keys.end());
  double of_keys = 0;
  for (double& x : result.keys) of_keys += x = most > 0 ? std::max(x, 1e-12 * most) : 1;
  if (most > 0 && of_values > 0)
    result.key_share = counted_key_cost * (of_keys / static_cast<double>(w.wk.rows())) /
                       (of_values / static_cast<double>(w.wv.rows()));
  return result;
}

}  // namespace gqa::convert::detail
