// SPDX-License-Identifier: Apache-2.0
// The oracle against cases small enough to work out by hand, and against properties that define attention.
#include "gqa/reference/attention.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cmath>
#include <limits>
#include <numeric>

#include "support/attention_case.hpp"
#include "support/naive.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::Sizes;

constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

bool causal(Index, Index q_pos, Index kv_pos) { return kv_pos <= q_pos; }

TEST(ReferenceAttention, TwoKeysByHand) {
  // Scores 2 * (1 * ln 1, 1 * ln 3) / 2: weights 1/4 and 3/4.
  const double q[] = {1}, k[] = {0, std::log(3)}, v[] = {10, -1, 20, 1};
  const auto s =
      reference::attention({.num_q_tokens = 1, .num_kv_tokens = 2, .value_dim = 2, .q = q, .k = k, .v = v});
  EXPECT_NEAR(s.probabilities[0], 0.25, 1e-15);
  EXPECT_NEAR(s.probabilities[1], 0.75, 1e-15);
  EXPECT_NEAR(s.out[0], 17.5, 1e-14);
  EXPECT_NEAR(s.out[1], 0.5, 1e-15);
  EXPECT_NEAR(s.lse[0], std::log(4), 1e-15);
}

TEST(ReferenceAttention, ScaleDefaultsToOneOverRootHeadDim) {
  const double q[] = {1, 1, 1, 1}, k[] = {0, 0, 0, 0, 1, 1, 1, 1}, v[] = {0, 1};
  reference::Problem problem{.num_q_tokens = 1, .num_kv_tokens = 2, .head_dim = 4, .q = q, .k = k, .v = v};
  EXPECT_NEAR(reference::attention(problem).out[0], 1 / (1 + std::exp(-2.0)), 1e-15);
  problem.scale = 1;
  EXPECT_NEAR(reference::attention(problem).out[0], 1 / (1 + std::exp(-4.0)), 1e-15);
}

TEST(ReferenceAttention, EqualScoresAverageWhatIsVisible) {
  const double q[] = {0, 0, 0}, k[] = {5, 6, 7, 8}, v[] = {1, 2, 4, 8};
  reference::Problem problem{.num_q_tokens = 3, .num_kv_tokens = 4, .q = q, .k = k, .v = v};
  problem.visible = causal;  // queries at positions 1, 2, 3
  auto s = reference::attention(problem);
  EXPECT_NEAR(s.out[0], 1.5, 1e-15);
  EXPECT_NEAR(s.out[1], 7.0 / 3, 1e-15);
  EXPECT_NEAR(s.out[2], 15.0 / 4, 1e-15);
  EXPECT_NEAR(s.lse[1], std::log(3), 1e-15);
  problem.q_offset = 0;
  s = reference::attention(problem);
  EXPECT_NEAR(s.out[0], 1, 1e-15);
  EXPECT_NEAR(s.out[1], 1.5, 1e-15);
  EXPECT_EQ(s.probabilities[1], 0);
}

TEST(ReferenceAttention, MoreQueriesThanKeysLeavesTheFirstEmpty) {
  const double q[] = {1, 2, 3}, k[] = {1}, v[] = {4};
  reference::Problem problem{.num_q_tokens = 3, .num_kv_tokens = 1, .q = q, .k = k, .v = v};
  problem.visible = causal;
  const auto s = reference::attention(problem);
  EXPECT_EQ(s.out, (std::vector<double>{0, 0, 4}));
  EXPECT_EQ(s.lse, (std::vector<double>{-inf, -inf, 3}));
}

TEST(ReferenceAttention, MaskedEntriesAreNeverRead) {
  const double q[] = {1}, k[] = {1, nan, inf}, v[] = {4, nan, -inf};
  reference::Problem problem{.num_q_tokens = 1, .num_kv_tokens = 3, .q = q, .k = k, .v = v};
  problem.visible = [](Index, Index, Index kv_pos) { return kv_pos == 0; };
  EXPECT_EQ(reference::attention(problem).out[0], 4);
}

TEST(ReferenceAttention, NaNInAVisibleKeyReachesItsRowOnly) {
  const double q[] = {1, 1}, k[] = {1, nan}, v[] = {4, 5};
  reference::Problem problem{.num_q_tokens = 2, .num_kv_tokens = 2, .q = q, .k = k, .v = v};
  problem.visible = causal;
  const auto s = reference::attention(problem);
  EXPECT_EQ(s.out[0], 4);
  EXPECT_TRUE(std::isnan(s.out[1]));
  EXPECT_TRUE(std::isnan(s.lse[1]));
}

