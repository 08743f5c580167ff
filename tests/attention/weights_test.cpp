// SPDX-License-Identifier: Apache-2.0
// The probabilities on request: those of the oracle, and what attention() multiplied the values with.
#include <gtest/gtest.h>

#include "attention/ragged_case.hpp"
#include "gqa/gqa.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::message_of;
using test::Sizes;

/// How far a probability may be off: it is at most 1, and changes by at most twice what a score does. A score
/// is a sum of head_dim products in the accumulator, each step off by half an epsilon of the largest partial
/// sum, here of absolute values; then a few more roundings by the scale, the score function and the result.
template <Scalar T>
double weight_error(const AttentionCase<T>& c) {
  const Sizes& s = c.sizes;
  double largest = 1;
  for (Index i = 0; i < s.num_q_tokens * s.num_q_heads; ++i) {
    for (Index j = 0; j < s.num_kv_tokens * s.num_kv_heads; ++j) {
      double sum = 0;
      for (Index d = 0; d < s.head_dim; ++d)
        sum += std::abs(static_cast<double>(c.q[static_cast<std::size_t>(i * s.head_dim + d)]) *
                        static_cast<double>(c.k[static_cast<std::size_t>(j * s.head_dim + d)]));
      largest = std::max(largest, sum / std::sqrt(static_cast<double>(s.head_dim)));
    }
  }
  return 2 * static_cast<double>(s.head_dim + 8) * test::detail::unit_roundoff<Accumulator<T>>() * largest;
}

/// Rows of `weights` against the oracle's.
template <class W>
void expect_rows(const Tensor3<W>& weights, const std::vector<Index>& tokens,
                 const std::vector<Index>& q_heads, const Sizes& s, const std::vector<double>& probabilities,
                 double error) {
  ASSERT_EQ(weights.dimension(0), std::ssize(tokens));
  ASSERT_EQ(weights.dimension(1), std::ssize(q_heads));
  ASSERT_EQ(weights.dimension(2), s.num_kv_tokens);
  for (Index t = 0; t < std::ssize(tokens); ++t) {
    for (Index h = 0; h < std::ssize(q_heads); ++h) {
      const Index row =
          tokens[static_cast<std::size_t>(t)] * s.num_q_heads + q_heads[static_cast<std::size_t>(h)];
      for (Index j = 0; j < s.num_kv_tokens; ++j) {
        const double exact = probabilities[static_cast<std::size_t>(row * s.num_kv_tokens + j)];
        ASSERT_NEAR(static_cast<double>(weights(t, h, j)), exact, exact == 0 ? 0 : error)
            << "row " << t << ", head " << h << ", key " << j << ", " << s.name();
      }
    }
  }
}

template <class T>
class Weights : public ::testing::Test {};

TYPED_TEST_SUITE(Weights, test::AllScalars, test::ScalarNames);

