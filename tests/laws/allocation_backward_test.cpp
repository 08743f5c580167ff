// SPDX-License-Identifier: Apache-2.0
// Once attention_backward has been called with a caller's workspace, calls of the same size allocate nothing;
// and what a workspace comes to hold grows with the length, not with its square.
#include "attention/backward.hpp"
#include "gqa/gqa.hpp"
#include "laws/allocations.hpp"

namespace gqa {
namespace {

using test::GradientCase;
using test::Sizes;

class BackwardAllocations : public Allocations {};

TEST_F(BackwardAllocations, AreNoneOnceTheWorkspaceIsLargeEnough) {
  const SinkLogits sinks(std::vector<double>(8, 0.5));
  std::vector<double> d_score(9), d_sinks(8);
  test::Threads threads(3);
  Workspace workspace;
  GradientCase<float> c({700, 3100, 8, 1, 8}, 61);  // in slices
  const auto score = soft_cap(3) | alibi(8);
  c.run({.mask = window(100, 0), .score = score, .sinks = &sinks});
  const auto dk = c.dk;
  const auto t = c.tensors();
  const auto call = [&] {
    attention_backward(threads, t.q, c.k_view(), c.v_view(), t.out, t.lse, t.d_out,
                       gradients_into(t.dq, t.dk, t.dv), window(100, 0), score, sinks,
                       score_gradient_into(d_score), sink_gradient_into(d_sinks),
                       AttentionOptions{.workspace = &workspace});
  };
  call();
  EXPECT_EQ(allocations_of(call), 0);
  EXPECT_EQ(c.dk, dk);
}

TEST_F(BackwardAllocations, GrowWithTheLengthAlone) {
  const auto bytes = [](Index S) {
    Workspace workspace;
    GradientCase<float> c({S, S, 4, 1, 16}, 62);
    c.run({.mask = causal(), .workspace = &workspace});
    return workspace.bytes();
  };
  const Index short_one = bytes(600), long_one = bytes(2400);
  // Rows of q, d_out and dq, in floats; where slices begin, dk and dv of each.
  EXPECT_LT(long_one, 4 * short_one + 4 * 2400 * 2 * 16 * 4);
  EXPECT_LT(long_one, 2400 * 2400 * 4) << "less than one head's probabilities";
}

}  // namespace
}  // namespace gqa