TEST(ReferenceAttention, AllNaNScoresAreNotAnEmptyRow) {
  const double q[] = {nan}, k[] = {1}, v[] = {4};
  const auto s = reference::attention({.num_q_tokens = 1, .num_kv_tokens = 1, .q = q, .k = k, .v = v});
  EXPECT_TRUE(std::isnan(s.out[0]));
}

TEST(ReferenceAttention, NoKeysAtAll) {
  const double q[] = {1};
  const auto s = reference::attention({.num_q_tokens = 1, .num_kv_tokens = 0, .q = q});
  EXPECT_EQ(s.out[0], 0);
  EXPECT_EQ(s.lse[0], -inf);
}

TEST(ReferenceAttention, ModifySeesTheScaledScoreAndItsCoordinates) {
  const double q[] = {1, 2}, k[] = {1, 3}, v[] = {0, 1};
  reference::Problem problem{.num_q_tokens = 1, .num_kv_tokens = 2, .num_q_heads = 2, .q = q, .k = k, .v = v};
  problem.scale = 10;
  problem.q_offset = 7;
  std::vector<double> seen;
  problem.modify = [&](double score, Index q_head, Index q_pos, Index kv_pos) {
    seen.insert(seen.end(), {score, double(q_head), double(q_pos), double(kv_pos)});
    return kv_pos == 0 ? 0 : std::log(9 + q_head);
  };
  const auto s = reference::attention(problem);
  EXPECT_EQ(seen, (std::vector<double>{10, 0, 7, 0, 30, 0, 7, 1, 20, 1, 7, 0, 60, 1, 7, 1}));
  EXPECT_NEAR(s.out[0], 0.9, 1e-15);
  EXPECT_NEAR(s.out[1], 10.0 / 11, 1e-15);
}

TEST(ReferenceAttention, ScoresOfMinusInfinityCountNothing) {
  const double q[] = {1}, k[] = {1, 1}, v[] = {3, 5};
  reference::Problem problem{.num_q_tokens = 1, .num_kv_tokens = 2, .q = q, .k = k, .v = v};
  problem.modify = [](double score, Index, Index, Index kv_pos) { return kv_pos == 0 ? -inf : score; };
  EXPECT_EQ(reference::attention(problem).out[0], 5);
  problem.modify = [](double, Index, Index, Index) { return -inf; };
  EXPECT_EQ(reference::attention(problem).out[0], 0);
  EXPECT_EQ(reference::attention(problem).lse[0], -inf);
}

TEST(ReferenceAttention, SinkJoinsTheDenominatorOnly) {
  const double q[] = {0, 0}, k[] = {1, 1}, v[] = {3, 5}, sinks[] = {std::log(6), -inf};
  reference::Problem problem{.num_q_tokens = 1, .num_kv_tokens = 2, .num_q_heads = 2, .q = q, .k = k, .v = v};
  problem.sink_logits = sinks;
  auto s = reference::attention(problem);
  EXPECT_NEAR(s.out[0], (3.0 + 5) / 8, 1e-15);
  EXPECT_NEAR(s.out[1], 4, 1e-15);
  EXPECT_NEAR(s.lse[0], std::log(8), 1e-15);
  problem.visible = [](Index, Index, Index) { return false; };
  s = reference::attention(problem);
  EXPECT_EQ(s.out[0], 0);
  EXPECT_NEAR(s.lse[0], std::log(6), 1e-15);
  EXPECT_EQ(s.lse[1], -inf);
}

TEST(ReferenceAttention, LargeScoresDoNotOverflow) {
  const double q[] = {1}, k[] = {1e5, 1e5 + std::log(3)}, v[] = {0, 1}, sinks[] = {-1e6};
  reference::Problem problem{.num_q_tokens = 1, .num_kv_tokens = 2, .q = q, .k = k, .v = v};
  problem.sink_logits = sinks;
  EXPECT_NEAR(reference::attention(problem).out[0], 0.75, 1e-10);
}

TEST(ReferenceAttention, SmallScoresDoNotVanish) {
  const double q[] = {1}, k[] = {-1e5, -1e5 - std::log(3)}, v[] = {0, 1};
  const auto s = reference::attention({.num_q_tokens = 1, .num_kv_tokens = 2, .q = q, .k = k, .v = v});
  EXPECT_NEAR(s.out[0], 0.25, 1e-10);
  EXPECT_NEAR(s.lse[0], -1e5 + std::log(4.0 / 3), 1e-9);
}

