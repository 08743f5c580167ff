// SPDX-License-Identifier: Apache-2.0
// The gradients of linear() against plain sums, with the same bits for any number of threads.
#include "gqa/layer/linear_backward.hpp"

#include <gtest/gtest.h>

#include "layer/matrices.hpp"
#include "support/message_of.hpp"

namespace gqa {
namespace {

using test::ByColumns;
using test::ByRows;
using test::message_of;

/// In y = x W^T + b, dy to dx, dW and db.
template <class T>
struct Gradients {
  ByRows<T> x, weight, bias;

  template <class X, class W, class E>
  Gradients(E&& executor, const X& in, const W& w, const ByRows<T>& dy)
      : x(in.rows(), in.cols()), weight(w.rows(), w.cols()), bias(1, w.rows()) {
    linear_backward(executor, in, w, dy, {x, weight, bias});
  }
};

TEST(LinearBackward, AreTheSumsOfProducts) {
  for (const auto& [tokens, depth, rows] : {std::tuple{1, 1, 1}, {3, 40, 17}, {130, 65, 70}, {2, 3, 100}}) {
    const auto x = test::matrix<double>(tokens, depth, 1), w = test::matrix<double>(rows, depth, 2),
               dy = test::matrix<double>(tokens, rows, 3);
    const Gradients<double> g(Serial{}, x, w, dy);
    // Eigen's own products: sums of at most 130 terms, in another order.
    EXPECT_TRUE(g.x.isApprox(dy * w, 1e-14));
    EXPECT_TRUE(g.weight.isApprox(dy.transpose() * x, 1e-14));
    EXPECT_TRUE(g.bias.isApprox(dy.colwise().sum(), 1e-13));
    const ByColumns<double> by_columns = x, w_by_columns = w;
    const Gradients<double> same(Serial{}, by_columns, w_by_columns, dy);
    EXPECT_EQ(same.x, g.x);
    EXPECT_EQ(same.weight, g.weight);
  }
}

TEST(LinearBackward, AreFiniteDifferences) {
  // L = sum(r y): linear in each of x, W and b, so that differences of any step are exact but for rounding.
  const auto x = test::matrix<double>(5, 7, 1), w = test::matrix<double>(4, 7, 2),
             r = test::matrix<double>(5, 4, 3);
  const Gradients<double> g(Serial{}, x, w, r);
  const auto loss = [&](const ByRows<double>& in, const ByRows<double>& weights) {
    ByRows<double> y(5, 4);
    linear(in, weights, y);
    return y.cwiseProduct(r).sum();
  };
  for (Index i = 0; i < x.size(); ++i) {
    ByRows<double> more = x;
    more.data()[i] += 1;
    EXPECT_NEAR(g.x.data()[i], loss(more, w) - loss(x, w), 1e-12);
  }
  for (Index i = 0; i < w.size(); ++i) {
    ByRows<double> more = w;
    more.data()[i] += 1;
    EXPECT_NEAR(g.weight.data()[i], loss(x, more) - loss(x, w), 1e-12);
  }
}

TEST(LinearBackward, ThreadsChangeNoBit) {
  const auto x = test::matrix<float>(300, 200, 1), dy = test::matrix<float>(300, 150, 3);
  const auto w = test::matrix<bfloat16>(150, 200, 2);
  const Gradients<float> expected(Serial{}, x, w, dy);
  EXPECT_TRUE(expected.bias.isApprox(dy.colwise().sum(), 1e-5f));
  for (int threads : {2, 3, 8}) {
    test::Threads pool(threads);
    const Gradients<float> g(pool, x, w, dy);
    EXPECT_EQ(g.x, expected.x);
    EXPECT_EQ(g.weight, expected.weight);
    EXPECT_EQ(g.bias, expected.bias);
    EXPECT_GT(pool.calls(), 0);
  }
}

TEST(LinearBackward, WritesWhatIsAskedForAlone) {
  const auto x = test::matrix<float>(3, 8, 1), w = test::matrix<float>(5, 8, 2),
             dy = test::matrix<float>(3, 5, 3);
  ByRows<float> dw(5, 8);
  linear_backward(x, w, dy, {.weight = dw});
  EXPECT_EQ(dw, Gradients<float>(Serial{}, x, w, dy).weight);
  linear_backward(x, w, dy, {});
}

TEST(LinearBackward, OfNoTokensIsZero) {
  const ByRows<float> x(0, 8), dy(0, 5);
  const auto w = test::matrix<float>(5, 8, 2);
  const Gradients<float> g(Serial{}, x, w, dy);
  EXPECT_TRUE((g.weight.array() == 0).all() && (g.bias.array() == 0).all());
}

TEST(LinearBackward, Refuses) {
  const auto x = test::matrix<float>(3, 8, 1), w = test::matrix<float>(5, 8, 2),
             dy = test::matrix<float>(3, 5, 3);
  ByRows<float> dx = ByRows<float>::Constant(3, 8, 7), dw = ByRows<float>::Constant(5, 8, 7);
  EXPECT_EQ(message_of([&] {
              linear_backward(x, w, dy.topRows(2), {dx, dw});
            }),
            "dy: rows is 2, expected 3 as in x");
  EXPECT_EQ(message_of([&] {
              linear_backward(x, w, dy.leftCols(4), {dx, dw});
            }),
            "dy: columns is 4, expected 5 as in the rows of weight");
  EXPECT_EQ(message_of([&] {
              linear_backward(x, w, dy, {dx, dw.topRows(4)});
            }),
            "y: rows is 4, expected 5 as in x");
  EXPECT_EQ(message_of([&] {
              linear_backward(x, w, dy, {dx, dw, dx.leftCols(5).topRows(1)});
            }),
            "a gradient: shares memory with another, expected memory of its own");
  EXPECT_EQ(message_of([&] {
              linear_backward(dw.topRows(3), w, dy, {dx, dw});
            }),
            "y: shares memory with weight, expected memory of its own");
  EXPECT_EQ(message_of([&] {
              linear_backward(x, w, dy, {dx, dw}, {.round_to_bf16 = true});
            }),
            "round_to_bf16: it is for linear(), and linear_backward() rounds nothing");
  EXPECT_TRUE((dx.array() == 7).all() && (dw.array() == 7).all()) << "something was written";
}

}  // namespace
}  // namespace gqa
