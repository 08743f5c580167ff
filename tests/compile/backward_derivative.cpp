// SPDX-License-Identifier: Apache-2.0
// A score function without a derivative has no gradient, and gradients of parameters are backward's alone.
// error: gqa: attention_backward needs the derivative of the score function: write score_fn\(f, derivative\)
// error: gqa: sink_gradient_into and score_gradient_into belong to attention_backward
// error: gqa: attention_backward reads lse, which comes after out: leave lse_into out
#include <gqa/gqa.hpp>

using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;
using Rows = Eigen::Tensor<float, 2, Eigen::RowMajor>;

void differentiate(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, Rows& lse,
                   const Tensor& d_out, Tensor& dq, Tensor& dk, Tensor& dv, std::vector<float>& d_score) {
  const auto square = [](double s, gqa::Index, gqa::Index, gqa::Index) { return s * s; };
  const auto slope = [](double s, gqa::Index, gqa::Index, gqa::Index) { return 2 * s; };
  const auto gradients = gqa::gradients_into(dq, dk, dv);
#ifdef BROKEN
  gqa::attention_backward(q, k, v, out, lse, d_out, gradients, square);
  gqa::attention_backward(q, k, v, out, lse, d_out, gradients, gqa::lse_into(lse));
  gqa::attention(q, k, v, gqa::soft_cap(30), gqa::score_gradient_into(d_score));
#else
  gqa::attention_backward(q, k, v, out, lse, d_out, gradients, gqa::score_fn(square, slope) | gqa::alibi(8));
  gqa::attention_backward<8, 2>(q, k, v, out, lse, d_out, gradients, gqa::causal());
  gqa::attention_backward(q, k, v, out, lse, d_out, gradients, gqa::soft_cap(30),
                          gqa::score_gradient_into(d_score));
#endif
}
