// SPDX-License-Identifier: Apache-2.0
// What does not fit among the gradient's arguments: a line each that says what to write.
// errors: 8
// error: gqa: attention_backward takes q, k, v \(or a cache\), out, lse, d_out and gradients_into\(dq, dk,
// dv\) error: gqa: lse is missing: it comes after out, as attention\(\) wrote it to lse_into\(lse\) error:
// gqa: after d_out comes gradients_into\(dq, dk, dv\) error: gqa: d_out is no tensor as out is one error:
// gqa: the executor is a pointer: write attention_backward\(\*pool, q, k, v, ...\) error: gqa: v is an
// executor: what to run on comes first error: gqa: out is an Eigen expression: evaluate it into a tensor
// first error: gqa: a number after the tensors: write AttentionOptions\{.scale = scale\}
#include <gqa/gqa.hpp>

using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;
using Rows = Eigen::Tensor<float, 2, Eigen::RowMajor>;

void differentiate(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, Rows& lse,
                   const Tensor& d_out, Tensor& dq, Tensor& dk, Tensor& dv, gqa::KVCache<float>& cache,
                   Eigen::ThreadPool& pool) {
  const auto gradients = gqa::gradients_into(dq, dk, dv);
#ifdef BROKEN
  gqa::attention_backward(q, k, v, out, lse, d_out);
  gqa::attention_backward(q, k, v, out, gradients, d_out, lse);
  gqa::attention_backward(pool, q, k, v, out, lse, d_out, dq, dk, dv);
  gqa::attention_backward(q, cache, out, lse, 1.0f, gradients);
  gqa::attention_backward(&pool, q, k, v, out, lse, d_out, gradients);
  gqa::attention_backward(q, k, pool, v, out, lse, d_out, gradients);
  gqa::attention_backward(q, k, v, 2.0f * out, lse, d_out, gradients);
  gqa::attention_backward(q, k, v, out, lse, d_out, gradients, 0.5);
#else
  gqa::attention_backward(q, k, v, out, lse, d_out, gradients);
  gqa::attention_backward(pool, q, cache, out, lse, d_out, gradients, gqa::causal(),
                          gqa::AttentionOptions{.scale = 0.5});
#endif
}