TYPED_TEST(Weights, AreTheOraclesAndMakeTheOutput) {
  std::uint64_t seed = 1;
  for (const Sizes& s : {Sizes{5, 1100, 6, 2, 24, 20}, Sizes{1, 65, 7, 1, 16}, Sizes{70, 64, 3, 3, 40},
                         Sizes{9, 130, 4, 2, 8}}) {
    AttentionCase<TypeParam> c(s, seed++);
    const Window mask = s.num_kv_tokens == 130 ? sliding_window(40) : causal();
    const auto problem = test::problem_of(c, {.mask = mask});
    const auto exact = reference::attention(problem);
    const double error = weight_error(c);
    const std::vector<Index> tokens{s.num_q_tokens - 1, 0}, q_heads{s.num_q_heads - 1, 0, s.num_q_heads / 2};
    const auto weights = attention_weights<Dynamic, Dynamic, double>(c.q_view(), c.k_view(), c.v_view(),
                                                                     WeightRows{0, tokens, q_heads}, mask);
    expect_rows(weights, tokens, q_heads, s, exact.probabilities, error);

    const auto result = test::run(c, {.mask = mask});
    for (Index t = 0; t < 2; ++t) {
      for (Index h = 0; h < 3; ++h) {
        double sum = 0;
        for (Index j = 0; j < s.num_kv_tokens; ++j) sum += weights(t, h, j);
        const Index token = tokens[static_cast<std::size_t>(t)],
                    q_head = q_heads[static_cast<std::size_t>(h)];
        const Index row = token * s.num_q_heads + q_head;
        const bool sees = exact.lse[static_cast<std::size_t>(row)] > -1e300;
        // 2 units for an exponential, in it and in the sum, and one each for the sum, its inverse and their
        // product.
        EXPECT_NEAR(sum, sees ? 1 : 0, 8 * std::numeric_limits<Accumulator<TypeParam>>::epsilon());
        for (Index d = 0; d < s.value_dim; ++d) {
          double out = 0, size = 0;
          for (Index j = 0; j < s.num_kv_tokens; ++j) {
            const double v =
                static_cast<double>(c.v_view().at(0, j, q_head * s.num_kv_heads / s.num_q_heads)[d]);
            out += weights(t, h, j) * v;
            size = std::max(size, std::abs(v));
          }
          // attention() sums weights in the accumulator, or in the dtype where the processor multiplies that.
          const double unit =
              std::is_same_v<TypeParam, double> ? 0x1p-53 : test::detail::unit_roundoff<TypeParam>();
          EXPECT_NEAR(static_cast<double>(result.out[static_cast<std::size_t>(row * s.value_dim + d)]), out,
                      (2 * unit + 2 * error) * size);
        }
      }
    }
  }
}

TYPED_TEST(Weights, OfACacheAreThoseOfTensors) {
  AttentionCase<TypeParam> c(Sizes{3, 700, 6, 2, 24, 20}, 3);
  const auto cache = test::cache_of(c);
  const auto tensors =
      attention_weights<Dynamic, Dynamic, double>(c.q_view(), c.k_view(), c.v_view(), WeightRows{}, causal());
  const auto cached =
      attention_weights<Dynamic, Dynamic, double>(c.q_view(), cache.layer(0), WeightRows{}, causal());
  ASSERT_EQ(tensors.size(), 3 * 6 * 700) << "no rows named: all of them";
  EXPECT_EQ(std::memcmp(tensors.data(), cached.data(), static_cast<std::size_t>(tensors.size()) * 8), 0);
}

TEST(WeightsCall, ScoresSinksMasksByHeadAndHeadMaps) {
  const Sizes s{4, 150, 5, 2, 16};
  const HeadGrouping map({1, 0, 1, 1, 0}, 2);
  const std::vector<double> sinks{1, -2, 0.5, 3, -std::numeric_limits<double>::infinity()};
  AttentionCase<float> c(s, 4);
  auto problem = c.problem();
  problem.kv_head_of = [&](Index h) { return map.kv_head(h); };
  problem.sink_logits = sinks;
  problem.visible = [](Index h, Index q, Index kv) { return kv <= q && q - kv < 1 + 30 * h; };
  problem.modify = [](double x, Index h, Index q, Index kv) {
    return 2 * std::tanh(x / 2) - 0.01 * static_cast<double>(h * (q - kv));
  };
  const auto exact = reference::attention(problem);
  const auto mask = per_head(
      {sliding_window(1), sliding_window(31), sliding_window(61), sliding_window(91), sliding_window(121)});
  const std::vector<Index> tokens{3, 0}, q_heads{0, 1, 2, 3, 4};
  const WeightRows rows{0, tokens, {}};
  const auto weights = attention_weights(c.q_view(), c.k_view(), c.v_view(), rows, SinkLogits(sinks),
                                         AnyScoreMod(problem.modify), map, mask);
  expect_rows(weights, tokens, q_heads, s, exact.probabilities, weight_error(c));
  for (Index h = 0; h < 5; ++h) {
    double sum = 0;
    for (Index j = 0; j < 150; ++j) sum += static_cast<double>(weights(0, h, j));
    if (h < 4) {
      EXPECT_LT(sum, 0.999) << "the sink of head " << h << " takes its part";
    } else {
      EXPECT_NEAR(sum, 1, 1e-6);
    }
  }
}

