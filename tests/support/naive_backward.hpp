// SPDX-License-Identifier: Apache-2.0
// The gradient of attention as one would first write it in a dtype, and the error a kernel is allowed: twice
// that of this.
#pragma once

#include "gqa/reference/attention_backward.hpp"
#include "support/naive.hpp"

namespace gqa::test {

/// The problem computed in T: inputs, outputs, probabilities and gradients of scores are stored in T, each
/// product is summed in Accumulator<T>, one by one, from last to first.
template <Scalar T>
reference::Gradients naive_backward(const reference::GradientProblem& problem) {
  using Acc = Accumulator<T>;
  const reference::Problem& in = problem.forward;
  const auto acc = [](double x) { return static_cast<Acc>(x); };
  const auto stored = [](Acc x) { return static_cast<Acc>(static_cast<T>(x)); };
  const Index Sk = in.num_kv_tokens, H = in.num_q_heads, G = in.num_kv_heads, D = in.head_dim,
              Dv = in.value_dim, rows = in.num_q_tokens * H;
  const reference::Solution solved = naive_attention<T>(in);
  const auto zeros = [](Index n) { return std::vector<Acc>(static_cast<std::size_t>(n)); };
  auto dq = zeros(rows * D), dk = zeros(Sk * G * D), dv = zeros(Sk * G * Dv), sinks = zeros(H);
  for (Index row = rows - 1; row >= 0; --row) {
    const Index h = row % H, g = in.kv_head_of ? in.kv_head_of(h) : h / (H / G);
    const Index q_pos = in.q_offset + row / H;
    const double* q = in.q.data() + row * D;
    const double* d_out = problem.d_out.data() + row * Dv;
    const Acc lse = acc(solved.lse[static_cast<std::size_t>(row)]);
    Acc delta = 0;
    for (Index d = Dv - 1; d >= 0; --d)
      delta += acc(d_out[d]) * acc(solved.out[static_cast<std::size_t>(row * Dv + d)]);
    if (!in.sink_logits.empty() && std::isfinite(in.sink_logits[static_cast<std::size_t>(h)]))
      sinks[static_cast<std::size_t>(h)] -=
          std::exp(acc(in.sink_logits[static_cast<std::size_t>(h)]) - lse) * delta;
    for (Index j = Sk - 1; j >= 0; --j) {
      if (in.visible && !in.visible(h, q_pos, j)) continue;
      const double* k = in.k.data() + (j * G + g) * D;
      const double* v = in.v.data() + (j * G + g) * Dv;
      Acc dot = 0, dp = 0;
      for (Index d = D - 1; d >= 0; --d) dot += acc(q[d]) * acc(k[d]);
      for (Index d = Dv - 1; d >= 0; --d) dp += acc(d_out[d]) * acc(v[d]);
      Acc score = stored(dot * acc(in.scale)), slope = 1;
      if (problem.derivative) slope = acc(problem.derivative(static_cast<double>(score), h, q_pos, j));
      if (in.modify) score = stored(acc(in.modify(static_cast<double>(score), h, q_pos, j)));
      const Acc p = stored(std::exp(score - lse)), ds = stored(p * (dp - delta) * slope);
      for (Index d = 0; d < D; ++d) {
        dq[static_cast<std::size_t>(row * D + d)] += ds * acc(in.scale) * acc(k[d]);
        dk[static_cast<std::size_t>((j * G + g) * D + d)] += ds * acc(in.scale) * acc(q[d]);
      }
      for (Index d = 0; d < Dv; ++d) dv[static_cast<std::size_t>((j * G + g) * Dv + d)] += p * acc(d_out[d]);
    }
  }
  const auto wide = [&](const std::vector<Acc>& x) {
    std::vector<double> y;
    for (Acc value : x) y.push_back(static_cast<double>(value));
    return y;
  };
  return {wide(dq), wide(dk), wide(dv), {}, wide(sinks)};
}

/// The root of the mean square of differences, infinite where one is NaN and the other is not.
template <class Out>
double mean_error(std::span<const Out> a, const std::vector<double>& b) {
  if (!std::isfinite(max_error<Out, double>(a, b))) return std::numeric_limits<double>::infinity();
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (const double x = static_cast<double>(a[i]); x == x) sum += (x - b[i]) * (x - b[i]);
  return std::sqrt(sum / std::max<double>(1, static_cast<double>(a.size())));
}

/// Whether one gradient is at most twice as far from the oracle's as a naive run's: all of it together, as
/// the furthest of a few sums is a matter of chance, which may be four times as far. On top comes what no
/// kernel can avoid: rounding what is stored in `Out`, and sums that cancel, where a naive run that takes
/// them in the oracle's order may have no error at all: `terms` of them, each rounded in the accumulator.
template <Scalar T, class Out>
::testing::AssertionResult gradient_within_naive_error(const char* what, std::span<const Out> gradient,
                                                       const std::vector<double>& exact,
                                                       const std::vector<double>& naive, double terms) {
  using detail::unit_roundoff;
  const double floor =
      unit_roundoff<Out>() * detail::largest(exact) + unit_roundoff<Accumulator<T>>() * terms;
  const double mean = mean_error<double>(naive, exact), worst = max_error<double, double>(naive, exact);
  const auto all = detail::judge(what, mean_error<Out>(gradient, exact), mean, floor);
  if (!all) return all;
  return detail::judge(what, max_error<Out, double>(gradient, exact), 4 * worst, 4 * floor);
}

}  // namespace gqa::test
