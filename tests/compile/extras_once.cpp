// SPDX-License-Identifier: Apache-2.0
// Of each kind of extra one at most: a second would have to be dropped.
// errors: 8
// error: gqa: more than one mask: write one, causal\(\) & document\(ids\)
// error: gqa: more than one score function: write one, alibi\(H\) \| soft_cap\(30\)
// error: gqa: more than one SinkLogits: write one
// error: gqa: more than one HeadGrouping: write one
// error: gqa: more than one AttentionOptions: write one, AttentionOptions\{.scale = scale
// error: gqa: more than one lse_into: write one
// error: gqa: a function that fits as a mask and as a score function: write mask_fn\(f\)
#include <gqa/gqa.hpp>

using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;

void attend(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<gqa::Index>& ids,
            Eigen::Tensor<float, 2, Eigen::RowMajor>& lse, const gqa::HeadGrouping& grouping) {
  const gqa::SinkLogits sinks({1.0, 2.0});
  const gqa::AttentionOptions options;
  const auto anything = [](auto...) { return true; };
  const auto mask = [](gqa::Index q_pos, gqa::Index kv_pos) { return q_pos == kv_pos; };
  const auto score = [](double s, gqa::Index, gqa::Index, gqa::Index) { return 2 * s; };
#ifdef BROKEN
  gqa::attention(q, k, v, gqa::causal(), gqa::document(ids));
  gqa::attention(q, k, v, mask, options, mask);
  gqa::attention(q, k, v, gqa::alibi(8), score);
  gqa::attention(q, k, v, sinks, gqa::causal(), sinks);
  gqa::attention(q, k, v, grouping, grouping);
  gqa::attention(q, k, v, options, gqa::AttentionOptions{.scale = 2.0});
  gqa::attention(q, k, v, gqa::lse_into(lse), gqa::lse_into(lse));
  gqa::attention(q, k, v, anything);
#else
  gqa::attention(q, k, v, gqa::lse_into(lse), sinks, grouping, gqa::causal() & gqa::document(ids), options,
                 gqa::alibi(8) | score);
  gqa::attention(q, k, v, gqa::causal() & mask);
  gqa::attention(q, k, v, gqa::mask_fn(anything));
#endif
}
