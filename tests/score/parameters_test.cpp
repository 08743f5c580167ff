// SPDX-License-Identifier: Apache-2.0
// A parameter is checked in the type that computes with it: what double holds and float does not is refused
// by name in a call that computes in float, before anything is written, and right in one that computes in
// double.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "gqa/gqa.hpp"
#include "score/expect_refused.hpp"
#include "support/attention_case.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::expect_refused;
using test::Sizes;

constexpr double nan = std::numeric_limits<double>::quiet_NaN(), inf = HUGE_VAL;

/// Two sequences: 2 queries on 6 keys, 2 heads. What is refused leaves `out` as it was.
template <class T>
struct Case {
  AttentionCase<T> c{
      Sizes{.num_q_tokens = 2, .num_kv_tokens = 6, .num_q_heads = 2, .num_kv_heads = 1, .head_dim = 4}, 1};
  std::vector<T> out = std::vector<T>(16, T(7));

  std::vector<T> attend(const AnyScoreMod& score, const SinkLogits& sinks) {
    attention(c.q_view(), c.k_view(), c.v_view(), TensorView<T>(out.data(), 2, 2, 4), score, sinks);
    return out;
  }
  std::vector<T> attend(const AnyScoreMod& score) { return attend(score, SinkLogits({-inf, -inf})); }
  std::vector<T> attend(const SinkLogits& sinks) { return attend(AnyScoreMod(ScoreChain<>()), sinks); }

  template <class X>
  void refuses(const X& x, std::initializer_list<const char*> words) {
    expect_refused([&] { attend(x); }, words);
    for (const T value : out) ASSERT_EQ(static_cast<double>(value), 7) << "written";
  }
};

std::vector<double> one_entry(double value) {
  std::vector<double> table(64, 0);
  table[5] = value;
  return table;
}
/// A factor of `value` at one position.
auto heat(Index position, double value) {
  return temperature([=](Index q_pos) { return q_pos == position ? value : 1.0; });
}

template <class T>
class FloatParameters : public ::testing::Test {};
using FloatScores = ::testing::Types<float, bfloat16>;
TYPED_TEST_SUITE(FloatParameters, FloatScores);

TYPED_TEST(FloatParameters, WhatFloatDoesNotHoldIsRefused) {
  Case<TypeParam> c;
  c.refuses(soft_cap(1e39), {"soft_cap", "cap is 1e+39", "float"});
  c.refuses(soft_cap(1e-39), {"soft_cap", "cap is 1e-39", "inverse"});
  c.refuses(soft_cap(1e-50), {"soft_cap", "cap is 1e-50", "inverse"});
  for (const double x : {1e39, -1e39, 1e300}) {
    c.refuses(alibi(std::vector<double>{0.5, x}), {"alibi", "slopes[1]", "float"});
    c.refuses(SinkLogits({0.5, x}), {"sink logits", "[1] is", "float"});
    c.refuses(relative_bias({}, one_entry(x), 2), {"relative_bias", "table", "float"});
    c.refuses(heat(5, x), {"temperature", "position 5", "float"});
    c.refuses(llama4_temperature(x, 1), {"temperature", "position 4", "float"});
    c.refuses(heat(4, x) | soft_cap(3), {"temperature", "position 4"});
  }
  // A penalty that overflows on its way: 4e37 at distance 9 would, here the farthest is 5.
  c.refuses(alibi(std::vector<double>{1e38, 0}), {"alibi", "slopes[0] is 1e+38", "distance 5"});
  EXPECT_NO_THROW(c.attend(alibi(std::vector<double>{4e37, 0})));
}

TYPED_TEST(FloatParameters, WhatFloatHoldsIsNot) {
  Case<TypeParam> c;
  const double max = std::numeric_limits<float>::max();
  for (const auto& score :
       {AnyScoreMod(soft_cap(max)), AnyScoreMod(soft_cap(1e38)), AnyScoreMod(soft_cap(1e-38)),
        AnyScoreMod(alibi(std::vector<double>{max / 5, -1e30})),
        AnyScoreMod(relative_bias({}, one_entry(-max), 2)),
        AnyScoreMod(relative_bias({}, one_entry(-inf), 2)), AnyScoreMod(heat(4, 1e30)),
        AnyScoreMod(heat(3, nan)), AnyScoreMod(heat(6, nan)), AnyScoreMod(llama4_temperature(-3, 2))}) {
    for (const TypeParam x : c.attend(score)) EXPECT_TRUE(std::isfinite(static_cast<double>(x)));
  }
  for (const TypeParam x : c.attend(SinkLogits({-inf, -max / 4})))
    EXPECT_TRUE(std::isfinite(static_cast<double>(x)));
}