TYPED_TEST(Weights, LseOfTheChosenRowsIsThatOfAttention) {
  using Acc = Accumulator<TypeParam>;
  const Sizes s{6, 700, 6, 2, 24, 20};
  AttentionCase<TypeParam> c(s, 21);
  const auto exact = reference::attention(test::problem_of(c, {.mask = causal()}));
  const std::vector<Index> tokens{5, 0, 2}, q_heads{4, 1};
  const WeightRows rows{0, tokens, q_heads};
  Eigen::Tensor<Acc, 2, Eigen::RowMajor> lse(3, 2);
  Eigen::Tensor<Acc, 3> columns(2, 3, 1);
  attention_weights(c.q_view(), c.k_view(), c.v_view(), rows, causal(), lse_into(lse));
  attention_weights(c.q_view(), c.k_view(), c.v_view(), rows, lse_into(columns), causal());
  for (Index t = 0; t < 3; ++t) {
    for (Index h = 0; h < 2; ++h) {
      const Index row =
          tokens[static_cast<std::size_t>(t)] * s.num_q_heads + q_heads[static_cast<std::size_t>(h)];
      EXPECT_NEAR(static_cast<double>(lse(t, h)), exact.lse[static_cast<std::size_t>(row)],
                  weight_error(c) + 8 * test::detail::unit_roundoff<Acc>());
      EXPECT_EQ(columns(h, t, 0), lse(t, h));
    }
  }
  EXPECT_EQ(
      message_of([&] {
        attention_weights(c.q_view(), c.k_view(), c.v_view(), WeightRows{0, {1, 2}, q_heads}, lse_into(lse));
      }),
      "lse: sizes are 1 x 3 x 2, expected 1 x 2 x 2");
  Eigen::Tensor<Acc, 2, Eigen::RowMajor> all(6, 6);
  attention_weights(c.q_view(), c.k_view(), c.v_view(), WeightRows{}, causal(), lse_into(all));
  for (Index row = 0; row < 36; ++row)
    EXPECT_NEAR(static_cast<double>(all.data()[row]), exact.lse[static_cast<std::size_t>(row)],
                weight_error(c) + 8 * test::detail::unit_roundoff<Acc>());
}

TEST(WeightsCall, LseCountsSinksAndIsMinusInfinityWhereNothingIsSeen) {
  AttentionCase<float> c(Sizes{4, 70, 2, 1, 8}, 9);
  const auto look = [&](const auto&... extras) {
    Eigen::Tensor<float, 2, Eigen::RowMajor> lse(4, 2);
    attention_weights(c.q_view(), c.k_view(), c.v_view(), WeightRows{}, lse_into(lse), extras...);
    return lse;
  };
  const auto mask = [](Index q_pos, Index kv_pos) { return q_pos != 68 && kv_pos <= q_pos; };
  const auto plain = look(mask), with_sinks = look(mask, SinkLogits({1.5, -2}));
  for (Index h = 0; h < 2; ++h) {
    const double sink = h == 0 ? 1.5 : -2;
    EXPECT_EQ(plain(2, h), -std::numeric_limits<float>::infinity());
    EXPECT_NEAR(with_sinks(2, h), sink, 1e-6);
    EXPECT_NEAR(with_sinks(0, h), std::log(std::exp(double{plain(0, h)}) + std::exp(sink)), 1e-5);
  }
}

