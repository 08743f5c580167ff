// SPDX-License-Identifier: Apache-2.0
// linear() against a plain loop in double, in every mixture of types and both ways a matrix may stand; with
// the same bits for any number of tokens and threads.
#include "gqa/layer/linear.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <unsupported/Eigen/CXX11/Tensor>

#include "layer/matrices.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

using test::ByColumns;
using test::ByRows;
using test::matrix;

/// What y = x W^T + b is in double, and how far rounding may take it: half an epsilon of the accumulator for
/// each operation a term goes through, `steps` products among them, and of y's type for the last.
template <class X, class W, class B, class Y>
void expect_linear(const X& x, const W& w, const B& b, const Y& y, Index steps) {
  using TY = typename Y::Scalar;
  const double eps_sum = std::is_same_v<TY, double> ? 0x1p-52 : 0x1p-23;
  const double eps_out = sizeof(TY) >= 4 ? eps_sum : std::is_same_v<TY, half> ? 0x1p-10 : 0x1p-7;
  const auto at = [](const auto& m, Index i, Index j) { return static_cast<double>(m(i, j)); };
  for (Index t = 0; t < x.rows(); ++t)
    for (Index n = 0; n < w.rows(); ++n) {
      double exact = 0, magnitude = 0;
      for (Index k = 0; k < x.cols(); ++k) {
        exact += at(x, t, k) * at(w, n, k);
        magnitude += std::abs(at(x, t, k) * at(w, n, k));
      }
      if (b.size() != 0) exact += static_cast<double>(b[n]), magnitude += std::abs(static_cast<double>(b[n]));
      const double bound = static_cast<double>(steps + 8) * magnitude * eps_sum + std::abs(exact) * eps_out;
      ASSERT_NEAR(at(y, t, n), exact, bound)
          << x.rows() << " x " << x.cols() << " to " << w.rows() << " at " << t << ", " << n;
    }
}

template <class TX, class TW, class TY>
void expect_types() {
  for (const auto& [tokens, depth, rows] :
       {std::tuple{1, 1, 1}, {1, 40, 17}, {3, 577, 33}, {50, 65, 31}, {7, 2100, 5}}) {
    const auto x = matrix<TX>(tokens, depth, 1);
    const auto w = matrix<TW>(rows, depth, 2);
    const ByColumns<TW> w_columns = w;
    const ByColumns<TX> x_columns = x;
    const Eigen::Matrix<TW, Eigen::Dynamic, 1> bias = matrix<TW>(rows, 1, 3), none;
    ByRows<TY> y(tokens, rows), again(tokens, rows);
    linear(x, w, bias, y);
    expect_linear(x, w, bias, y, depth / 8);
    linear(x_columns, w_columns, bias, again);
    EXPECT_EQ(y, again) << "by columns, " << tokens << " x " << depth;
    linear(x, w, y);
    expect_linear(x, w, none, y, depth / 8);
  }
}

TEST(Linear, IsTheProductInEveryType) {
  expect_types<float, float, float>();
  expect_types<double, double, double>();
  expect_types<float, half, float>();
  expect_types<float, bfloat16, float>();
  expect_types<bfloat16, half, half>();
  expect_types<half, float, bfloat16>();
}

TEST(Linear, NarrowWeightsAreTheSameAsWide) {
  const auto x = matrix<float>(5, 133, 1);
  const auto w = matrix<half>(37, 133, 2);
  const ByRows<float> wide = w.cast<float>();
  ByRows<float> y(5, 37), expected(5, 37);
  linear(x, w, y);
  linear(x, wide, expected);
  EXPECT_EQ(y, expected);
}

TEST(Linear, OneTokenIsThatOfMany) {
  // Across blocks of tokens and of depth, and past the last register tile.
  for (Index depth : {24, 2500}) {
    const Index tokens = 401, rows = 43;
    const auto x = matrix<float>(tokens, depth, 1);
    const auto w = matrix<bfloat16>(rows, depth, 2);
    ByRows<float> all(tokens, rows), one(1, rows), some(97, rows);
    linear(x, w, all);
    for (Index t : {0, 1, 5, 6, 47, 48, 191, 192, 400}) {
      linear(x.middleRows(t, 1), w, one);
      ASSERT_EQ(one, all.middleRows(t, 1)) << "token " << t << " of depth " << depth;
    }
    linear(x.middleRows(100, 97), w, some);
    EXPECT_EQ(some, all.middleRows(100, 97));
  }
}

TEST(Linear, ThreadsChangeNoBit) {
  // 1 token of 1 MiB of weights, and 100 tokens: both worth several threads.
  for (Index tokens : {1, 100}) {
    const auto x = matrix<float>(tokens, 500, 1);
    const auto w = matrix<float>(613, 500, 2);
    ByRows<float> expected(tokens, 613), y(tokens, 613);
    linear(x, w, expected);
    for (int threads : {1, 2, 3, 8}) {
      test::Threads pool(threads);
      y.setConstant(-1);
      linear(pool, x, w, y);
      EXPECT_EQ(y, expected) << tokens << " tokens, " << threads << " threads";
      EXPECT_EQ(pool.calls() > 0, threads > 1) << "not shared out";
    }
  }
}

