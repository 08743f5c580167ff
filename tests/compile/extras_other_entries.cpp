// SPDX-License-Identifier: Apache-2.0
// One of each kind for the other entries too. workspace_bytes writes no lse: one said to it would be said in
// vain.

// errors: 4
// error: gqa: more than one mask: write one
// error: gqa: more than one score function: write one
// error: gqa: more than one SinkLogits: write one
// error: gqa: workspace_bytes writes no lse, .* leave lse_into out
#include <gqa/gqa.hpp>

using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;
using Levels = std::vector<gqa::CascadeLevel<gqa::KVList<gqa::KVCache<float>::View>>>;

void attend(const Tensor& q, const Tensor& k, const Tensor& v, const gqa::Ragged<const float>& packed,
            const Levels& levels, Tensor& out, Eigen::Tensor<float, 2, Eigen::RowMajor>& lse,
            const gqa::SinkLogits& sinks) {
#ifdef BROKEN
  gqa::cascade_attention(packed, levels, out, gqa::causal(), gqa::chunked(8));
  gqa::attention_weights(q, k, v, {}, gqa::soft_cap(30), gqa::alibi(8));
  gqa::workspace_bytes(q, k, v, sinks, sinks);
  gqa::workspace_bytes(q, k, v, gqa::causal(), gqa::lse_into(lse));
#else
  gqa::cascade_attention(packed, levels, out, gqa::causal() & gqa::chunked(8), gqa::lse_into(lse));
  gqa::attention_weights(q, k, v, {}, gqa::soft_cap(30) | gqa::alibi(8), gqa::lse_into(lse));
  gqa::workspace_bytes(q, k, v, sinks, gqa::causal());
#endif
}