TEST(ReferenceAttention, GroupsAreMultiHeadWithRepeatedKeys) {
  AttentionCase<double> grouped({.num_q_tokens = 3,
                                 .num_kv_tokens = 5,
                                 .num_q_heads = 6,
                                 .num_kv_heads = 2,
                                 .head_dim = 4,
                                 .value_dim = 3},
                                1);
  AttentionCase<double> repeated({.num_q_tokens = 3,
                                  .num_kv_tokens = 5,
                                  .num_q_heads = 6,
                                  .num_kv_heads = 6,
                                  .head_dim = 4,
                                  .value_dim = 3},
                                 1);
  for (std::size_t j = 0; j < 5; ++j) {
    for (std::size_t h = 0; h < 6; ++h) {
      for (std::size_t d = 0; d < 4; ++d)
        repeated.k[(j * 6 + h) * 4 + d] = grouped.k[(j * 2 + h / 3) * 4 + d];
      for (std::size_t d = 0; d < 3; ++d)
        repeated.v[(j * 6 + h) * 3 + d] = grouped.v[(j * 2 + h / 3) * 3 + d];
    }
  }
  EXPECT_EQ(reference::attention(grouped.problem()).out, reference::attention(repeated.problem()).out);

  auto mapped = repeated.problem();
  mapped.kv_head_of = [](Index h) { return 5 - h; };
  auto other = grouped.problem();
  other.kv_head_of = [](Index h) { return h < 3 ? 1 : 0; };
  EXPECT_EQ(reference::attention(mapped).out, reference::attention(other).out);
}

TEST(ReferenceAttention, ProbabilitiesSumToOneAndWeightTheValues) {
  AttentionCase<double> c({.num_q_tokens = 4,
                           .num_kv_tokens = 9,
                           .num_q_heads = 3,
                           .num_kv_heads = 1,
                           .head_dim = 5,
                           .value_dim = 2},
                          7);
  auto problem = c.problem();
  problem.visible = causal;
  const auto s = reference::attention(problem);
  for (std::size_t row = 0; row < 12; ++row) {
    double sum = 0, out = 0;
    for (std::size_t j = 0; j < 9; ++j) {
      sum += s.probabilities[row * 9 + j];
      out += s.probabilities[row * 9 + j] * c.v[j * 2 + 1];
    }
    EXPECT_NEAR(sum, 1, 1e-14);
    EXPECT_NEAR(out, s.out[row * 2 + 1], 1e-14);
  }
}

template <class T>
class NaiveRun : public ::testing::Test {};
using Scalars = ::testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(NaiveRun, Scalars);

TYPED_TEST(NaiveRun, ErrorIsThatOfItsDtype) {
  AttentionCase<TypeParam> c(
      {.num_q_tokens = 5, .num_kv_tokens = 70, .num_q_heads = 4, .num_kv_heads = 2, .head_dim = 32}, 3);
  auto problem = c.problem();
  problem.visible = causal;
  const double sinks[] = {0.5, 1, -1, 2};
  problem.sink_logits = sinks;
  const auto exact = reference::attention(problem);
  const auto naive = test::naive_attention<TypeParam>(problem);
  const double unit = test::detail::unit_roundoff<TypeParam>();
  const double error = test::max_error<double, double>(naive.out, exact.out);
  EXPECT_LT(error, 16 * unit);
  EXPECT_GT(error, unit / 16);
}

TYPED_TEST(NaiveRun, BoundAcceptsTheNaiveRunAndRejectsALostKey) {
  AttentionCase<TypeParam> c(
      {.num_q_tokens = 3, .num_kv_tokens = 65, .num_q_heads = 2, .num_kv_heads = 1, .head_dim = 16}, 5);
  auto problem = c.problem();
  const auto exact = reference::attention(problem);
  const auto naive = test::naive_attention<TypeParam>(problem);
  EXPECT_TRUE(test::out_within_naive_error<TypeParam>(std::span<const double>(naive.out), problem, exact));
  EXPECT_TRUE(test::lse_within_naive_error<TypeParam>(std::span<const double>(naive.lse), exact, naive));

  auto lost = problem;
  lost.visible = [](Index, Index, Index kv_pos) { return kv_pos != 64; };
  const auto wrong = reference::attention(lost);
  EXPECT_FALSE(test::out_within_naive_error<TypeParam>(std::span<const double>(wrong.out), problem, exact));
  EXPECT_FALSE(test::lse_within_naive_error<TypeParam>(std::span<const double>(wrong.lse), exact, naive));
}

TEST(MaxError, NaNAndInfinityAgainstNumbersAreInfinite) {
  const double one[] = {1, nan, inf}, same[] = {1, nan, inf}, number[] = {1, 2, inf},
               other[] = {1, nan, -inf};
  EXPECT_EQ((test::max_error<double, double>(one, same)), 0);
  EXPECT_EQ((test::max_error<double, double>(one, number)), inf);
  EXPECT_EQ((test::max_error<double, double>(one, other)), inf);
}

}  // namespace
}  // namespace gqa
