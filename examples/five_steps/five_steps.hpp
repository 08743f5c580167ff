// SPDX-License-Identifier: Apache-2.0
// Local and group-wise attention combined, in five steps: define the groups, attend globally by groups,
// attend locally, combine, apply. Each is one function.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <span>
#include <vector>

#include "gqa/gqa.hpp"

namespace five_steps {

using gqa::Index;

/// Queries, keys and values of one layer for a text, positions turned in: tokens x heads x dim.
struct Inputs {
  gqa::TensorView<const float> q, k, v;

  Index rows() const { return q.tokens * q.heads; }
};

/// Attention over some of the keys: a row for each token and query head.
struct Attended {
  std::vector<float> out;  ///< rows x value_dim
  std::vector<float> lse;  ///< how much weight those keys have, as a logarithm
};

/// Step 1: which query heads share a KV head.
inline gqa::HeadGrouping define_groups(const Inputs& in) {
  return gqa::HeadGrouping::contiguous(in.q.heads, in.k.heads);
}

template <class Mask>
Attended attend(const Inputs& in, const gqa::HeadGrouping& groups, const Mask& mask) {
  Attended result{std::vector<float>(static_cast<std::size_t>(in.rows() * in.v.dim)),
                  std::vector<float>(static_cast<std::size_t>(in.rows()))};
  gqa::attention(in.q, in.k, in.v,
                 gqa::TensorView<float>(result.out.data(), in.q.tokens, in.q.heads, in.v.dim), groups, mask,
                 gqa::lse_into(Eigen::TensorMap<Eigen::Tensor<float, 2, Eigen::RowMajor>>(
                     result.lse.data(), in.q.tokens, in.q.heads)));
  return result;
}

/// Step 2: what lies before the window. The heads of a group read each key together, so that the long part of
/// the text is read once a group.
inline Attended attend_globally(const Inputs& in, const gqa::HeadGrouping& groups, Index window) {
  return attend(in, groups, gqa::causal() & !gqa::window(window - 1, 0));
}

/// Step 3: the last `window` keys, a query's own included.
inline Attended attend_locally(const Inputs& in, const gqa::HeadGrouping& groups, Index window) {
  return attend(in, groups, gqa::sliding_window(window));
}

/// Step 4: one softmax over both. The keys are disjoint, so each part counts by the sum of its exponentials,
///
///     out = (e^{lse_g} out_g + e^{lse_l} out_l) / (e^{lse_g} + e^{lse_l}),   lse = ln(e^{lse_g} + e^{lse_l})
///
/// and the result is exact: nothing is averaged or tuned.
inline Attended combine(const Attended& global, const Attended& local) {
  const Index rows = static_cast<Index>(global.lse.size());
  const Index dim = rows == 0 ? 0 : static_cast<Index>(global.out.size()) / rows;
  gqa::OnlineSoftmax<float> state(rows, dim, global.out, global.lse);
  state.merge(gqa::OnlineSoftmax<float>(rows, dim, local.out, local.lse));
  return {state.output(), state.lse()};
}

/// Step 5: puts the result where the layer reads its attention from: tokens x heads x value_dim, packed.
inline void apply_to_layer(const Attended& combined, std::span<float> attention_of_layer) {
  std::copy(combined.out.begin(), combined.out.end(), attention_of_layer.begin());
}

/// What the steps must give: one softmax over all keys up to the query's own.
inline Attended one_shot(const Inputs& in) { return attend(in, define_groups(in), gqa::causal()); }

inline double max_difference(std::span<const float> a, std::span<const float> b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    largest = std::max(largest, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return largest;
}

}  // namespace five_steps
