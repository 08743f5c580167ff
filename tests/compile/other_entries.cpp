// SPDX-License-Identifier: Apache-2.0
// The same of the other entries.
// errors: 8
// error: gqa: q is an Eigen expression
// error: gqa: options in braces alone
// error: gqa: a number after the tensors
// error: gqa: q is not ragged: write ragged\(q, offsets\)
// error: gqa: out is const, and is to be written
// error: gqa: a tensor after the tensors
#include <gqa/gqa.hpp>
#include <vector>

using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;
using Three = Eigen::array<Eigen::Index, 3>;

using Levels = std::vector<gqa::CascadeLevel<gqa::KVCache<float>::View>>;

void attend(Tensor& q, Tensor& k, Tensor& v, Tensor& out, const Tensor& constant, Eigen::ThreadPool& pool,
            const Levels& levels, const gqa::Ragged<float>& packed, gqa::Workspace& workspace,
            gqa::KVCache<float>& cache) {
#ifdef BROKEN
  gqa::attention_weights(q * 2.f, k, v, {.tokens = {1}});
  gqa::attention_weights(q, k, v, {.tokens = {1}}, gqa::causal(), {.workspace = &workspace});
  gqa::attention_weights(q, cache, {.tokens = {1}}, 0.5);
  gqa::workspace_bytes(q, k, v, out);
  gqa::workspace_bytes(pool, q, k, v, {.workspace = &workspace});
  gqa::cascade_attention(pool, q, levels, out);
  gqa::cascade_attention(packed, levels, constant, gqa::causal());
  gqa::cascade_attention(packed, levels, out, {.scale = 2.0});
#else
  gqa::attention_weights(q, k, v, {.tokens = {1}}, gqa::causal(),
                         gqa::AttentionOptions{.workspace = &workspace});
  gqa::attention_weights(q, cache, {.tokens = {1}}, gqa::AttentionOptions{.scale = 0.5});
  gqa::workspace_bytes(q, k, v, gqa::AttentionOptions{.workspace = &workspace});
  gqa::workspace_bytes(pool, q, cache);
  gqa::cascade_attention(pool, packed, levels, out);
  gqa::cascade_attention(packed, levels, out, gqa::causal(), gqa::AttentionOptions{.scale = 2.0});
  static_cast<void>(constant);
#endif
}