TEST(WeightsCall, WorksInTheCallersWorkspace) {
  AttentionCase<float> c(Sizes{4, 700, 6, 2, 24, 20}, 3);
  Workspace workspace;
  const AttentionOptions options{.workspace = &workspace};
  const auto expected = attention_weights(c.q_view(), c.k_view(), c.v_view(), WeightRows{}, causal());
  for (int i = 0; i < 2; ++i) {
    const auto weights =
        attention_weights(c.q_view(), c.k_view(), c.v_view(), WeightRows{}, causal(), options);
    EXPECT_EQ(std::memcmp(weights.data(), expected.data(), static_cast<std::size_t>(weights.size()) * 4), 0);
    EXPECT_GT(workspace.bytes(), 512 * (24 + 20) * Index{sizeof(float)}) << "a chunk was kept elsewhere";
  }
}

/// Scores stay in the workspace, where their probabilities go or nowhere, by how many rows and keys there are
/// and what is wanted of them; chunks in between may hold nothing.
TYPED_TEST(Weights, AreTheSameWhereverScoresAreKept) {
  const Sizes s{25, 7003, 8, 1, 8};
  AttentionCase<TypeParam> c(s, 31);
  test::Threads threads(3);
  const auto mask = sinks(4) | sliding_window(5600);
  const auto in_place = attention_weights<Dynamic, Dynamic, Accumulator<TypeParam>>(
      c.q_view(), c.k_view(), c.v_view(), WeightRows{}, mask);
  const auto same = [&](auto wanted, const WeightRows& rows) {
    using W = decltype(wanted);
    const auto some =
        attention_weights<Dynamic, Dynamic, W>(threads, c.q_view(), c.k_view(), c.v_view(), rows, mask);
    ASSERT_EQ(some.dimension(2), 7003);
    for (Index t = 0; t < some.dimension(0); ++t)
      for (Index h = 0; h < some.dimension(1); ++h) {
        const Index token = rows.tokens.empty() ? t : rows.tokens[static_cast<std::size_t>(t)];
        const Index head = rows.q_heads.empty() ? h : rows.q_heads[static_cast<std::size_t>(h)];
        const auto* row = &in_place(token, head, 0);
        ASSERT_TRUE(std::equal(row, row + 7003, &some(t, h, 0),
                               [](auto a, auto b) { return static_cast<W>(a) == b; }))
            << token << ", head " << head;
      }
  };
  same(double{}, {});
  same(float{}, {});
  same(float{}, {0, {24, 23, 7}, {}});
  same(double{}, {0, {24, 23, 7, 23}, {3, 7, 3}});
  same(float{}, {0, {}, {6, 0, 6, 1}});
}

TEST(WeightsCall, RunsOnAConstExecutor) {
  AttentionCase<float> c(Sizes{4, 70, 6, 2, 24, 20}, 4);
  const ContiguousKV<float> keys(c.k_view(), c.v_view());
  const Serial executor;
  const auto expected = attention_weights(c.q_view(), keys, WeightRows{}, causal());
  const auto weights = attention_weights(executor, c.q_view(), keys, WeightRows{}, causal());
  ASSERT_EQ(weights.size(), expected.size());
  EXPECT_EQ(std::memcmp(weights.data(), expected.data(), static_cast<std::size_t>(weights.size()) * 4), 0);
  EXPECT_EQ(attention_scores(executor, c.q_view(), keys, ScoresAfter::mask, causal()).size(),
            expected.size());
}

