// SPDX-License-Identifier: Apache-2.0
// Attention of clusters of queries in place of queries: an approximation, which says how good it is.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

#include "gqa/attention.hpp"
#include "gqa/attention_weights.hpp"
#include "gqa/kernel/query_clusters.hpp"

namespace gqa {

struct ClusteredOptions {
  Index num_clusters;      ///< of each query head's queries; as many as queries or more: exact
  Index top_keys = 0;      ///< keys that each query attends to itself, those its cluster sees most of
  Index iterations = 10;   ///< of k-means, at most
  std::uint64_t seed = 0;  ///< of the queries that k-means begins with
  std::optional<double> scale = {};  ///< as in AttentionOptions
  bool measure_error = false;        ///< computes exact attention too, to tell the error
};

/// What an approximation took and how near it came. Multiply-adds count products of queries, keys and values.
struct ClusteredReport {
  double distortion = 0;                ///< mean squared distance of a query from its cluster's centre
  double multiply_adds = 0;             ///< of attention: centres, and top keys where there are any
  double clustering_multiply_adds = 0;  ///< of k-means
  double exact_multiply_adds = 0;       ///< what exact attention takes
  /// Where it was measured: |out - exact| / |exact| over all of out, and the largest difference.
  std::optional<double> relative_error, max_error;
};

namespace detail {

template <class Q>
void check_finite_queries(const Q& q) {
  for (Index b = 0; b < q.batch; ++b)
    for (Index i = 0; i < q.tokens; ++i)
      for (Index h = 0; h < q.heads; ++h)
        for (Index d = 0; d < q.dim; ++d) {
          const double x = static_cast<double>(q.at(b, i, h)[d]);
          GQA_CHECK(std::isfinite(x), std::invalid_argument,
                    "q: token " << i << " of head " << h << " holds " << x << ", expected finite numbers");
        }
}

/// The `count` keys of most weight, ascending. NaN, of keys that are, counts as most: sorting needs an order.
template <class Acc>
std::vector<Index> heaviest(const Acc* weights, Index keys, Index count) {
  std::vector<Index> order(static_cast<std::size_t>(keys));
  std::iota(order.begin(), order.end(), Index{0});
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [weights](Index i, Index j) {
    const Acc a = weights[i] == weights[i] ? weights[i] : 2, b = weights[j] == weights[j] ? weights[j] : 2;
    return a > b || (a == b && i < j);
  });
  order.resize(static_cast<std::size_t>(count));
  std::sort(order.begin(), order.end());
  return order;
}

/// What the queries of one cluster and head get: their own attention to the keys in `top`, of the mass that
/// the centre gives those, and the centre's output but for what it has of them.
template <class T, class Acc>
void attend_to_top_keys(TensorView<const T> q, TensorView<const T> k, TensorView<const T> v,
                        TensorView<T> out, const std::vector<Index>& members, const std::vector<Index>& top,
                        const Acc* weights, const T* centre_output, const AttentionOptions& how) {
  const auto size = static_cast<Index>(members.size()), count = static_cast<Index>(top.size());
  std::vector<T> own_q, top_k, top_v, own_out(static_cast<std::size_t>(size * v.dim));
  const auto append = [](std::vector<T>& to, const T* row, Index n) { to.insert(to.end(), row, row + n); };
  for (const Index i : members) append(own_q, q.at(0, i, 0), q.dim);
  std::vector<double> rest;
  for (Index d = 0; d < v.dim; ++d) rest.push_back(static_cast<double>(centre_output[d]));
  double mass = 0;
  for (const Index j : top) {
    append(top_k, k.at(0, j, 0), k.dim);
    append(top_v, v.at(0, j, 0), v.dim);
    const double p = static_cast<double>(weights[j]);
    mass += p;
    for (Index d = 0; d < v.dim; ++d)
      rest[static_cast<std::size_t>(d)] -= p * static_cast<double>(v.at(0, j, 0)[d]);
  }
  attention(
      TensorView<const T>(own_q.data(), size, 1, q.dim), TensorView<const T>(top_k.data(), count, 1, k.dim),
      TensorView<const T>(top_v.data(), count, 1, v.dim), TensorView<T>(own_out.data(), size, 1, v.dim), how);
  const T* own = own_out.data();
  for (const Index i : members)
    for (Index d = 0; d < v.dim; ++d, ++own)
      out.at(0, i, 0)[d] =
          rounded_to<T>(mass * static_cast<double>(*own) + rest[static_cast<std::size_t>(d)]);
}

/// Tells `report` how far `out` is from `exact`, which lies packed.
template <class T>
void measure(TensorView<const T> out, const std::vector<T>& exact, ClusteredReport& report) {
  double error = 0, norm = 0, largest = 0;
  const T* x = exact.data();
  for (Index b = 0; b < out.batch; ++b)
    for (Index i = 0; i < out.tokens; ++i)
      for (Index h = 0; h < out.heads; ++h)
        for (Index d = 0; d < out.dim; ++d, ++x) {
          const double expected = static_cast<double>(*x);
          const double difference = static_cast<double>(out.at(b, i, h)[d]) - expected;
          error += difference * difference;
          norm += expected * expected;
          largest = std::max(largest, std::abs(difference));
        }
  report.relative_error = norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
  report.max_error = largest;
}

/// One sequence of a batch, or one head of it.
template <class T>
TensorView<T> sequence_of(TensorView<T> all, Index b) {
  all.data = all.at(b, 0, 0);
  all.batch = 1;
  return all;
}
template <class T>
TensorView<T> head_of(TensorView<T> all, Index h) {
  all.data = all.at(0, 0, h);
  all.heads = 1;
  return all;
}

}  // namespace detail

