// SPDX-License-Identifier: Apache-2.0
// The state of attention over some keys, and its merge: associative, with an identity, and attention in the
// end.
#include "gqa/kernel/row_state.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "support/attention_case.hpp"
#include "support/naive.hpp"

namespace gqa {
namespace {

template <class Acc>
class OnlineSoftmaxTest : public ::testing::Test {
 protected:
  static constexpr Acc inf = std::numeric_limits<Acc>::infinity();
  static constexpr double tolerance = 32 * static_cast<double>(std::numeric_limits<Acc>::epsilon());
  using State = OnlineSoftmax<Acc>;
  static constexpr Index rows = 3, dim = 5, keys = 40;

  std::vector<Acc> scores = test::random_values<Acc>(1, rows* keys, 6);
  std::vector<Acc> values = test::random_values<Acc>(2, keys* dim);

  /// The state over the keys [begin, end).
  State over(Index begin, Index end) const {
    State state(rows, dim);
    for (Index r = 0; r < rows; ++r)
      for (Index j = begin; j < end; ++j)
        state.update(r, scores[static_cast<std::size_t>(r * keys + j)],
                     std::span<const Acc>(values).subspan(static_cast<std::size_t>(j * dim), dim));
    return state;
  }

  /// Output and lse in double, written down.
  std::pair<std::vector<double>, std::vector<double>> exact(Index begin, Index end) const {
    std::vector<double> out, lse;
    for (Index r = 0; r < rows; ++r) {
      double max = -std::numeric_limits<double>::infinity(), sum = 0;
      std::vector<double> o(dim);
      const auto score = [&](Index j) {
        return static_cast<double>(scores[static_cast<std::size_t>(r * keys + j)]);
      };
      for (Index j = begin; j < end; ++j) max = std::max(max, score(j));
      for (Index j = begin; j < end; ++j) {
        const double p = std::exp(score(j) - max);
        sum += p;
        for (Index d = 0; d < dim; ++d)
          o[static_cast<std::size_t>(d)] +=
              p * static_cast<double>(values[static_cast<std::size_t>(j * dim + d)]);
      }
      for (double x : o) out.push_back(x / sum);
      lse.push_back(max + std::log(sum));
    }
    return {out, lse};
  }