TEST(Parameters, TheLargestFloatIsTheLimitAndItsUsualDecimalsPass) {
  const AttentionExtent in_float{1, 1, {0, 1}, {0, 1}}, in_double{1, 1, {0, 1}, {0, 1}, true};
  const double max = std::numeric_limits<float>::max(), tie = 0x1.ffffffp127;
  EXPECT_NO_THROW(soft_cap(max).check(in_float));
  EXPECT_NO_THROW(soft_cap(3.4028235e38).check(in_float));  // as std::cout and Python print it
  EXPECT_NO_THROW(soft_cap(std::nextafter(tie, 0)).check(in_float));
  EXPECT_FALSE(std::isinf(static_cast<float>(std::nextafter(tie, 0))));
  EXPECT_THROW(soft_cap(tie).check(in_float), std::invalid_argument);
  EXPECT_NO_THROW(soft_cap(tie).check(in_double));
  EXPECT_NO_THROW(soft_cap(1e300).check(in_double));
  EXPECT_THROW(soft_cap(4e-309).check(in_double), std::invalid_argument);  // 1 / cap is infinite
  EXPECT_NO_THROW(SinkLogits({-inf}).check(in_float));
}

TEST(Parameters, WhatDoubleHoldsIsRightInDouble) {
  Case<double> c;
  const auto plain = c.attend(ScoreChain<>());
  const auto expect_plain = [&](const AnyScoreMod& score) {
    const auto out = c.attend(score);
    for (std::size_t i = 0; i < out.size(); ++i) EXPECT_NEAR(out[i], plain[i], 1e-12) << i;
  };
  expect_plain(soft_cap(1e39));
  expect_plain(alibi(std::vector<double>{1e-50, -1e-50}));
  // A cap of nothing, or a factor of nothing: the mean.
  const auto mean = c.attend(temperature([](Index) { return 0; }));
  const auto capped = c.attend(soft_cap(1e-39));
  for (std::size_t i = 0; i < mean.size(); ++i) EXPECT_NEAR(capped[i], mean[i], 1e-12) << i;
  // Nothing but the query's own key: the penalty of the next is 1e39.
  const auto own = c.attend(alibi(std::vector<double>{1e39, 1e300}));
  for (std::size_t i = 0; i < own.size(); ++i)
    EXPECT_NEAR(own[i], c.c.v[static_cast<std::size_t>(4 + i / 8) * 4 + i % 4], 1e-12) << i;
  for (const double x : c.attend(SinkLogits({1e39, 1e300}))) EXPECT_EQ(x, 0);
  for (const double x : c.attend(heat(5, 1e39) | relative_bias({}, one_entry(-1e39), 2)))
    EXPECT_TRUE(std::isfinite(x));
  Case<double> refused;
  refused.refuses(alibi(std::vector<double>{1e308, 0}), {"alibi", "slopes[0]", "double"});
  refused.refuses(heat(4, inf), {"temperature", "position 4", "double"});
}

TEST(Parameters, NaNIsNeverOne) {
  expect_refused([] { soft_cap(nan); }, {"soft_cap", "cap is nan"});
  for (const double x : {nan, inf}) {
    expect_refused([=] { SinkLogits({0, x}); }, {"sink logits", "[1] is"});
    expect_refused([=] { SinkLogits(std::vector<float>{static_cast<float>(x)}); }, {"sink logits", "[0] is"});
    expect_refused([=] { alibi(std::vector<double>{x}); }, {"alibi", "slopes[0] is"});
    expect_refused([=] { relative_bias({}, one_entry(x), 2); }, {"relative_bias", "table[5] is"});
    expect_refused([=] { llama4_temperature(x); }, {"llama4_temperature", "strength is"});
  }
  expect_refused([] { llama4_temperature(-inf); }, {"llama4_temperature", "strength is -inf"});
  expect_refused([] { alibi(std::vector<double>{0, -inf}); }, {"alibi", "slopes[1] is -inf"});
  Case<float> c;
  c.refuses(heat(5, nan), {"temperature", "position 5 is nan"});
  c.refuses(temperature([](Index) { return std::numeric_limits<float>::infinity(); }), {"position 4 is inf"});
}

/// One level, one sequence: what a cascade computes in is the type of its keys.
template <class T>
void cascade_of(const AnyScoreMod& score) {
  Case<T> c;
  const std::vector<Index> queries = {0, 2}, keys = {0, 6};
  const std::vector<CascadeLevel<ContiguousKV<T>>> levels = {
      {detail::as_kv(ragged(c.c.k_view(), keys), ragged(c.c.v_view(), keys)), {0, 1}}};
  cascade_attention(Serial{}, ragged(c.c.q_view(), queries), levels, TensorView<T>(c.out.data(), 2, 2, 4),
                    score);
}

TEST(Parameters, OfCascades) {
  for (const auto& score : {AnyScoreMod(soft_cap(1e39)), AnyScoreMod(heat(4, 1e39))}) {
    EXPECT_THROW(cascade_of<float>(score), std::invalid_argument);
    EXPECT_NO_THROW(cascade_of<double>(score));
  }
}

}  // namespace
}  // namespace gqa
