// SPDX-License-Identifier: Apache-2.0
// What weights, factors and activations there may be, and what is said of others.
#include "gqa/convert/weights.hpp"

#include <functional>
#include <limits>

#include "convert/layer_case.hpp"
#include "gqa/convert/merge.hpp"
#include "support/message_of.hpp"

namespace gqa::test {
namespace {

using convert::Calibration;
using convert::HeadWeights;
using convert::Matrix;
using convert::Method;
using convert::Weights;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

std::string broken(const std::function<void(Weights&)>& breakage) {
  Weights w = random_weights({.biases = true}, 1);
  breakage(w);
  return message_of([&] { convert::merge_heads(w, HeadGrouping::contiguous(4, 2), Method::mean()); });
}

TEST(Weights, SizesFollowFromTheMatrices) {
  const Weights w = random_weights({.num_q_heads = 6, .num_kv_heads = 2}, 1);
  EXPECT_EQ(w.num_q_heads(), 6);
  EXPECT_EQ(w.num_kv_heads(), 2);
  EXPECT_EQ(w.head_dim(), 8);
  EXPECT_EQ(w.value_dim(), 6);
  EXPECT_EQ(w.cache().elements_per_token, 28);
}

TEST(Weights, SaysWhichMatrixDoesNotFit) {
  const auto build = [](Index q, Index k, Index v, Index o, Index v_cols = 5) {
    return message_of([&] { Weights(Matrix(q, 5), Matrix(k, 5), Matrix(v, v_cols), Matrix(5, o), 4, 2); });
  };
  EXPECT_EQ(build(32, 16, 12, 24), "nothing thrown");
  EXPECT_EQ(build(33, 16, 12, 24), "wq: rows is 33, expected a positive multiple of the 4 heads");
  EXPECT_EQ(build(0, 0, 12, 24), "wq: rows is 0, expected a positive multiple of the 4 heads");
  EXPECT_EQ(build(32, 15, 12, 24), "wk: rows is 15, expected 16");
  EXPECT_EQ(build(32, 16, 13, 24), "wv: rows is 13, expected a positive multiple of the 2 heads");
  EXPECT_EQ(build(32, 16, 12, 25), "wo: cols is 25, expected 24");
  EXPECT_EQ(build(32, 16, 12, 24, 6), "wv: cols is 6, expected 5");
  EXPECT_EQ(message_of([] { Weights(Matrix(4, 0), Matrix(2, 1), Matrix(2, 1), Matrix(1, 4), 4, 2); }),
            "wq: cols is 0, expected at least 1");
  EXPECT_EQ(message_of([] { Weights(Matrix(4, 1), Matrix(3, 1), Matrix(3, 1), Matrix(1, 4), 4, 3); }),
            "q: heads is 4, expected a multiple of the 3 heads of k");
  EXPECT_EQ(message_of([] { Matrix(-1, 2); }), "matrix: sizes are -1 x 2, expected none to be negative");
  EXPECT_THROW(Matrix(max_position, max_position), std::length_error);
}

TEST(Weights, SaysWhereTheyAreNoNumbers) {
  EXPECT_EQ(broken([](Weights& w) { w.wq(2, 3) = nan; }),
            "wq: element (2, 3) is nan, expected a finite number");
  EXPECT_EQ(broken([](Weights& w) { w.wk(1, 0) = INFINITY; }),
            "wk: element (1, 0) is inf, expected a finite number");
  EXPECT_EQ(broken([](Weights& w) { w.wv(0, 1) = -INFINITY; }),
            "wv: element (0, 1) is -inf, expected a finite number");
  EXPECT_EQ(broken([](Weights& w) { w.wo(0, 0) = nan; }),
            "wo: element (0, 0) is nan, expected a finite number");
  EXPECT_EQ(broken([](Weights& w) { w.bv[4] = nan; }), "bv: element 4 is nan, expected a finite number");
  EXPECT_EQ(broken([](Weights& w) { w.bk.pop_back(); }), "bk: size is 31, expected 32, or 0 for none");
  EXPECT_EQ(broken([](Weights& w) { w.bq = {1}; }), "bq: size is 1, expected 32, or 0 for none");
  EXPECT_EQ(broken([](Weights& w) { w.bo = {1}; }), "bo: size is 1, expected 20, or 0 for none");
}

TEST(Weights, FactorsFitTheHeads) {
  const Weights w = random_weights({.biases = true}, 2);
  const auto merge = [&](HeadWeights factors) {
    return message_of([&] {
      convert::merge_heads(w, HeadGrouping::contiguous(4, 2), Method::weighted(std::move(factors)));
    });
  };
  using Along = HeadWeights::Along;
  EXPECT_EQ(merge({Along::heads, {1, 2, 3}, {1, 2, 3, 4}}),
            "weights of keys: size is 3, expected 4 heads x 1");
  EXPECT_EQ(merge({Along::rows, std::vector<double>(32), std::vector<double>(32)}),
            "weights of values: size is 32, expected 4 heads x 6");
  EXPECT_EQ(merge({Along::columns, std::vector<double>(80), std::vector<double>(80)}),
            "weights of keys: factors of columns say nothing of a bias; expected those of heads or rows");
  EXPECT_EQ(merge({Along::heads, {1, nan, 3, 4}, {1, 2, 3, 4}}),
            "weights of keys: element 1 is nan, expected a finite number");
}

TEST(Weights, HeadsInUnequalGroupsNeedAMap) {
  const Weights w = random_weights({}, 3);
  EXPECT_EQ(message_of([&] { convert::merge_heads(w, HeadGrouping::contiguous(4, 3), Method::mean()); }),
            "q: heads is 4, expected a multiple of the 3 heads of k");
  const auto merged = convert::merge_heads(w, HeadGrouping({0, 1, 2, 1}, 3), Method::mean());
  EXPECT_EQ(merged.weights.num_kv_heads(), 3);
}

TEST(Calibration, SaysWhatDoesNotFit) {
  EXPECT_EQ(message_of([] { Calibration(0); }), "activations: width is 0, expected at least 1");
  Calibration c(2);
  EXPECT_EQ(message_of([&] { c.add_noise(0.1); }), "activations: tokens is 0, expected at least 1");
  const double x[] = {1, 2, 3, nan};
  EXPECT_EQ(message_of([&] { c.add(x, 2); }), "activations: element (1, 1) is nan, expected a finite number");
  EXPECT_EQ(c.tokens(), 0);
  EXPECT_EQ(message_of([&] { c.add(x, -1); }), "matrix: sizes are -1 x 2, expected none to be negative");
  c.add(x, 1);
  EXPECT_EQ(message_of([&] { c.add_noise(-1); }),
            "activations: noise is -1, expected a finite number of at least 0");
}

TEST(Calibration, IsOfTheInputsOfKeysAndValues) {
  const Weights w = random_weights({}, 4);
  const Calibration wide(21);
  for (const Method& method : {Method::mean(), Method::aligned_mean(convert::KeyBasis::fixed())})
    EXPECT_EQ(message_of([&] {
                convert::merge_heads(w, HeadGrouping::contiguous(4, 2), method, {.calibration = &wide});
              }),
              "activations: width is 21, expected 20, the inputs of keys and values");
}

TEST(Calibration, HoldsMomentsOfAllThatWasAdded) {
  Calibration c(2);
  const float x[] = {1, 2, 3, -4};
  c.add(x, 1);
  c.add(x + 2, 1);
  c.add(x, 0);
  EXPECT_EQ(c.tokens(), 2);
  EXPECT_EQ(c.moments().values(), (std::vector<double>{5, -5, -5, 10}));
  EXPECT_EQ(c.mean(), (std::vector<double>{2, -1}));
  c.add_noise(0.5);
  EXPECT_EQ(c.moments().values(), (std::vector<double>{8.75, -5, -5, 13.75}));
}

TEST(Matrix, ReadsAndRoundsEveryType) {
  const float x[] = {1, 2.5f, -3, 0, 1e-3f, 7};
  const Matrix m(x, 2, 3);
  EXPECT_EQ(m(1, 0), 0);
  EXPECT_EQ(m(0, 1), 2.5);
  half h[6];
  m.copy_to(h);
  EXPECT_EQ(h[4], static_cast<half>(1e-3f));
  Eigen::MatrixXf columns(2, 3);
  columns << 1, 2.5f, -3, 0, 1e-3f, 7;
  EXPECT_EQ(Matrix(columns), m);
}

}  // namespace
}  // namespace gqa::test
