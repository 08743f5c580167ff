// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gqa/convert/align.hpp"
#include "gqa/convert/method.hpp"
#include "gqa/convert/report.hpp"
#include "gqa/core/random.hpp"

namespace gqa::convert {

struct MergeOptions {
  const Calibration* calibration = nullptr;  ///< of the layer's inputs; the weights alone where there is none
  /// Multiplies each new head so that its norm is the mean of those it was made of: a mean of heads that
  /// disagree is short, and its scores are flat.
  bool keep_norms = false;
};

/// Weights with fewer KV heads, which `weights.heads` maps query heads to, and what that cost.
struct Merged {
  Weights weights;
  Report report;
};

namespace detail {

/// One side of a conversion, the keys or the values: the heads there are and those they become.
struct Side {
  Matrix weights;
  std::vector<double> bias;
};

inline double* bias_at(std::vector<double>& bias, Index row) { return bias.data() + row; }

/// Copies head `from` of `source` to head `to` of `target`.
inline void copy_head(const HeadFunctions& source, Index from, Index to, Side& target) {
  const Index dim = source.dim(), inputs = source.weights.cols();
  std::copy_n(source.weights.row(from * dim), dim * inputs, target.weights.row(to * dim));
  if (!source.bias.empty())
    std::copy_n(source.bias.begin() + from * dim, dim, target.bias.begin() + to * dim);
}

/// The mean, as x_0 + (sum of x_h - x_0) / n: exactly x_0 where all are alike.
inline void mean_head(const HeadFunctions& source, const std::vector<Index>& members, Index to,
                      Side& target) {
  const Index dim = source.dim(), inputs = source.weights.cols();
  const auto n = static_cast<double>(members.size());
  const auto mean = [&](const double* x, Index head_size, Index i) {
    const double first = x[members.front() * head_size + i];
    double sum = 0;
    for (Index h : members) sum += x[h * head_size + i] - first;
    return first + sum / n;
  };
  for (Index i = 0; i < dim * inputs; ++i)
    target.weights.row(to * dim)[i] = mean(source.weights.values().data(), dim * inputs, i);
  if (!source.bias.empty())
    for (Index i = 0; i < dim; ++i)
      target.bias[static_cast<std::size_t>(to * dim + i)] = mean(source.bias.data(), dim, i);
}

/// The sum of the members, each element times its factor.
inline void weighted_head(const HeadFunctions& source, const std::vector<Index>& members, Index to,
                          HeadWeights::Along along, const std::vector<double>& factors, Side& target) {
  const Index dim = source.dim(), inputs = source.weights.cols();
  const auto factor = [&](Index h, Index i, Index c) {
    const Index at = along == HeadWeights::Along::heads  ? h
                     : along == HeadWeights::Along::rows ? h * dim + i
                                                         : h * inputs + c;
    return factors[static_cast<std::size_t>(at)];
  };
  for (Index h : members)
    for (Index i = 0; i < dim; ++i) {
      for (Index c = 0; c < inputs; ++c)
        target.weights(to * dim + i, c) += factor(h, i, c) * source.weights(h * dim + i, c);
      if (!source.bias.empty())
        target.bias[static_cast<std::size_t>(to * dim + i)] += factor(h, i, 0) * source.bias_of(h * dim + i);
    }
}

inline void check_factors(const char* name, const HeadFunctions& source, HeadWeights::Along along,
                          const std::vector<double>& factors) {
  const Index each = along == HeadWeights::Along::heads  ? 1
                     : along == HeadWeights::Along::rows ? source.dim()
                                                         : source.weights.cols();
  GQA_CHECK(static_cast<Index>(factors.size()) == source.heads * each, std::invalid_argument,
            name << ": size is " << factors.size() << ", expected " << source.heads << " heads x " << each);
  GQA_CHECK(along != HeadWeights::Along::columns || source.bias.empty(), std::invalid_argument,
            name << ": factors of columns say nothing of a bias; expected those of heads or rows");
  check_finite(factors, name);
}

/// Draws heads anew: uniform in +-sqrt(3) times the root mean square of the source's weights.
inline void random_heads(const HeadFunctions& source, gqa::detail::Random& random, Side& target) {
  const auto& x = source.weights.values();
  double squares = 0;
  for (double value : x) squares += value * value;
  const double bound = std::sqrt(3 * squares / static_cast<double>(x.size()));
  for (double& value : target.weights.values()) value = bound * (2 * random.uniform() - 1);
}

/// What each head of the source lost, against the head it is read from now.
template <class Real>
HeadReport head_report(const HeadFunctions& before, const HeadFunctions& after, const HeadGrouping& grouping,
                       const Calibration* calibration) {
  const Index dim = before.dim(), inputs = before.weights.cols();
  Matrix difference = before.weights;
  std::vector<double> bias_difference = before.bias;
  for (Index h = 0; h < before.heads; ++h)
    for (Index i = 0; i < dim; ++i) {
      const Index from = h * dim + i, to = grouping.kv_head(h) * dim + i;
      for (Index c = 0; c < inputs; ++c) difference(from, c) -= after.weights(to, c);
      if (!before.bias.empty()) bias_difference[static_cast<std::size_t>(from)] -= after.bias_of(to);
    }
  HeadReport report;
  report.errors = squared_norms<Real>({difference, bias_difference, before.heads}, calibration);
  report.norms = norms<Real>(before, calibration);
  report.new_norms = norms<Real>(after, calibration);
  return report;
}

/// Multiplies each new head so that its norm is the mean of its members'. One of norm 0 stays.
inline void restore_norms(const HeadReport& report, const HeadGrouping& grouping, Side& side) {
  const auto members = members_of(grouping);
  const Index inputs = side.weights.cols();
  const Index dim = side.weights.rows() / grouping.num_kv_heads();
  for (Index g = 0; g < grouping.num_kv_heads(); ++g) {
    const auto& group = members[static_cast<std::size_t>(g)];
    double sum = 0;
    for (Index h : group) sum += report.norms[static_cast<std::size_t>(h)];
    const double norm = report.new_norms[static_cast<std::size_t>(g)];
    if (group.size() < 2 || !(norm > 0)) continue;
    const double factor = sum / static_cast<double>(group.size()) / norm;
    for (Index i = 0; i < dim * inputs; ++i) side.weights.row(g * dim)[i] *= factor;
    if (!side.bias.empty())
      for (Index i = 0; i < dim; ++i) side.bias[static_cast<std::size_t>(g * dim + i)] *= factor;
  }
}

/// For each group, the member that is nearest to the others.
inline std::vector<Index> medoids(const HeadProducts& keys, const HeadProducts& values,
                                  const std::vector<std::vector<Index>>& members) {
  std::vector<Index> chosen;
  for (const auto& group : members) {
    Index best = group.front();
    double least = std::numeric_limits<double>::infinity();
    for (Index h : group) {
      double sum = 0;
      for (Index k : group)
        for (const HeadProducts* f : {&keys, &values})
          sum += f->inner(h, h) + f->inner(k, k) - 2 * f->inner(h, k);
      if (sum < least) best = h, least = sum;
    }
    chosen.push_back(best);
  }
  return chosen;
}

}  // namespace detail

/// Joins the KV heads of each group to one, by `method`: Wk, Wv and their biases get fewer heads, and query
/// heads read the group of the head they read. `grouping` maps the KV heads of `weights` to groups of any
/// sizes; the source may be grouped-query attention already. Wq, bq and Wo stay as they are but for
/// aligned_mean, which turns their bases. A group of one head keeps its bits, but for random.
///
/// The pooling of projections is that of keys: all heads are rotated alike, so sum_h w_h R(p) Wk_h x =
/// R(p) (sum_h w_h Wk_h) x. Where a QK-norm stands between, that is an approximation.
///
/// Throws std::invalid_argument naming what does not fit: sizes of weights, grouping, factors or calibration,
/// a group without heads, NaN or infinity.
template <class Real = double>
Merged merge_heads(const Weights& source, const HeadGrouping& grouping, const Method& method,
                   const MergeOptions& options = {}) {
  using detail::HeadFunctions;
  using detail::Side;
  source.check();
  detail::check_grouping(source, grouping);
  const Calibration* const calibration = options.calibration;
  if (calibration) calibration->check(source.kv_inputs());
  const Index G = source.num_kv_heads(), groups = grouping.num_kv_heads(), inputs = source.kv_inputs();
  const Index D = source.head_dim(), Dv = source.value_dim();
  const auto members = detail::members_of(grouping);

  Report report;
  Weights w = source;
  if (method.kind() == Method::Kind::aligned_mean) {
    Aligned aligned = align_heads<Real>(source, grouping, method.basis(), calibration);
    w = std::move(aligned.weights);
    report.ambiguous_keys = aligned.ambiguous_keys;
    report.ambiguous_values = aligned.ambiguous_values;
  }
  const HeadFunctions keys{w.wk, w.bk, G}, values{w.wv, w.bv, G};
  const auto side = [&](const HeadFunctions& from) {
    return Side{Matrix(groups * from.dim(), inputs),
                std::vector<double>(from.bias.empty() ? 0 : static_cast<std::size_t>(groups * from.dim()))};
  };
  Side new_keys = side(keys), new_values = side(values);

  switch (method.kind()) {
    case Method::Kind::mean:
    case Method::Kind::aligned_mean:
      for (Index g = 0; g < groups; ++g) {
        detail::mean_head(keys, members[static_cast<std::size_t>(g)], g, new_keys);
        detail::mean_head(values, members[static_cast<std::size_t>(g)], g, new_values);
      }
      break;
    case Method::Kind::first:
    case Method::Kind::medoid: {
      std::vector<Index> chosen;
      if (method.kind() == Method::Kind::medoid)
        chosen = detail::medoids(detail::head_products<Real>(keys, calibration),
                                 detail::head_products<Real>(values, calibration), members);
      else
        for (const auto& group : members) chosen.push_back(group.front());
      for (Index g = 0; g < groups; ++g) {
        detail::copy_head(keys, chosen[static_cast<std::size_t>(g)], g, new_keys);
        detail::copy_head(values, chosen[static_cast<std::size_t>(g)], g, new_values);
      }
      break;
    }
    case Method::Kind::random: {
      gqa::detail::Random random(method.seed());
      detail::random_heads(keys, random, new_keys);
      detail::random_heads(values, random, new_values);
      break;
    }
    case Method::Kind::weighted: {
      const HeadWeights& factors = method.weights();
      detail::check_factors("weights of keys", keys, factors.along, factors.keys);
      detail::check_factors("weights of values", values, factors.along, factors.values);
      for (Index g = 0; g < groups; ++g) {
        const auto& group = members[static_cast<std::size_t>(g)];
        detail::weighted_head(keys, group, g, factors.along, factors.keys, new_keys);
        detail::weighted_head(values, group, g, factors.along, factors.values, new_values);
      }
      break;
    }
  }

  const auto told = [&](const HeadFunctions& before, const Side& after) {
    return detail::head_report<Real>(before, {after.weights, after.bias, groups}, grouping, calibration);
  };
  report.keys = told(keys, new_keys);
  report.values = told(values, new_values);
  if (options.keep_norms) {
    detail::restore_norms(report.keys, grouping, new_keys);
    detail::restore_norms(report.values, grouping, new_values);
    report.keys = told(keys, new_keys);
    report.values = told(values, new_values);
  }
  report.cache_before = source.cache();
  report.cache_after = {groups * (D + Dv)};

  std::vector<Index> map;
  for (Index h = 0; h < source.num_q_heads(); ++h) map.push_back(grouping.kv_head(source.heads.kv_head(h)));
  w.wk = std::move(new_keys.weights);
  w.bk = std::move(new_keys.bias);
  w.wv = std::move(new_values.weights);
  w.bv = std::move(new_values.bias);
  w.heads = HeadGrouping(std::move(map), groups);
  return {std::move(w), std::move(report)};
}

}  // namespace gqa::convert