TEST(WeightsCall, OfOneSequenceOfMany) {
  test::RaggedCase<float> c({{1, 30}, {0, 5}, {4, 90}, {2, 0}}, Sizes{0, 0, 4, 2, 8}, 7);
  for (std::size_t seq : {0u, 2u}) {
    auto& one = c.each[seq];
    std::vector<Index> tokens;
    for (Index t = 0; t < one.sizes.num_q_tokens; ++t) tokens.push_back(t);
    const auto exact = reference::attention(test::problem_of(one, {.mask = causal()}));
    expect_rows(attention_weights(c.q(), c.k(), c.v(), WeightRows{static_cast<Index>(seq)}, causal()), tokens,
                {0, 1, 2, 3}, one.sizes, exact.probabilities, weight_error(one));
  }
  EXPECT_EQ(attention_weights(c.q(), c.k(), c.v(), WeightRows{1}, causal()).size(), 0);
  EXPECT_EQ(attention_weights(c.q(), c.k(), c.v(), WeightRows{3}, causal()).size(), 0);
  const auto refused = [&](const WeightRows& rows) {
    return message_of([&] { attention_weights(c.q(), c.k(), c.v(), rows, causal()); });
  };
  EXPECT_EQ(refused({4, {}, {}}), "rows: seq is 4, expected at least 0 and less than 4");
  EXPECT_EQ(refused({1, {0}, {}}), "rows: token is 0, expected at least 0 and less than 0");
  EXPECT_EQ(refused({2, {3, 4}, {}}), "rows: token is 4, expected at least 0 and less than 4");
  EXPECT_EQ(refused({2, {}, {0, 4}}), "rows: q_head is 4, expected at least 0 and less than 4");
  for (const WeightRows& rows : {WeightRows{-1, {}, {}}, WeightRows{2, {-1}, {}}, WeightRows{2, {}, {-1}}})
    EXPECT_NE(refused(rows).find("-1, expected"), std::string::npos);
}

TEST(WeightsCall, WhatIsMaskedIsNeverReadAndWeighsNothing) {
  // Key 3 is NaN in what no query sees; a row without keys has no weights.
  AttentionCase<float> c(Sizes{4, 70, 2, 1, 8}, 9);
  for (Index j : {3, 20, 69})
    for (Index d = 0; d < 8; ++d)
      c.k[static_cast<std::size_t>(j * 8 + d)] = std::numeric_limits<float>::quiet_NaN();
  const auto visible = [](Index q, Index kv) { return q != 68 && kv != 3 && kv != 20 && kv != 69; };
  const auto weights = attention_weights<Dynamic, Dynamic, double>(c.q_view(), c.k_view(), c.v_view(),
                                                                   WeightRows{}, AnyMask(visible));
  for (Index t = 0; t < 4; ++t) {
    for (Index h = 0; h < 2; ++h) {
      double sum = 0;
      for (Index j : {3, 20, 69}) EXPECT_EQ(weights(t, h, j), 0);
      for (Index j = 0; j < 70; ++j) sum += weights(t, h, j);
      EXPECT_NEAR(sum, t == 2 ? 0 : 1, 8 * std::numeric_limits<float>::epsilon()) << t;
    }
  }
}

TEST(WeightsCall, NaNOfAScoreStaysInItsRow) {
  AttentionCase<float> c(Sizes{4, 70, 2, 1, 8}, 9);
  const AnyScoreMod score([](double s, Index h, Index q, Index kv) {
    return h == 1 && q == 68 && kv == 5 ? std::numeric_limits<double>::quiet_NaN() : s;
  });
  const auto weights =
      attention_weights<Dynamic, Dynamic, double>(c.q_view(), c.k_view(), c.v_view(), WeightRows{}, score);
  for (Index t = 0; t < 4; ++t)
    for (Index h = 0; h < 2; ++h)
      for (Index j = 0; j < 70; ++j) EXPECT_EQ(std::isnan(weights(t, h, j)), t == 2 && h == 1);
  const auto windowed = attention_weights<Dynamic, Dynamic, double>(c.q_view(), c.k_view(), c.v_view(),
                                                                    WeightRows{}, score, sliding_window(66));
  for (Index j = 0; j < 70; ++j) EXPECT_EQ(std::isnan(windowed(2, 1, j)), j >= 3 && j <= 68) << j;
}

}  // namespace
}  // namespace gqa
