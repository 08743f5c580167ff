// SPDX-License-Identifier: Apache-2.0
// The oracle's gradient against central differences of the oracle itself, and against cases worked out by
// hand.
#include "gqa/reference/attention_backward.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/attention_case.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::random_values;
using test::Sizes;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double inf = std::numeric_limits<double>::infinity();

/// A loss <d_out, out> and its gradients by the numbers of q, k, v and the sinks.
struct Case {
  std::vector<double> q, k, v, sinks, d_out;
  reference::GradientProblem problem;

  explicit Case(const Sizes& s, std::uint64_t seed)
      : q(random_values<double>(5 * seed, s.num_q_tokens * s.num_q_heads * s.head_dim)),
        k(random_values<double>(5 * seed + 1, s.num_kv_tokens * s.num_kv_heads * s.head_dim)),
        v(random_values<double>(5 * seed + 2, s.num_kv_tokens * s.num_kv_heads * s.value_dim)),
        d_out(random_values<double>(5 * seed + 3, s.num_q_tokens * s.num_q_heads * s.value_dim)) {
    problem.forward = {.num_q_tokens = s.num_q_tokens,
                       .num_kv_tokens = s.num_kv_tokens,
                       .num_q_heads = s.num_q_heads,
                       .num_kv_heads = s.num_kv_heads,
                       .head_dim = s.head_dim,
                       .value_dim = s.value_dim,
                       .q = q,
                       .k = k,
                       .v = v};
    problem.d_out = d_out;
  }
  Case(const Case&) = delete;

  double loss() const {
    const auto out = reference::attention(problem.forward).out;
    double sum = 0;
    for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * d_out[i];
    return sum;
  }

  /// Central differences by x. Truncation is h^2 f'''/6 and rounding u |f| / h: both near 1e-10 here.
  void expect_differences(const char* name, std::vector<double>& x, const std::vector<double>& gradient) {
    ASSERT_EQ(x.size(), gradient.size()) << name;
    constexpr double h = 1e-5;
    double largest = 0;
    for (double g : gradient) largest = std::max(largest, std::abs(g));
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double at = x[i];
      x[i] = at + h;
      const double up = loss();
      x[i] = at - h;
      const double down = loss();
      x[i] = at;
      EXPECT_NEAR(gradient[i], (up - down) / (2 * h), 1e-6 * largest) << name << "[" << i << "]";
    }
  }
  void expect_differences() {
    const auto g = reference::attention_backward(problem);
    expect_differences("dq", q, g.dq);
    expect_differences("dk", k, g.dk);
    expect_differences("dv", v, g.dv);
    if (!sinks.empty()) expect_differences("sinks", sinks, g.d_sinks);
  }
};

TEST(ReferenceBackward, TwoKeysByHand) {
  // Weights 1/4 and 3/4 (attention_test.cpp), dp = 10 and 20, mean 17.5: ds = -1.875 and 1.875.
  const double q[] = {1}, k[] = {0, std::log(3)}, v[] = {10, 20}, d_out[] = {1};
  const auto g = reference::attention_backward(
      {.forward = {.num_q_tokens = 1, .num_kv_tokens = 2, .q = q, .k = k, .v = v}, .d_out = d_out});
  EXPECT_NEAR(g.dv[0], 0.25, 1e-15);
  EXPECT_NEAR(g.dv[1], 0.75, 1e-15);
  EXPECT_NEAR(g.d_scores[1], 1.875, 1e-14);
  EXPECT_NEAR(g.dk[0], -1.875, 1e-14);
  EXPECT_NEAR(g.dk[1], 1.875, 1e-14);
  EXPECT_NEAR(g.dq[0], 1.875 * std::log(3), 1e-14);
}

TEST(ReferenceBackward, IsTheDifferencesOfTheForward) {
  for (const Sizes& s : {Sizes{3, 5, 1, 1, 4, 4}, Sizes{3, 4, 4, 2, 3, 2}, Sizes{2, 6, 3, 1, 2, 5}})
    Case(s, 1).expect_differences();
}

TEST(ReferenceBackward, IsTheDifferencesWithMaskScaleAndOffset) {
  Case c({4, 6, 2, 1, 3, 2}, 2);
  c.problem.forward.visible = [](Index, Index q_pos, Index kv_pos) { return kv_pos <= q_pos && kv_pos != 1; };
  c.problem.forward.scale = -0.7;
  c.problem.forward.q_offset = 1;
  c.expect_differences();
}

TEST(ReferenceBackward, IsTheDifferencesWithSinks) {
  Case c({3, 4, 4, 2, 2, 2}, 3);
  c.sinks = {0.5, -1, 1, 0};
  c.problem.forward.sink_logits = c.sinks;
  c.expect_differences();
}

TEST(ReferenceBackward, IsTheDifferencesOfAScoreFunction) {
  Case c({3, 4, 2, 1, 3, 2}, 4);
  c.problem.forward.modify = [](double s, Index h, Index q_pos, Index kv_pos) {
    return 2 * std::tanh(s / 2) - 0.1 * static_cast<double>(h + 1) * std::abs(double(q_pos - kv_pos));
  };
  c.problem.derivative = [](double s, Index, Index, Index) { return 1 - std::pow(std::tanh(s / 2), 2); };
  c.expect_differences();
}

TEST(ReferenceBackward, IsTheDifferencesOfAHeadMap) {
  Case c({2, 3, 4, 3, 2, 2}, 5);
  c.problem.forward.kv_head_of = [](Index h) { return h == 1 ? 0 : 2; };  // nobody reads head 1
  c.expect_differences();
  const auto g = reference::attention_backward(c.problem);
  for (Index j = 0; j < 3; ++j) EXPECT_EQ(g.dk[static_cast<std::size_t>((j * 3 + 1) * 2)], 0);
}

TEST(ReferenceBackward, MaskedNaNIsNeverRead) {
  const double q[] = {1, nan}, k[] = {1, nan, 2}, v[] = {4, inf, 5}, d_out[] = {1, nan};
  reference::GradientProblem problem{
      .forward = {.num_q_tokens = 2, .num_kv_tokens = 3, .q = q, .k = k, .v = v}, .d_out = d_out};
  // The second query sees nothing, and nobody the second key.
  problem.forward.visible = [](Index, Index q_pos, Index kv_pos) { return q_pos == 1 && kv_pos != 1; };
  const auto g = reference::attention_backward(problem);
  for (const auto* x : {&g.dq, &g.dk, &g.dv})
    for (double y : *x) EXPECT_TRUE(std::isfinite(y));
  EXPECT_EQ(g.dq[1], 0);
  EXPECT_EQ(g.dk[1], 0);
  EXPECT_EQ(g.dv[1], 0);
  EXPECT_NE(g.dk[0], 0);
}

}  // namespace
}  // namespace gqa
