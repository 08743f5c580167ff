// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "gqa/reference/attention.hpp"

namespace gqa::reference {

/// What the oracle's gradient needs beside a Problem: d_out, num_q_tokens x num_q_heads x value_dim, is the
/// loss's gradient by the output.
struct GradientProblem {
  Problem forward;
  std::span<const double> d_out = {};
  /// The derivative of `forward.modify` by the score; empty: 1.
  std::function<double(double score, Index q_head, Index q_pos, Index kv_pos)> derivative = {};
};

/// The loss's gradients by q, k and v, in their shapes; by each score that enters the softmax, num_q_tokens x
/// num_q_heads x num_kv_tokens; and by each sink logit.
struct Gradients {
  std::vector<double> dq, dk, dv, d_scores, d_sinks;
};

/// The gradient of attention() as its definition says, in double and one pair at a time. With t the scaled
/// score before `modify`, and sums over the pairs that see each other:
///
///     dv_j = sum_i p_ij do_i,   dp_ij = <do_i, v_j>,   ds_ij = p_ij (dp_ij - sum_n p_in dp_in)
///     dt_ij = ds_ij modify'(t_ij),   dq_i = scale sum_j dt_ij k_j,   dk_j = scale sum_i dt_ij q_i
///     d_sink = -sum_i p_i,sink sum_n p_in dp_in
///
/// K and V heads sum over the query heads that read them. A masked pair is never read.
inline Gradients attention_backward(const GradientProblem& problem) {
  const Problem& in = problem.forward;
  const auto [Sq, Sk, H, G, D, Dv] = std::array{in.num_q_tokens, in.num_kv_tokens, in.num_q_heads,
                                                in.num_kv_heads, in.head_dim,      in.value_dim};
  const auto zeros = [](Index n) { return std::vector<double>(static_cast<std::size_t>(n)); };
  const Solution solved = attention(in);
  Gradients result{zeros(Sq * H * D), zeros(Sk * G * D), zeros(Sk * G * Dv), zeros(Sq * H * Sk), zeros(H)};
  for (Index i = 0; i < Sq; ++i) {
    for (Index h = 0; h < H; ++h) {
      const Index g = in.kv_head_of ? in.kv_head_of(h) : h / (H / G);
      const Index q_pos = in.q_offset + i;
      const double* q = in.q.data() + (i * H + h) * D;
      const double* d_out = problem.d_out.data() + (i * H + h) * Dv;
      const double* p = solved.probabilities.data() + (i * H + h) * Sk;
      double* dq = result.dq.data() + (i * H + h) * D;
      double* ds = result.d_scores.data() + (i * H + h) * Sk;

      std::vector<Index> keys;  // those this row sees
      double mean = 0;          // of dp, weighted by p
      for (Index j = 0; j < Sk; ++j) {
        if (in.visible && !in.visible(h, q_pos, j)) continue;
        const double* v = in.v.data() + (j * G + g) * Dv;
        for (Index d = 0; d < Dv; ++d) ds[j] += gqa::detail::rounded(d_out[d] * v[d]);
        mean += gqa::detail::rounded(p[j] * ds[j]);
        keys.push_back(j);
      }
      if (!in.sink_logits.empty()) {
        const double lse = solved.lse[static_cast<std::size_t>(i * H + h)];
        const double sink = in.sink_logits[static_cast<std::size_t>(h)];
        const double p_sink = std::isinf(sink) ? 0 : std::exp(sink - lse);
        result.d_sinks[static_cast<std::size_t>(h)] -= gqa::detail::rounded(p_sink * mean);
      }
      for (Index j : keys) {
        ds[j] = p[j] * (ds[j] - mean);
        const double* k = in.k.data() + (j * G + g) * D;
        double slope = in.scale;
        if (problem.derivative) {
          double dot = 0;
          for (Index d = 0; d < D; ++d) dot += gqa::detail::rounded(q[d] * k[d]);
          slope *= problem.derivative(in.scale * dot, h, q_pos, j);
        }
        double* dk = result.dk.data() + (j * G + g) * D;
        double* dv = result.dv.data() + (j * G + g) * Dv;
        for (Index d = 0; d < D; ++d) {
          dq[d] += gqa::detail::rounded(slope * ds[j] * k[d]);
          dk[d] += gqa::detail::rounded(slope * ds[j] * q[d]);
        }
        for (Index d = 0; d < Dv; ++d) dv[d] += gqa::detail::rounded(p[j] * d_out[d]);
      }
    }
  }
  return result;
}

}  // namespace gqa::reference
