// SPDX-License-Identifier: Apache-2.0
// Finite inputs near the ends of their type: scores that float masks are filled with, large scores that
// differ by little, values whose sum overflows.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "attention/attend.hpp"
#include "gqa/gqa.hpp"

namespace gqa {
namespace {

constexpr std::size_t at(Index i) { return static_cast<std::size_t>(i); }

template <class T>
class Extremes : public ::testing::Test {
 protected:
  using Acc = Accumulator<T>;
  static constexpr Acc largest = std::numeric_limits<Acc>::max(), lowest = std::numeric_limits<Acc>::lowest();

  struct Row {
    double out;
    Acc lse;
  };

  /// One query of 1 against keys of 1, with the given scores as biases, and values of one dim.
  static Row attend(const std::vector<Acc>& scores, const std::vector<T>& values, double scale = 1) {
    const Index n = std::ssize(scores);
    const std::vector<T> keys(scores.size(), T(0));
    const T query(1);
    T out(0);
    Acc lse(0);
    attention(TensorView<const T>(&query, 1, 1, 1), TensorView<const T>(keys.data(), n, 1, 1),
              TensorView<const T>(values.data(), n, 1, 1), TensorView<T>(&out, 1, 1, 1),
              tensor_bias(ScoreTensor<Acc>(scores.data(), {1, 1, 1, n})), AttentionOptions{.scale = scale},
              LseOutput<Acc>{{&lse, 1, 1, 1, 1, 1, 1}});
    return {static_cast<double>(out), lse};
  }