inline namespace GQA_EIGEN_MEMORY {

/// Clustered attention (Vyas et al. 2020, arXiv 2007.04825): the queries of each head fall into clusters by
/// k-means, the centre of a cluster attends to all keys, and its queries get what it gets,
///
///     out[i, h] = softmax(scale * c K^T) V,  c the centre of the cluster of q[i, h].
///
/// With `top_keys` (the paper's improved variant) each query attends itself to the set T of keys that its
/// centre weighs most, and gets the centre's share of the others,
///
///     out[i, h] = m softmax(scale * q[i, h] K_T^T) V_T + sum_{j not in T} p_j v_j,
///     p = softmax(scale * c K^T),  m = sum_{j in T} p_j.
///
/// Exact, up to rounding, where there are as many clusters as different queries or as many top keys as keys.
/// Every query sees every key: there are no masks, and so no causal order, which clusters could not keep.
/// q is tokens x H x D, k and v tokens x G x D and Dv, out tokens x H x Dv, or batch first, of one type.
/// Pays where tokens are many and alike; k-means itself takes tokens x clusters x D multiply-adds a round.
///
/// Throws std::invalid_argument as attention() does, for options below 1 (`top_keys` below 0), and for a
/// query that is NaN or infinite, which would spread over its cluster; out unchanged.
template <Index H = Dynamic, Index G = Dynamic, TensorLike Q, TensorLike K, TensorLike V, OutputLike Out>
ClusteredReport clustered_attention(const Q& q, const K& k, const V& v, Out&& out,
                                    const ClusteredOptions& options) {
  using T = TensorScalar<Q>;
  static_assert(std::is_same_v<T, TensorScalar<K>> && std::is_same_v<T, TensorScalar<V>> &&
                    std::is_same_v<T, TensorScalar<Out>>,
                "gqa: clustered_attention takes q, k, v and out of one type");
  const TensorView<const T> qs = as_view(q), ks = as_view(k), vs = as_view(v);
  const TensorView<T> os = as_view(out);
  const Index n = qs.tokens, D = qs.dim, Dv = vs.dim, keys = ks.tokens;
  GQA_CHECK(options.num_clusters >= 1, std::invalid_argument,
            "num_clusters is " << options.num_clusters << ", expected at least 1");
  GQA_CHECK(options.top_keys >= 0, std::invalid_argument,
            "top_keys is " << options.top_keys << ", expected at least 0");
  GQA_CHECK(options.iterations >= 1, std::invalid_argument,
            "iterations is " << options.iterations << ", expected at least 1");
  const AttentionOptions how{.scale = options.scale};
  workspace_bytes<H, G>(qs, ks, vs, how);  // throws where attention() would, and computes nothing
  GQA_CHECK(os.batch == qs.batch && os.tokens == n && os.heads == qs.heads && os.dim == Dv,
            std::invalid_argument,
            "out: sizes are " << os.batch << " x " << os.tokens << " x " << os.heads << " x " << os.dim
                              << ", expected " << qs.batch << " x " << n << " x " << qs.heads << " x " << Dv);
  detail::check_finite_queries(qs);

  ClusteredReport report;
  const auto count = [](Index a, Index b, Index c) {
    return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
  };
  const double queries = count(qs.batch, n, qs.heads);
  report.exact_multiply_adds = queries * count(keys, D + Dv, 1);
  if (queries == 0) return report;
  const Index top = std::min(options.top_keys, keys), group = qs.heads / ks.heads;
  std::vector<T> exact;
  if (options.measure_error) {
    exact.resize(static_cast<std::size_t>(qs.batch * n * qs.heads * Dv));
    attention<H, G>(qs, ks, vs, TensorView<T>(exact.data(), qs.batch, n, qs.heads, Dv), how);
  }

  for (Index b = 0; b < qs.batch; ++b) {
    const auto q_b = detail::sequence_of(qs, b), k_b = detail::sequence_of(ks, b),
               v_b = detail::sequence_of(vs, b);
    const auto out_b = detail::sequence_of(os, b);
    std::vector<detail::QueryClusters> clusters;
    Index most = 0;
    for (Index h = 0; h < qs.heads; ++h) {
      std::vector<double> rows;
      for (Index i = 0; i < n; ++i)
        for (Index d = 0; d < D; ++d) rows.push_back(static_cast<double>(q_b.at(0, i, h)[d]));
      clusters.push_back(
          detail::cluster_queries(rows, n, options.num_clusters, options.iterations, options.seed));
      const auto size = static_cast<Index>(clusters.back().members.size());
      most = std::max(most, size);
      report.distortion += clusters.back().distortion / queries;
      report.clustering_multiply_adds += clusters.back().multiply_adds;
      report.multiply_adds += count(size, keys, D + Dv) + count(n, top, D + Dv);
    }

    // A token for each cluster; heads with fewer of them have zeros behind theirs.
    std::vector<T> centres(static_cast<std::size_t>(most * qs.heads * D), T(0));
    std::vector<T> outputs(static_cast<std::size_t>(most * qs.heads * Dv));
    const TensorView<T> c_view(centres.data(), most, qs.heads, D), o_view(outputs.data(), most, qs.heads, Dv);
    for (Index h = 0; h < qs.heads; ++h) {
      const auto& own = clusters[static_cast<std::size_t>(h)].centres;
      for (std::size_t i = 0; i < own.size(); ++i)
        c_view.at(0, static_cast<Index>(i) / D, h)[static_cast<Index>(i) % D] = rounded_to<T>(own[i]);
    }
    attention<H, G>(c_view, k_b, v_b, o_view, how);
    if (top == 0) {
      for (Index h = 0; h < qs.heads; ++h)
        for (Index i = 0; i < n; ++i) {
          const Index c = clusters[static_cast<std::size_t>(h)].cluster_of[static_cast<std::size_t>(i)];
          std::copy_n(o_view.at(0, c, h), Dv, out_b.at(0, i, h));
        }
      continue;
    }
    const auto weights = attention_weights<H, G, Accumulator<T>>(c_view, k_b, v_b, WeightRows{}, how);
    for (Index h = 0; h < qs.heads; ++h) {
      const auto& members = clusters[static_cast<std::size_t>(h)].members;
      for (Index c = 0; c < static_cast<Index>(members.size()); ++c) {
        const auto* const p = weights.data() + (c * qs.heads + h) * keys;
        detail::attend_to_top_keys<T>(detail::head_of(q_b, h), detail::head_of(k_b, h / group),
                                      detail::head_of(v_b, h / group), detail::head_of(out_b, h),
                                      members[static_cast<std::size_t>(c)], detail::heaviest(p, keys, top), p,
                                      o_view.at(0, c, h), how);
      }
    }
  }
  if (options.measure_error) detail::measure<T>(os, exact, report);
  return report;
}

}  // namespace GQA_EIGEN_MEMORY

}  // namespace gqa
