// SPDX-License-Identifier: Apache-2.0
// The gradients of score functions' parameters against central differences of what they do to a row.
#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "gqa/score.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

constexpr Index H = 2, Sq = 3, Sk = 70;
const AttentionExtent extent{.num_q_heads = H, .q = {Sk - Sq, Sk}, .kv = {0, Sk}, .in_double = true};

/// Calls f(scores, d, at) for each row of a call.
template <class F>
void for_rows(F&& f) {
  for (Index h = 0; h < H; ++h)
    for (Index i = 0; i < Sq; ++i) {
      const auto seed = static_cast<std::uint64_t>(2 * (h * Sq + i));
      f(test::random_values<double>(seed, Sk, 2), test::random_values<double>(seed + 1, Sk),
        ScoreRow{0, h, Sk - Sq + i, 0, Sk - Sq});
    }
}

template <class M>
double loss(const M& mod) {
  double sum = 0;
  for_rows([&](std::vector<double> scores, const std::vector<double>& d, const ScoreRow& at) {
    mod.mod(std::span<double>(scores), at);
    for (std::size_t j = 0; j < d.size(); ++j) sum += scores[j] * d[j];
  });
  return sum;
}

/// `make(parameters)` is the score function. What it sums up is the differences by each parameter.
template <class Make>
void expect_differences(std::vector<double> parameters, Make make) {
  const auto chain = as_score_chain(make(parameters));
  std::vector<double> gradient(static_cast<std::size_t>(chain.num_parameters(extent)));
  ASSERT_EQ(gradient.size(), parameters.size());
  for_rows([&](const std::vector<double>& scores, std::vector<double> d, const ScoreRow& at) {
    chain.pull_back(std::span<const double>(scores), std::span<double>(d), at, {gradient, &extent});
  });
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    auto up = parameters, down = parameters;
    up[i] += 1e-5;
    down[i] -= 1e-5;
    EXPECT_NEAR(gradient[i], (loss(make(up)) - loss(make(down))) / 2e-5,
                1e-6 * std::max(1.0, std::abs(gradient[i])))
        << "parameter " << i;
  }
}

TEST(ParametersGradient, OfASoftCap) {
  expect_differences({1.5}, [](const auto& p) { return soft_cap(p[0]); });
}

TEST(ParametersGradient, OfAlibi) {
  expect_differences({0.5, -0.25}, [](const auto& p) { return alibi(p); });
}

TEST(ParametersGradient, OfARelativeBias) {
  for (Index most : {20, 6000}) {  // keys beyond the table of near distances too
    const RelativeBuckets buckets{.num_buckets = 8, .max_distance = most, .bidirectional = most == 20};
    expect_differences(test::random_values<double>(5, 8 * H),
                       [=](const auto& p) { return relative_bias(buckets, p, H); });
  }
}

TEST(ParametersGradient, OfABiasTensor) {
  for (const ScoreTensor<double>::Sizes& s :
       {ScoreTensor<double>::Sizes{1, 1, 1, Sk}, {1, H, Sq, 1}, {1, 1, Sq, Sk}, {1, H, 1, 1}})
    expect_differences(test::random_values<double>(6, s.heads * s.q_tokens * s.kv_tokens),
                       [=](const auto& p) { return tensor_bias(ScoreTensor<double>(p.data(), s)); });
}

TEST(ParametersGradient, OfATemperature) {
  expect_differences(test::random_values<double>(7, Sk), [](const auto& p) {
    return temperature([p](Index q_pos) { return p[static_cast<std::size_t>(q_pos)]; });
  });
}

/// The chain rule: each parameter's gradient passes through what acts after it. Parameters stand in the order
/// their functions act, whatever the order written, behind one type too.
TEST(ParametersGradient, OfAChainStandInTheOrderItActs) {
  const auto make = [](const std::vector<double>& p) {
    const auto square = score_fn([](double s, Index, Index, Index) { return 0.1 * s * s; },
                                 [](double s, Index, Index, Index) { return 0.2 * s; });
    return alibi({p[1], p[2]}) | square | soft_cap(p[0]);
  };
  expect_differences({2, 0.1, 0.2}, make);
  expect_differences({2, 0.1, 0.2}, [&](const auto& p) { return AnyScoreMod(make(p)); });
  expect_differences({2, 0.1, 0.2}, [&](const auto& p) {
    return AnyScoreMod(alibi({p[1], p[2]})) | soft_cap(p[0]);
  });
}

TEST(ParametersGradient, AreApartWhereNoTwoQueriesShareOne) {
  const auto same = [](ParametersApart a, ParametersApart b) {
    return a.by_seq == b.by_seq && a.by_kv_head == b.by_kv_head && a.by_query == b.by_query;
  };
  const double x[6] = {};
  const auto bias = tensor_bias(ScoreTensor<double>(x, {3, 2, 1, 1}));
  EXPECT_TRUE(same(bias.parameters_apart(), {true, true, false}));
  EXPECT_TRUE(same(as_score_chain(alibi(2)).parameters_apart(), {false, true, false}));
  EXPECT_TRUE(same((bias | alibi(2)).parameters_apart(), {false, true, false}));
  EXPECT_TRUE(same((soft_cap(1) | alibi(2)).parameters_apart(), {}));
  const auto free = score_fn([](double s, Index, Index, Index) { return s; });
  EXPECT_TRUE(same((free | bias).parameters_apart(), {true, true, false}));
}

TEST(ParametersGradient, AnyScoreModWithoutADerivativeIsRefused) {
  const AnyScoreMod any(score_fn([](double s, Index, Index, Index) { return s; }));
  EXPECT_EQ(test::message_of([&] { (soft_cap(2) | any).check_derivative(); }),
            "AnyScoreMod: a score function without a derivative, expected score_fn(f, derivative)");
  EXPECT_NO_THROW(AnyScoreMod(soft_cap(2) | alibi(2)).check_derivative());
}

TEST(ParametersGradient, ATemperatureOfPositionsBelow0HasNone) {
  const auto t = temperature([](Index) { return 1.0; });
  EXPECT_EQ(test::message_of([&] {
              t.num_parameters({.q = {-3, 5}});
            }),
            "temperature: queries begin at position -3, expected at least 0 for its gradient");
}

}  // namespace
}  // namespace gqa
