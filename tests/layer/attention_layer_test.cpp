// SPDX-License-Identifier: Apache-2.0
// An attention layer against plain loops, in double to rounding and in float as near as plain loops in float
// come; and what must be the same: fused and separate weights, and heads projected together or one by one.
#include "gqa/layer/attention_layer.hpp"

#include <gtest/gtest.h>

#include "gqa/mask.hpp"
#include "layer/layer_case.hpp"

namespace gqa {
namespace {

using test::ByRows;
using test::LayerCase;
using test::LayerSizes;

std::vector<LayerSizes> all_sizes() {
  return {
      {},
      {.H = 4, .G = 4, .D = 6, .Dv = 6, .bias = false, .norm = false, .rope = false},  // MHA
      {.H = 7, .G = 1, .D = 10, .Dv = 3, .in_dim = 33, .out_dim = 5},                  // MQA, Dv != D
      {.H = 5, .G = 3, .D = 4, .Dv = 4, .kv_head_of = {2, 0, 2, 0, 0}},                // nobody reads head 1
      {.H = 1, .G = 1, .D = 2, .Dv = 1, .in_dim = 1, .out_dim = 1, .bias = false},
  };
}

template <class T>
ByRows<T> run(const AttentionLayer<T>& layer, const MatrixView& x) {
  LayerMemory<T> memory;
  ByRows<T> y(x.rows, layer.out_dim());
  layer.forward(Serial{}, memory, x, y, causal());
  return y;
}

TEST(AttentionLayer, IsTheOracleInDouble) {
  for (const LayerSizes& s : all_sizes()) {
    const LayerCase<double> c(s);
    const auto x = test::matrix<double>(37, s.in_dim, 5);
    const ByRows<double> expected = c.template naive<double>(x, test::causally);
    // Sums of at most 33 terms a few deep, of numbers of about 1: 1,000 roundings of 2^-53 and as many again.
    const double bound = 0x1p-42 * expected.cwiseAbs().maxCoeff();
    EXPECT_LE((run(c.layer(), x) - expected).cwiseAbs().maxCoeff(), bound)
        << s.H << "/" << s.G << " of " << s.D << ", " << s.Dv;
  }
}

TEST(AttentionLayer, IsAsNearInFloatAsPlainLoops) {
  for (const LayerSizes& s : all_sizes()) {
    const LayerCase<float> c(s);
    const auto x = test::matrix<float>(150, s.in_dim, 5);
    const ByRows<double> exact = c.template naive<double>(x, test::causally);
    const double naive = (c.template naive<float>(x, test::causally).template cast<double>() - exact).norm();
    const double error = (run(c.layer(), x).template cast<double>() - exact).norm();
    EXPECT_LE(error, 2 * naive) << s.H << "/" << s.G << " of " << s.D << ", " << s.Dv;
  }
}

TEST(AttentionLayer, NarrowWeightsAreTheSameAsWide) {
  // The weights are of few bits, which 16 hold.
  const LayerSizes s;
  const auto x = test::matrix<float>(21, s.in_dim, 5);
  const auto expected = run(LayerCase<float>(s).layer(), x);
  EXPECT_EQ(run(LayerCase<half>(s).layer(), x), expected);
  const ByRows<bfloat16> narrow = x.cast<bfloat16>();
  const ByRows<float> narrow_wide = narrow.cast<float>();
  EXPECT_EQ(run(LayerCase<float>(s).layer(), narrow), run(LayerCase<float>(s).layer(), narrow_wide));
}

TEST(AttentionLayer, FusedWeightsAreTheSame) {
  for (const LayerSizes& s : all_sizes()) {
    const LayerCase<float> c(s);
    const auto x = test::matrix<float>(9, s.in_dim, 5);
    ByRows<float> qkv(c.q.rows() + c.k.rows() + c.v.rows(), s.in_dim);
    qkv << c.q, c.k, c.v;
    std::vector<float> bias = c.q_bias;
    bias.insert(bias.end(), c.k_bias.begin(), c.k_bias.end());
    bias.insert(bias.end(), c.v_bias.begin(), c.v_bias.end());
    AttentionProjections fused{.output = c.projections().output, .qkv = {qkv}};
    if (s.bias) fused.qkv.bias = bias;
    const AttentionLayer<> layer(fused, c.config());
    EXPECT_EQ(run(layer, x), run(c.layer(), x));
    EXPECT_EQ(layer.num_parameters(), c.layer().num_parameters());
  }
}

TEST(AttentionLayer, ProjectsTheHeadsConcatenated) {
  // Concat(O_1, ..., O_H) Wo^T = sum_h O_h Wo_h^T (Vaswani et al. 2017).
  const LayerSizes s{.H = 3, .G = 3, .bias = false, .norm = false, .rope = false};
  const LayerCase<double> c(s);
  const auto x = test::matrix<double>(11, s.in_dim, 5);
  ByRows<double> sum = ByRows<double>::Zero(11, s.out_dim);
  for (Index h = 0; h < s.H; ++h) {
    const AttentionProjections one{.q = {c.q.middleRows(h * s.D, s.D)},
                                   .k = {c.k.middleRows(h * s.D, s.D)},
                                   .v = {c.v.middleRows(h * s.Dv, s.Dv)},
                                   .output = {c.o.middleCols(h * s.Dv, s.Dv)}};
    sum += run(AttentionLayer<double>(one, {.num_q_heads = 1, .num_kv_heads = 1, .head_dim = s.D}), x);
  }
  EXPECT_LE((run(c.layer(), x) - sum).cwiseAbs().maxCoeff(), 0x1p-44);
}

TEST(AttentionLayer, TakesMasksAndScoreFunctions) {
  const LayerSizes s;
  const LayerCase<double> c(s);
  const auto x = test::matrix<double>(30, s.in_dim, 5);
  LayerMemory<double> memory;
  ByRows<double> y(30, s.out_dim);
  c.layer().forward(Serial{}, memory, x, y, causal() & sliding_window(4));
  const auto expected = c.naive<double>(x, [](Index i, Index j) { return j <= i && j > i - 4; });
  EXPECT_LE((y - expected).cwiseAbs().maxCoeff(), 0x1p-42 * expected.cwiseAbs().maxCoeff());
  const auto plain = run(c.layer(), x);
  auto config = c.config();
  config.scale = 1 / std::sqrt(static_cast<double>(s.D));
  EXPECT_EQ(run(AttentionLayer<double>(c.projections(), config), x), plain);
  config.scale = 0;
  EXPECT_GT((run(AttentionLayer<double>(c.projections(), config), x) - plain).cwiseAbs().maxCoeff(), 0.01);
}

TEST(AttentionLayer, ANaNWeightSpoilsWhatItEntersAlone) {
  // One of the value head 1, read by query heads 3 to 5; the output of the other heads sees none of it.
  const LayerSizes s{.bias = false};
  LayerCase<float> c(s);
  const auto x = test::matrix<float>(6, s.in_dim, 5);
  c.o.setZero();
  c.o.topLeftCorner(3, 3 * s.Dv).setOnes();
  c.o.bottomRightCorner(2, 3 * s.Dv).setOnes();
  const auto clean = run(c.layer(), x);
  c.v(s.Dv + 2, 0) = std::numeric_limits<float>::quiet_NaN();
  const auto y = run(c.layer(), x);
  // 0 times NaN is NaN, as in every product: rows of Wo take part with all of their columns.
  EXPECT_TRUE(y.array().isNaN().all());
  // A NaN of the output's row 1 is in column 1 of y alone.
  LayerCase<float> other(s);
  const auto before = run(other.layer(), x);
  other.o(1, 7) = std::numeric_limits<float>::quiet_NaN();
  const auto after = run(other.layer(), x);
  for (Index t = 0; t < 6; ++t)
    for (Index j = 0; j < s.out_dim; ++j) {
      if (j == 1)
        EXPECT_TRUE(std::isnan(after(t, j)));
      else
        EXPECT_EQ(after(t, j), before(t, j));
    }
  EXPECT_FALSE(clean.array().isNaN().any());
}

TEST(AttentionLayer, OutputMayBeItsInput) {
  const LayerCase<float> c({});
  auto x = test::matrix<float>(12, 20, 5);
  const auto expected = run(c.layer(), x);
  LayerMemory<> memory;
  c.layer().forward(Serial{}, memory, x, x, causal());
  EXPECT_EQ(x, expected);
}

TEST(AttentionLayer, OfNoTokensIsNothing) {
  const LayerCase<float> c({});
  const ByRows<float> x(0, 20);
  EXPECT_EQ(run(c.layer(), x).rows(), 0);
}

}  // namespace
}  // namespace gqa