  /// The same without a score function: the scores are the keys.
  static Row attend_keys(const std::vector<T>& keys, const std::vector<T>& values, double scale = 1) {
    const Index n = std::ssize(keys);
    const T query(1);
    T out(0);
    Acc lse(0);
    attention(TensorView<const T>(&query, 1, 1, 1), TensorView<const T>(keys.data(), n, 1, 1),
              TensorView<const T>(values.data(), n, 1, 1), TensorView<T>(&out, 1, 1, 1),
              AttentionOptions{.scale = scale}, LseOutput<Acc>{{&lse, 1, 1, 1, 1, 1, 1}});
    return {static_cast<double>(out), lse};
  }
};
TYPED_TEST_SUITE(Extremes, test::AllScalars, test::ScalarNames);

TYPED_TEST(Extremes, OneKeyThatAFloatMaskLeaves) {
  using T = TypeParam;
  std::vector<Accumulator<T>> scores(513, this->lowest);
  scores.back() = 0;
  for (const std::size_t free : {std::size_t{512}, std::size_t{0}, std::size_t{100}}) {
    std::fill(scores.begin(), scores.end(), this->lowest);
    scores[free] = 0;
    std::vector<T> values(513, T(1));
    values[free] = T(7);
    const auto row = this->attend(scores, values);
    EXPECT_EQ(row.out, 7) << free;
    EXPECT_EQ(row.lse, 0) << free;
  }
}

TYPED_TEST(Extremes, ACausalMaskOfLowestNumbers) {
  using T = TypeParam;
  const Index n = 600;
  test::AttentionCase<T> c({n, n, 2, 1, 8}, 1);
  std::vector<Accumulator<T>> bias(at(n * n), Accumulator<T>{0});
  for (Index i = 0; i < n; ++i)
    for (Index j = i + 1; j < n; ++j) bias[at(i * n + j)] = this->lowest;
  std::vector<T> masked(at(n * 2 * 8)), biased(masked);
  const auto view = [&](std::vector<T>& out) { return TensorView<T>(out.data(), n, 2, 8); };
  attention(c.q_view(), c.k_view(), c.v_view(), view(masked), causal());
  attention(c.q_view(), c.k_view(), c.v_view(), view(biased),
            tensor_bias(ScoreTensor<Accumulator<T>>(bias.data(), {1, 1, n, n})));
  // Up to the rounding of a zero: biased scores are multiplied by the scale before, masked ones after.
  for (std::size_t i = 0; i < masked.size(); ++i)
    ASSERT_NEAR(static_cast<double>(masked[i]), static_cast<double>(biased[i]),
                32 * test::detail::unit_roundoff<T>())
        << i;
}

TYPED_TEST(Extremes, ScoresAtTheEndsOfTheType) {
  using T = TypeParam;
  const std::vector<T> values{T(2), T(4)};
  for (const auto score : {this->largest, this->lowest, this->largest / 2, this->lowest / 2}) {
    const auto two = this->attend({score, score}, values);
    EXPECT_EQ(two.out, 3) << score;
    EXPECT_EQ(two.lse, score) << score;
    const auto one = this->attend({score}, {T(5)});
    EXPECT_EQ(one.out, 5) << score;
    EXPECT_EQ(one.lse, score) << score;
  }
  EXPECT_EQ(this->attend({this->lowest, this->largest}, values).out, 4);
  EXPECT_EQ(this->attend({this->largest, this->lowest}, values).out, 2);
  // In chunks of their own.
  std::vector<Accumulator<T>> scores(1100, this->lowest);
  scores[1050] = this->largest;
  std::vector<T> far(1100, T(1));
  far[1050] = T(9);
  EXPECT_EQ(this->attend(scores, far).out, 9);
  scores[1050] = this->lowest;
  EXPECT_NEAR(this->attend(scores, far).out, 1 + 8.0 / 1100, 0.01) << "all alike";
}

TYPED_TEST(Extremes, ScalesAtTheEndsOfTheType) {
  using T = TypeParam;
  const double huge = static_cast<double>(this->largest),
               tiny = static_cast<double>(std::numeric_limits<Accumulator<T>>::min());
  EXPECT_EQ(this->attend_keys({T(1), T(1)}, {T(2), T(4)}, huge).out, 3);
  EXPECT_EQ(this->attend_keys({T(1), T(2)}, {T(2), T(4)}, huge).out, 4);
  EXPECT_EQ(this->attend_keys({T(1), T(2)}, {T(2), T(4)}, -huge).out, 2);
  EXPECT_EQ(this->attend_keys({T(1), T(2)}, {T(2), T(4)}, tiny).out, 3);
  EXPECT_EQ(this->attend_keys({T(0), T(0)}, {T(2), T(4)}, huge).out, 3);
}

TYPED_TEST(Extremes, AScoreWeighsTheSameWhereverItStands) {
  // 2^23 - 2 and the next two integers: exact in float, beyond what a maximum in powers of two can tell
  // apart.
  using T = TypeParam;
  const Accumulator<T> first(8000000);
  const double weights[] = {1, std::exp(1.0), std::exp(2.0)};
  const double expected =
      (weights[0] + 2 * weights[1] + 3 * weights[2]) / (weights[0] + weights[1] + weights[2]);
  for (const std::vector<Index>& places :
       {std::vector<Index>{0, 1, 2}, {3, 700, 1050}, {1050, 700, 3}, {700, 3, 1050}, {511, 512, 1099}}) {
    std::vector<Accumulator<T>> scores(1100, Accumulator<T>(0));
    std::vector<T> values(1100, T(0));
    for (Index i = 0; i < 3; ++i) {
      scores[at(places[at(i)])] = first + static_cast<Accumulator<T>>(i);
      values[at(places[at(i)])] = T(static_cast<float>(i + 1));
    }
    const auto row = this->attend(scores, values);
    EXPECT_NEAR(row.out, expected, 8 * test::detail::unit_roundoff<T>() * expected)
        << places[0] << ", " << places[1];
    const double lse = 8000000 + std::log(weights[0] + weights[1] + weights[2]);
    EXPECT_NEAR(static_cast<double>(row.lse), lse, test::detail::unit_roundoff<Accumulator<T>>() * lse);
  }
}

TYPED_TEST(Extremes, SumsOfValuesThatOverflow) {
  using T = TypeParam;
  const double huge = static_cast<double>(std::numeric_limits<T>::max());
  // One chunk, several, pieces of tiles.
  for (const Index n : {2, 3, 8, 65, 1100, 5000}) {
    for (const double value : {huge, -huge, huge / 3}) {
      const std::vector<T> values(at(n), T(value));
      const auto row = this->attend_keys(std::vector<T>(at(n), T(0)), values);
      // n roundings of the sum, and a few of the mean.
      const double error = 4 * test::detail::unit_roundoff<T>() +
                           static_cast<double>(n) * test::detail::unit_roundoff<Accumulator<T>>();
      EXPECT_NEAR(row.out, static_cast<double>(T(value)), std::abs(value) * error) << n;
      EXPECT_NEAR(static_cast<double>(row.lse), std::log(static_cast<double>(n)), 1e-5);
    }
  }
  // Both signs meet on the way.
  std::vector<T> values(600, T(huge));
  std::fill(values.begin() + 300, values.end(), T(-huge));
  EXPECT_NEAR(this->attend_keys(std::vector<T>(600, T(0)), values).out, 0,
              huge * 600 * test::detail::unit_roundoff<Accumulator<T>>());
}

TYPED_TEST(Extremes, OverflowsInSomeRowsChangeNoOther) {
  // A batch of rows of which one overflows: split, whole, cached and on threads, with an output in place of
  // q.
  using T = TypeParam;
  const Index n = 1300, H = 4, G = 2, D = 16;
  test::AttentionCase<T> c({3, n, H, G, D}, 3);
  auto plain = c;
  for (Index j = 0; j < n; ++j)  // dim 5 of KV head 1
    c.v[at((j * G + 1) * D + 5)] = T(static_cast<double>(std::numeric_limits<T>::max()) * 0.9);
  test::Threads threads(3);
  const auto expected = test::run(plain, {.mask = causal()});
  const auto result = test::run(c, {.mask = causal()});
  for (std::size_t i = 0; i < result.out.size(); ++i) {
    const bool overflows = i % (H * D) / D >= 2 && i % D == 5;
    if (overflows)
      EXPECT_NEAR(static_cast<double>(result.out[i]) / static_cast<double>(c.v[21]), 1, 1e-2) << i;
    else if (i % (H * D) / D < 2)
      EXPECT_EQ(static_cast<double>(result.out[i]), static_cast<double>(expected.out[i])) << i;
    else
      EXPECT_NEAR(static_cast<double>(result.out[i]), static_cast<double>(expected.out[i]), 1e-2) << i;
  }
  EXPECT_TRUE(test::same(result, test::run(c, {.mask = causal(), .threads = &threads})));
  EXPECT_TRUE(test::same(result, test::run_cached(c, {.mask = causal()})));
  auto in_place = c;
  attention(in_place.q_view(), c.k_view(), c.v_view(), TensorView<T>(in_place.q.data(), 3, H, D), causal());
  for (std::size_t i = 0; i < result.out.size(); ++i)
    ASSERT_EQ(static_cast<double>(in_place.q[i]), static_cast<double>(result.out[i])) << i;
}

TEST(Cascades, AddUpValuesAsFarAsFloatGoes) {
  // Levels of 2 keys each: what the first one leaves must be finite, the last one may overflow.
  const std::vector<float> keys(2, 0.0f);
  const std::vector<Index> offsets{0, 1};
  const float q = 1;
  const auto attend = [&](float value) {
    const std::vector<float> values(2, value);
    const ContiguousKV<float> level({keys.data(), 2, 1, 1}, {values.data(), 2, 1, 1});
    const std::vector<CascadeLevel<ContiguousKV<float>>> levels{{level, {0, 1}}, {level, {0, 1}}};
    float out = 0;
    cascade_attention(Serial{}, ragged(TensorView<const float>(&q, 1, 1, 1), offsets), levels,
                      TensorView<float>(&out, 1, 1, 1));
    return out;
  };
  constexpr float largest = std::numeric_limits<float>::max();
  EXPECT_EQ(attend(largest / 2), largest / 2);
  EXPECT_FALSE(std::isfinite(attend(largest)));
}

TEST(OnlineSoftmaxOf, LargeValues) {
  constexpr float largest = std::numeric_limits<float>::max();
  const auto merged = [&](float value) {
    OnlineSoftmax<float> state(1, 1);
    for (int i = 0; i < 4; ++i) state.update(0, 3.0f, std::vector<float>{value});
    return state.output()[0];
  };
  EXPECT_EQ(merged(largest / 4), largest / 4);
  EXPECT_TRUE(std::isinf(merged(largest / 2)));
}

TEST(Scale, IsCheckedInTheTypeThatComputesWithIt) {
  std::vector<float> x(8, 0.5f), out(8);
  const auto refused = [&](double scale) {
    try {
      attention(TensorView<const float>(x.data(), 1, 1, 8), TensorView<const float>(x.data(), 1, 1, 8),
                TensorView<const float>(x.data(), 1, 1, 8), TensorView<float>(out.data(), 1, 1, 8),
                AttentionOptions{.scale = scale});
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(refused(1e39), "scale is 1e+39, expected a finite number as float");
  EXPECT_EQ(refused(-1e39), "scale is -1e+39, expected a finite number as float");
  EXPECT_EQ(refused(1e38), "accepted");
  std::vector<double> y(8, 0.5), out64(8);
  EXPECT_NO_THROW(attention(TensorView<const double>(y.data(), 1, 1, 8),
                            TensorView<const double>(y.data(), 1, 1, 8),
                            TensorView<const double>(y.data(), 1, 1, 8),
                            TensorView<double>(out64.data(), 1, 1, 8), AttentionOptions{.scale = 1e39}));
}

}  // namespace
}  // namespace gqa
