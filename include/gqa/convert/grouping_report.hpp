// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <vector>

#include "gqa/convert/merge.hpp"
#include "gqa/convert/similarity.hpp"

namespace gqa::convert {

/// How alike heads are, how they are grouped, and what is lost where each group becomes one head.
struct GroupingReport {
  HeadGrouping grouping;
  /// Of all pairs of heads: the mean of the cosines of their keys and of their values, as they are and after
  /// the change of basis that makes them most alike. G x G, within [-1, 1].
  Matrix similarity_before, similarity_after;
  /// Of each group: the error of the mean as a share of the group's squared norm, keys and values together,
  /// from 0 (all alike) to 1 (nothing in common); and the same after alignment.
  std::vector<double> divergence_before = {}, divergence_after = {};
  /// The effective rank of all heads' keys and values before and after they are joined by the aligned mean:
  /// e to the entropy of the singular values as shares of their sum (Roy and Vetterli 2007).
  double key_rank_before = 0, key_rank_after = 0, value_rank_before = 0, value_rank_after = 0;
  CacheCost cache_before = {}, cache_after = {};
};

namespace detail {

template <class Real>
double effective_rank(const HeadFunctions& f, const Calibration* calibration) {
  auto values = Algebra<Real>::symmetric_eigen(head_products<Real>(f, calibration).all).values;
  double sum = 0, entropy = 0;
  for (double& x : values) sum += x = std::sqrt(std::max(x, 0.0));
  for (const double x : values)
    if (x > 0) entropy -= x / sum * std::log(x / sum);
  return sum > 0 ? std::exp(entropy) : 0;
}

inline std::vector<double> divergences(const Report& report, const HeadGrouping& grouping) {
  const auto groups = static_cast<std::size_t>(grouping.num_kv_heads());
  std::vector<double> errors(groups), energies(groups);
  for (Index h = 0; h < grouping.num_q_heads(); ++h)
    for (const HeadReport* side : {&report.keys, &report.values}) {
      const auto g = static_cast<std::size_t>(grouping.kv_head(h)), i = static_cast<std::size_t>(h);
      errors[g] += side->errors[i];
      energies[g] += side->norms[i] * side->norms[i];
    }
  for (std::size_t g = 0; g < groups; ++g) errors[g] = energies[g] > 0 ? errors[g] / energies[g] : 0;
  return errors;
}

}  // namespace detail

/// The report of one grouping of the KV heads of `weights`. Throws as align_heads() does.
template <class Real = double>
GroupingReport grouping_report(const Weights& weights, const HeadGrouping& grouping, const KeyBasis& basis,
                               const Calibration* calibration = nullptr) {
  const auto before = merge_heads<Real>(weights, grouping, Method::mean(), {.calibration = calibration});
  const auto after =
      merge_heads<Real>(weights, grouping, Method::aligned_mean(basis), {.calibration = calibration});
  const Index G = weights.num_kv_heads(), groups = grouping.num_kv_heads();
  GroupingReport report{
      .grouping = grouping, .similarity_before = Matrix(G, G), .similarity_after = Matrix(G, G)};
  const auto add = [&](const detail::HeadFunctions& heads, const KeyBasis& changes) {
    const auto f = detail::head_products<Real>(heads, calibration);
    for (Index h = 0; h < G; ++h)
      for (Index k = h; k < G; ++k) {  // an alignment is a decomposition: once a pair
        const double a = f.inner(h, h), b = f.inner(k, k);
        report.similarity_before(h, k) += detail::cosine(f.inner(h, k), a, b) / 2;
        report.similarity_after(h, k) +=
            detail::cosine(detail::aligned_inner<Real>(f, h, k, changes), a, b) / 2;
      }
  };
  add({weights.wk, weights.bk, G}, basis);
  add({weights.wv, weights.bv, G}, KeyBasis::unrestricted());
  for (Matrix* m : {&report.similarity_before, &report.similarity_after})
    for (Index h = 0; h < G; ++h)
      for (Index k = 0; k < h; ++k) (*m)(h, k) = (*m)(k, h);
  report.divergence_before = detail::divergences(before.report, grouping);
  report.divergence_after = detail::divergences(after.report, grouping);
  const Weights& joined = after.weights;
  report.key_rank_before = detail::effective_rank<Real>({weights.wk, weights.bk, G}, calibration);
  report.key_rank_after = detail::effective_rank<Real>({joined.wk, joined.bk, groups}, calibration);
  report.value_rank_before = detail::effective_rank<Real>({weights.wv, weights.bv, G}, calibration);
  report.value_rank_after = detail::effective_rank<Real>({joined.wv, joined.bv, groups}, calibration);
  report.cache_before = weights.cache();
  report.cache_after = joined.cache();
  return report;
}

}  // namespace gqa::convert
