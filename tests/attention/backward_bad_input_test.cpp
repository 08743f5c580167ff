// SPDX-License-Identifier: Apache-2.0
// What attention_backward refuses: each message names the argument, what it is and what was expected, and
// nothing has been written.
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "attention/attend.hpp"
#include "gqa/gqa.hpp"
#include "support/message_of.hpp"

namespace gqa {
namespace {

using test::message_of;

constexpr Index Sq = 3, Sk = 5, H = 4, G = 2, D = 8, Dv = 6;

class BackwardBadInput : public ::testing::Test {
 protected:
  std::vector<float> inputs = std::vector<float>(2000, 0.5f), gradients = std::vector<float>(2000, -7.0f);
  std::vector<float> lse_values = std::vector<float>(200, 1.0f);

  TensorView<float> at(std::vector<float>& memory, Index offset, Index tokens, Index heads, Index dim) {
    return {memory.data() + offset, tokens, heads, dim};
  }
  TensorView<float> q = at(inputs, 0, Sq, H, D), k = at(inputs, 200, Sk, G, D),
                    v = at(inputs, 400, Sk, G, Dv), out = at(inputs, 600, Sq, H, Dv),
                    d_out = at(inputs, 800, Sq, H, Dv);
  RowsView<float> lse{lse_values.data(), 1, Sq, H, Sq* H, H, 1};
  TensorView<float> dq = at(gradients, 0, Sq, H, D), dk = at(gradients, 200, Sk, G, D),
                    dv = at(gradients, 400, Sk, G, Dv);