  static void expect_near(const State& state,
                          const std::pair<std::vector<double>, std::vector<double>>& exact,
                          double bound = tolerance) {
    EXPECT_LE((test::max_error<Acc, double>(state.output(), exact.first)), bound);
    EXPECT_LE((test::max_error<Acc, double>(state.lse(), exact.second)), 4 * bound);
  }
};
using Accumulators = ::testing::Types<float, double>;
TYPED_TEST_SUITE(OnlineSoftmaxTest, Accumulators);

TYPED_TEST(OnlineSoftmaxTest, UpdatesAreAttention) {
  this->expect_near(this->over(0, 40), this->exact(0, 40));
  this->expect_near(this->over(7, 8), this->exact(7, 8));
}

TYPED_TEST(OnlineSoftmaxTest, MergeIsAssociativeAndCommutative) {
  for (Index a : {0, 1, 13, 40}) {
    for (Index b : {a, std::min<Index>(a + 3, 40), Index{40}}) {
      auto left = this->over(0, a);  // (x + y) + z
      left.merge(this->over(a, b));
      left.merge(this->over(b, 40));
      auto tail = this->over(a, b);  // x + (y + z)
      tail.merge(this->over(b, 40));
      auto right = this->over(0, a);
      right.merge(tail);
      auto turned = this->over(b, 40);  // z + y + x
      turned.merge(this->over(a, b));
      turned.merge(this->over(0, a));
      for (const auto* state : {&left, &right, &turned}) this->expect_near(*state, this->exact(0, 40));
    }
  }
}

TYPED_TEST(OnlineSoftmaxTest, MergeOfTwoIsExactlyCommutative) {
  auto ab = this->over(0, 20), ba = this->over(20, 40);
  ab.merge(this->over(20, 40));
  ba.merge(this->over(0, 20));
  EXPECT_EQ(ab.output(), ba.output());
  EXPECT_EQ(ab.lse(), ba.lse());
}

TYPED_TEST(OnlineSoftmaxTest, AnEmptyStateIsTheIdentityExactly) {
  const auto state = this->over(0, 40);
  auto left = this->over(0, 0), right = state;
  left.merge(state);
  right.merge(this->over(0, 0));
  EXPECT_EQ(left.output(), state.output());
  EXPECT_EQ(right.output(), state.output());
  EXPECT_EQ(left.lse(), state.lse());
  EXPECT_EQ(right.lse(), state.lse());
}

TYPED_TEST(OnlineSoftmaxTest, NothingSeenIsZeroAndMinusInfinity) {
  auto nothing = this->over(0, 0);
  nothing.merge(this->over(0, 0));
  EXPECT_EQ(nothing.output(), std::vector<TypeParam>(this->rows * this->dim));
  EXPECT_EQ(nothing.lse(), std::vector<TypeParam>(this->rows, -this->inf));
}

TYPED_TEST(OnlineSoftmaxTest, AttentionResultsBecomeStates) {
  using Acc = TypeParam;
  const auto whole = this->over(0, 40);
  const auto out = whole.output(), lse = whole.lse();
  const OnlineSoftmax<Acc> again(this->rows, this->dim, out, lse);
  this->expect_near(again, this->exact(0, 40));
  EXPECT_EQ(again.output(), out);

  // Two halves, each only as output and lse.
  const auto a = this->over(0, 17), b = this->over(17, 40);
  OnlineSoftmax<Acc> merged(this->rows, this->dim, a.output(), a.lse());
  merged.merge(OnlineSoftmax<Acc>(this->rows, this->dim, b.output(), b.lse()));
  this->expect_near(merged, this->exact(0, 40), 2 * this->tolerance);

  // A row that saw nothing may hold anything.
  const std::vector<Acc> garbage(1, std::numeric_limits<Acc>::quiet_NaN()), none = {-this->inf};
  OnlineSoftmax<Acc> empty(1, 1, garbage, none);
  EXPECT_EQ(empty.output(), std::vector<Acc>{0});
}

TYPED_TEST(OnlineSoftmaxTest, AScoreOfMinusInfinityAddsNothing) {
  using Acc = TypeParam;
  auto state = this->over(0, 40);
  const auto before = state.output();
  state.update(1, -this->inf, std::vector<Acc>(5, std::numeric_limits<Acc>::quiet_NaN()));
  EXPECT_EQ(state.output(), before);
}

TYPED_TEST(OnlineSoftmaxTest, NaNStaysInItsRow) {
  using Acc = TypeParam;
  auto state = this->over(0, 40);
  state.update(1, std::numeric_limits<Acc>::quiet_NaN(), std::vector<Acc>(5, 1));
  const auto out = state.output(), lse = state.lse();
  EXPECT_TRUE(std::isnan(lse[1]));
  for (std::size_t i = 0; i < 15; ++i) EXPECT_EQ(std::isnan(out[i]), i / 5 == 1);
}

TYPED_TEST(OnlineSoftmaxTest, ScoresFarApart) {
  using Acc = TypeParam;
  const std::vector<Acc> one(5, 1), two(5, 2);
  OnlineSoftmax<Acc> state(1, 5);
  state.update(0, -5000, one);
  state.update(0, 5000, two);
  EXPECT_EQ(state.output(), two);
  state.update(0, -5000, one);
  EXPECT_EQ(state.output(), two);
  EXPECT_NEAR(static_cast<double>(state.lse()[0]), 5000, 5000 * this->tolerance);
}

TYPED_TEST(OnlineSoftmaxTest, WrongSizesThrow) {
  using Acc = TypeParam;
  OnlineSoftmax<Acc> state(2, 3);
  const std::vector<Acc> six(6), two(2);
  const auto message = [](auto f) -> std::string {
    try {
      f();
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "nothing thrown";
  };
  EXPECT_EQ(message([&] { state.merge(OnlineSoftmax<Acc>(2, 4)); }), "other: size is 2 x 4, expected 2 x 3");
  EXPECT_EQ(message([&] { state.merge(OnlineSoftmax<Acc>(1, 3)); }), "other: size is 1 x 3, expected 2 x 3");
  EXPECT_EQ(message([&] { state.update(2, 1, six); }), "row is 2, expected less than 2");
  EXPECT_EQ(message([&] { state.update(-1, 1, six); }), "row is -1, expected less than 2");
  EXPECT_EQ(message([&] { state.update(0, 1, six); }), "value: size is 6, expected 3");
  EXPECT_EQ(message([&] { OnlineSoftmax<Acc>(2, 3, two, two); }), "output: size is 2, expected 2 x 3");
  EXPECT_EQ(message([&] { OnlineSoftmax<Acc>(2, 3, six, six); }), "lse: size is 6, expected 2");
}

}  // namespace
}  // namespace gqa