TEST(Linear, ReadsBlocksAndTensors) {
  const auto all = matrix<float>(6, 40, 1);
  const auto w = matrix<float>(9, 24, 2);
  ByRows<float> expected(6, 9), y = ByRows<float>::Constant(6, 30, 7);
  const ByRows<float> x = all.middleCols(8, 24);
  linear(x, w, expected);
  linear(all.middleCols(8, 24), w, y.middleCols(5, 9));
  EXPECT_EQ(y.middleCols(5, 9), expected);
  EXPECT_TRUE((y.leftCols(5).array() == 7).all() && (y.rightCols(16).array() == 7).all());
  // A fused weight is its rows.
  ByRows<float> part(6, 4);
  linear(x, MatrixView(w).middle_rows(3, 4), part);
  EXPECT_EQ(part, expected.middleCols(3, 4));
  // Tokens x heads x dim.
  Eigen::Tensor<float, 3, Eigen::RowMajor> heads(6, 3, 8), out(6, 3, 3);
  for (Index i = 0; i < heads.size(); ++i) heads.data()[i] = x.data()[i];
  linear(heads, w, out);
  EXPECT_EQ((Eigen::Map<const ByRows<float>>(out.data(), 6, 9)), expected);
}

TEST(Linear, OfNothingIsTheBias) {
  const ByRows<float> x(3, 0), w(5, 0);
  const Eigen::VectorXf bias = Eigen::VectorXf::LinSpaced(5, 1, 5);
  ByRows<float> y = ByRows<float>::Constant(3, 5, -1), none(0, 5);
  linear(x, w, bias, y);
  EXPECT_EQ(y, ByRows<float>(bias.transpose().replicate(3, 1)));
  linear(x, w, y);
  EXPECT_TRUE((y.array() == 0).all());
  const ByRows<float> no_tokens(0, 4), some(5, 4);
  linear(no_tokens, some, none);
}

TEST(Linear, ANaNSpoilsWhatItEntersAlone) {
  auto x = matrix<float>(8, 70, 1);
  auto w = matrix<float>(20, 70, 2);
  ByRows<float> clean(8, 20), y(8, 20);
  linear(x, w, clean);
  x(3, 69) = std::numeric_limits<float>::quiet_NaN();
  w(11, 0) = std::numeric_limits<float>::quiet_NaN();
  linear(x, w, y);
  for (Index t = 0; t < 8; ++t)
    for (Index n = 0; n < 20; ++n) {
      if (t == 3 || n == 11)
        EXPECT_TRUE(std::isnan(y(t, n))) << t << ", " << n;
      else
        EXPECT_EQ(y(t, n), clean(t, n)) << t << ", " << n;
    }
}

TEST(Linear, RoundsXWhereItIsAsked) {
  // Across a tile of rows and with an odd depth; of other weights it rounds x alone.
  const auto x = matrix<float>(67, 131, 1);
  const auto w = matrix<bfloat16>(70, 131, 2);
  const ByRows<float> rounded = x.cast<bfloat16>().cast<float>(), wide = w.cast<float>();
  const Eigen::VectorXf bias = matrix<float>(70, 1, 3);
  const LinearOptions round{.round_to_bf16 = true};
  ByRows<float> y(67, 70), one(1, 70), plain(67, 70);
  linear(x, w, bias, y, round);
  expect_linear(rounded, w, bias, y, 131);
  linear(rounded, w, bias, plain);
  EXPECT_LT((y - plain).norm(), 1e-5 * plain.norm());
  for (Index t : {0, 5, 66}) {
    linear(x.middleRows(t, 1), w, bias, one, round);
    EXPECT_EQ(one, y.middleRows(t, 1));
  }
  linear(x, wide, bias, y, round);
  EXPECT_EQ(y, plain);
  const ByColumns<bfloat16> by_columns = w;
  linear(x, by_columns, bias, y, round);
  EXPECT_EQ(y, plain);
}

TEST(Linear, KeepsItsMemoryInAWorkspace) {
  const auto x = matrix<half>(9, 30, 1);
  const auto w = matrix<float>(5, 30, 2);
  ByRows<float> y(9, 5);
  Workspace workspace;
  linear(x, w, y, {.workspace = &workspace});
  const Index bytes = workspace.bytes();
  EXPECT_GT(bytes, 0);
  linear(x, w, y, {.workspace = &workspace});
  EXPECT_EQ(workspace.bytes(), bytes);
}

}  // namespace
}  // namespace gqa