  template <class E = std::invalid_argument, class... X>
  std::string refused(const X&... extras) {
    const auto message = message_of<E>(
        [&] { attention_backward(q, k, v, out, lse, d_out, gradients_into(dq, dk, dv), extras...); });
    EXPECT_EQ(gradients, std::vector<float>(2000, -7.0f)) << "something was written";
    return message;
  }
};

TEST_F(BackwardBadInput, GoodInputIsTaken) {
  attention_backward(q, k, v, out, lse, d_out, gradients_into(dq, dk, dv));
  EXPECT_NE(gradients[0], -7);
}

TEST_F(BackwardBadInput, Tuning) {
  EXPECT_EQ(refused(AttentionOptions{.tuning = {.block_rows = 24}}),
            "tuning: given, expected none: attention_backward cuts its work in its own way");
}

TEST_F(BackwardBadInput, Sizes) {
  out = at(inputs, 600, Sq, H, Dv + 1);
  EXPECT_EQ(refused(), "out: sizes are 1 x 3 x 4 x 7, expected 1 x 3 x 4 x 6");
  out = at(inputs, 600, Sq, H, Dv);
  d_out = at(inputs, 800, Sq + 1, H, Dv);
  EXPECT_EQ(refused(), "d_out: sizes are 1 x 4 x 4 x 6, expected 1 x 3 x 4 x 6");
  d_out = at(inputs, 800, Sq, H, Dv);
  lse.heads = 3;
  EXPECT_EQ(refused(), "lse: sizes are 1 x 3 x 3, expected 1 x 3 x 4");
  lse.heads = H;
  dq = at(gradients, 0, Sq, G, D);
  EXPECT_EQ(refused(), "dq: sizes are 1 x 3 x 2 x 8, expected 1 x 3 x 4 x 8");
  dq = at(gradients, 0, Sq, H, D);
  dk = at(gradients, 200, Sk - 1, G, D);
  EXPECT_EQ(refused(), "dk: sizes are 1 x 4 x 2 x 8, expected 1 x 5 x 2 x 8");
  dk = at(gradients, 200, Sk, G, D);
  dv = at(gradients, 400, Sk, G, D);
  EXPECT_EQ(refused(), "dv: sizes are 1 x 5 x 2 x 8, expected 1 x 5 x 2 x 6");
  dv = at(gradients, 400, Sk, G, Dv);
  q = at(inputs, 0, Sq, 3, D);
  EXPECT_EQ(refused(), "q: heads is 3, expected a multiple of the 2 heads of k");
}

TEST_F(BackwardBadInput, AnLseThatNoForwardGives) {
  lse_values[6] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(refused(), "lse: row 1 of head 2 is inf; expected what attention() wrote with out");
  lse_values[6] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(
      refused(),
      "lse: row 1 of head 2 is nan, but its output has no NaN; expected what attention() wrote with out");
  // A forward that met a NaN writes one to both.
  out.at(0, 1, 2)[Dv - 1] = std::numeric_limits<float>::quiet_NaN();
  attention_backward(q, k, v, out, lse, d_out, gradients_into(dq, dk, dv));
  EXPECT_TRUE(std::isnan(dq.at(0, 1, 2)[0]));
  EXPECT_FALSE(std::isnan(dq.at(0, 1, 1)[0]));
  EXPECT_FALSE(std::isnan(dq.at(0, 0, 2)[0]));
}

TEST_F(BackwardBadInput, MemoryThatIsShared) {
  const auto with = [&](TensorView<float>& x, float* memory) {
    auto* own = std::exchange(x.data, memory);
    const auto message = refused();
    x.data = own;
    return message;
  };
  EXPECT_EQ(with(dq, q.data), "dq: shares memory with q, expected memory of its own");
  EXPECT_EQ(with(dk, k.data + Sk * G * D - 1), "dk: shares memory with k, expected memory of its own");
  EXPECT_EQ(with(dv, d_out.data), "dv: shares memory with d_out, expected memory of its own");
  EXPECT_EQ(with(dv, out.data + 3), "dv: shares memory with out, expected memory of its own");
  EXPECT_EQ(with(dk, dq.data + 1), "dk: shares memory with dq, expected memory of its own");
  EXPECT_EQ(with(dv, dk.data), "dv: shares memory with dk, expected memory of its own");
  EXPECT_EQ(with(dv, v.data), "dv: shares memory with v, expected memory of its own");
  EXPECT_EQ(with(dq, lse_values.data() + 5), "dq: shares memory with lse, expected memory of its own");
  dk.head_stride = 0;
  EXPECT_EQ(refused(), "dk: a stride is 0, with which rows that are to be written share memory");
  dk.head_stride = D;
  std::vector<float> parameters(1);
  EXPECT_EQ(refused(soft_cap(2), score_gradient_into(std::span<float>(dk.data, 1))),
            "score_gradient_into: shares memory with dk, expected memory of its own");
  // Neighbours share nothing, nor do heads that take turns.
  dk.data = dq.data + Sq * H * D;
  dq.head_stride = dk.head_stride = 2 * D;
  dq.token_stride = dk.token_stride = 2 * D * H;
  dk.data = dq.data + D;
  attention_backward(q, k, v, out, lse, d_out, gradients_into(dq, dk, dv));
}

TEST_F(BackwardBadInput, Parameters) {
  std::vector<double> two(2), none;
  EXPECT_EQ(refused(soft_cap(2), score_gradient_into(two)),
            "score_gradient_into: size is 2, expected 1, one for each parameter of the score function");
  EXPECT_EQ(refused(score_gradient_into(two)),
            "score_gradient_into: size is 2, expected 0, one for each parameter of the score function");
  EXPECT_EQ(refused(sink_gradient_into(two)),
            "sink_gradient_into: there are no SinkLogits, expected those of the forward");
  EXPECT_EQ(refused(SinkLogits({1, 2, 3, 4}), sink_gradient_into(two)),
            "sink_gradient_into: size is 2, expected 4, one for each query head");
}

TEST_F(BackwardBadInput, Options) {
  EXPECT_EQ(refused(AttentionOptions{.scale = std::numeric_limits<double>::quiet_NaN()}),
            "scale is nan, expected a finite number as float");
  EXPECT_EQ(refused(alibi(3)), "alibi: slopes has 3 entries, expected one for each of 4 query heads");
  EXPECT_EQ(refused(HeadGrouping({0, 0, 1}, 2)), "HeadGrouping: query heads is 3, expected 4 as in q");
}

TEST_F(BackwardBadInput, EmptySequencesAreTaken) {
  attention_backward(at(inputs, 0, 0, H, D), k, v, at(inputs, 0, 0, H, Dv),
                     RowsView<float>{lse_values.data(), 1, 0, H, 0, H, 1}, at(inputs, 0, 0, H, Dv),
                     gradients_into(at(gradients, 0, 0, H, D), dk, dv));
  for (Index i = 0; i < Sk * G * D; ++i) EXPECT_EQ(dk.data[i], 0);
  std::fill(lse_values.begin(), lse_values.end(), -std::numeric_limits<float>::infinity());
  attention_backward(q, at(inputs, 0, 0, G, D), at(inputs, 0, 0, G, Dv), out, lse, d_out,
                     gradients_into(dq, at(gradients, 0, 0, G, D), at(gradients, 0, 0, G, Dv)));
  for (Index i = 0; i < Sq * H * D; ++i) EXPECT_EQ(dq.data[i], 0);
  attention_backward(
      TensorView<float>(nullptr, 0, Sq, H, D), TensorView<float>(nullptr, 0, Sk, G, D),
      TensorView<float>(nullptr, 0, Sk, G, Dv), TensorView<float>(nullptr, 0, Sq, H, Dv),
      RowsView<float>{nullptr, 0, Sq, H, Sq * H, H, 1}, TensorView<float>(nullptr, 0, Sq, H, Dv),
      gradients_into(TensorView<float>(nullptr, 0, Sq, H, D), TensorView<float>(nullptr, 0, Sk, G, D),
                     TensorView<float>(nullptr, 0, Sk, G, Dv)));
}

}  // namespace
}  // namespace gqa
