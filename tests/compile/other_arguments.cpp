// SPDX-License-Identifier: Apache-2.0
// What does not fit before and after the tensors: a line each that says what to write.
// errors: 14
// error: gqa: options in braces alone: write AttentionOptions\{.scale = scale, .workspace = &workspace\}
// error: gqa: the executor is a pointer: write attention\(\*pool, q, k, v\)
// error: gqa: an executor after the tensors: what to run on comes first
// error: gqa: k is an executor: what to run on comes first
// error: gqa: q is missing: write attention\(pool, q, k, v\)
// error: gqa: q is a mask, a score function or an option: they come after the tensors
// error: gqa: v is a mask, a score function or an option: they come after the tensors
// error: gqa: a tensor after the tensors: out comes right after k and v; write lse_into\(lse\), tensor_m
// error: gqa: a workspace is an option: write AttentionOptions\{.workspace = &workspace\}
// error: gqa: a number after the tensors: write AttentionOptions\{.scale = scale\}
// error: gqa: the name of a function after the tensors: write causal\(\) for causal
// error: gqa: a list after the tensors: write SinkLogits\(logits\)
// error: gqa: an argument after the tensors is no mask .*, score function .*, SinkLogits
#include <gqa/gqa.hpp>
#include <vector>

using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;
using Three = Eigen::array<Eigen::Index, 3>;

void attend(Tensor& q, Tensor& k, Tensor& v, Tensor& out, Eigen::Tensor<float, 2>& lse,
            Eigen::ThreadPool& pool, std::vector<float>& list, gqa::Workspace& workspace,
            gqa::KVCache<float>& cache) {
#ifdef BROKEN
  gqa::attention(q, k, v, out, gqa::causal(), {.scale = 0.5, .workspace = &workspace});
  gqa::attention(&pool, q, k, v);
  gqa::attention(q, cache, out, gqa::causal(), pool);
  gqa::attention(q, pool, cache);
  gqa::attention(pool);
  gqa::attention(gqa::causal(), q, k, v);
  gqa::attention(q, k, gqa::causal());
  gqa::attention(q, k, v, lse);
  gqa::attention(q, k, v, gqa::causal(), out);
  gqa::attention(q, k, v, gqa::causal(), workspace);
  gqa::attention(q, cache, 0.5);
  gqa::attention(q, cache, out, gqa::causal);
  gqa::attention(q, cache, list);
  gqa::attention(q, cache, [](gqa::Index position) { return position > 3; });
#else
  gqa::attention(pool, q, k, v, out, gqa::causal(),
                 gqa::AttentionOptions{.scale = 0.5, .workspace = &workspace});
  gqa::attention(pool, q, cache, gqa::lse_into(lse), gqa::SinkLogits(list));
  gqa::attention(q, cache, out, [](gqa::Index, gqa::Index kv_pos) { return kv_pos > 3; });
#endif
}
