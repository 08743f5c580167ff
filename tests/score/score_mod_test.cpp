// SPDX-License-Identifier: Apache-2.0
// Each score function against its formula written out again, in float and double, on rows of any length and
// place.
#include "gqa/score.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <unsupported/Eigen/CXX11/Tensor>

#include "support/random.hpp"

namespace gqa {
namespace {

using Formula = std::function<double(double score, Index q_head, Index q_pos, Index kv_pos)>;

template <class Acc>
class ScoreModTest : public ::testing::Test {
 protected:
  static constexpr double tolerance = std::is_same_v<Acc, float> ? 4e-6 : 1e-13;

  /// Rows of many lengths, at many places, of every head; `scale` is the size of the scores.
  template <class M>
  static void expect_is(const M& mod, const Formula& formula, Index num_q_heads, double scale = 3) {
    std::uint64_t seed = 1;
    for (Index n : {0, 1, 15, 16, 17, 64, 130}) {
      for (Index kv_begin : {0, 1, 64, 200}) {
        for (Index q_pos : {0, 5, 63, 64, 190, 330}) {
          const Index h = static_cast<Index>(seed) % num_q_heads;
          const auto before = test::random_values<Acc>(seed++, n, scale);
          auto after = before;
          mod.mod(std::span<Acc>(after), ScoreRow{0, h, q_pos, kv_begin});
          for (Index j = 0; j < n; ++j) {
            const auto at = static_cast<std::size_t>(j);
            const double expected = formula(static_cast<double>(before[at]), h, q_pos, kv_begin + j);
            ASSERT_NEAR(static_cast<double>(after[at]), expected,
                        tolerance * std::max(1.0, std::abs(expected)))
                << "n " << n << ", head " << h << ", query " << q_pos << ", key " << kv_begin + j;
          }
        }
      }
    }
  }

  /// The way back against central differences.
  template <class M>
  static void expect_slopes(const M& mod) {
    const auto chain = as_score_chain(mod);
    const ScoreRow at{0, 1, 70, 30};
    const auto scores = test::random_values<Acc>(9, 67, 2);
    std::vector<double> up(scores.begin(), scores.end()), down = up;
    for (double& x : up) x += 1e-5;
    for (double& x : down) x -= 1e-5;
    chain.mod(std::span<double>(up), at);
    chain.mod(std::span<double>(down), at);
    std::vector<Acc> slopes(scores.size(), Acc{3});
    chain.pull_back(std::span<const Acc>(scores), std::span<Acc>(slopes), at, {});
    for (std::size_t j = 0; j < scores.size(); ++j)
      ASSERT_NEAR(static_cast<double>(slopes[j]), 3 * (up[j] - down[j]) / 2e-5, 1e-5) << j;
  }
};

using Accumulators = ::testing::Types<float, double>;
TYPED_TEST_SUITE(ScoreModTest, Accumulators);

TYPED_TEST(ScoreModTest, SoftCap) {
  for (double cap : {0.5, 30.0, 50.0}) {
    for (double scale : {0.01, 3.0, 200.0}) {
      this->expect_is(
          soft_cap(cap), [=](double s, Index, Index, Index) { return cap * std::tanh(s / cap); }, 1, scale);
    }
  }
  this->expect_slopes(soft_cap(1.5));
}

TYPED_TEST(ScoreModTest, SoftCapOfInfinityIsTheCapAndOfNaNIsNaN) {
  const TypeParam inf = std::numeric_limits<TypeParam>::infinity();
  std::vector<TypeParam> scores = {inf, -inf, std::numeric_limits<TypeParam>::quiet_NaN(), 0};
  soft_cap(20).mod(std::span<TypeParam>(scores), {});
  EXPECT_NEAR(scores[0], 20, 4e-6);
  EXPECT_EQ(scores[1], -scores[0]);
  EXPECT_LE(scores[0], 20);
  EXPECT_TRUE(std::isnan(scores[2]));
  EXPECT_EQ(scores[3], 0);
}

TYPED_TEST(ScoreModTest, Alibi) {
  // The published slopes for 6 heads: 4 of the sequence for 4, then the first and third of the sequence
  // for 8.
  const std::vector<double> six = {1.0 / 4, 1.0 / 16, 1.0 / 64, 1.0 / 256, 1.0 / 2, 1.0 / 8};
  this->expect_is(
      alibi(6),
      [=](double s, Index h, Index q, Index kv) {
        return s - six[static_cast<std::size_t>(h)] * static_cast<double>(q > kv ? q - kv : kv - q);
      },
      6);
  this->expect_is(
      alibi(std::vector<double>{0.3}),
      [](double s, Index, Index q, Index kv) {
        return s - 0.3 * static_cast<double>(q > kv ? q - kv : kv - q);
      },
      1);
  this->expect_slopes(alibi(6));
}

TEST(AlibiSlopes, AsPublished) {
  const auto expect = [](Index heads, std::vector<double> log2_of_slopes) {
    const auto slopes = alibi_slopes(heads);
    ASSERT_EQ(slopes.size(), log2_of_slopes.size());
    for (std::size_t h = 0; h < slopes.size(); ++h)
      EXPECT_DOUBLE_EQ(std::log2(slopes[h]), log2_of_slopes[h]) << heads << " heads, head " << h;
  };
  expect(1, {-8});
  expect(2, {-4, -8});
  expect(8, {-1, -2, -3, -4, -5, -6, -7, -8});
  expect(3, {-4, -8, -2});
  expect(5, {-2, -4, -6, -8, -1});
  expect(12, {-1, -2, -3, -4, -5, -6, -7, -8, -0.5, -1.5, -2.5, -3.5});
}

/// T5's bucket in whole numbers: bucket b of the growing ones begins where (n / exact)^m >= (max / exact)^b.
Index bucket(Index relative, const RelativeBuckets& t) {
  Index buckets = t.num_buckets, result = 0, n = -relative;
  if (t.bidirectional) {
    buckets /= 2;
    if (n < 0) result += buckets;
    n = n < 0 ? -n : n;
  } else if (n < 0) {
    n = 0;
  }
  const Index exact = buckets / 2, growing = buckets - exact;
  if (n < exact) return result + n;
  Index b = 0;
  const auto power = [](Index base, Index exponent) {
    long double p = 1;
    for (Index i = 0; i < exponent; ++i) p *= static_cast<long double>(base);
    return p;
  };
  // n^m * exact^b >= max^b * exact^m, with both sides exact enough to tell equality: all are small powers.
  while (b + 1 < growing &&
         power(n, growing) * power(exact, b + 1) >= power(t.max_distance, b + 1) * power(exact, growing))
    ++b;
  return result + exact + b;
}

TEST(RelativeBuckets, MatchT5sFormula) {
  for (bool both : {false, true}) {
    for (const auto& [buckets, distance] : {std::pair<Index, Index>{32, 128}, {8, 20}, {64, 512}, {4, 3}}) {
      const RelativeBuckets t{buckets, distance, both};
      if (both && buckets == 4) continue;
      for (Index r = -700; r <= 700; ++r)
        ASSERT_EQ(t.of(r), bucket(r, t)) << "relative " << r << ", " << buckets << " buckets";
    }
  }
  // From the T5 code: bidirectional, 32 buckets, distance 128.
  const RelativeBuckets t5;
  EXPECT_EQ(t5.of(0), 0);
  EXPECT_EQ(t5.of(-7), 7);
  EXPECT_EQ(t5.of(-8), 8);
  EXPECT_EQ(t5.of(-16), 10);
  EXPECT_EQ(t5.of(-1000), 15);
  EXPECT_EQ(t5.of(1), 17);
  EXPECT_EQ(t5.of(1000), 31);
}

TYPED_TEST(ScoreModTest, RelativeBias) {
  for (bool both : {false, true}) {
    const RelativeBuckets t{16, 40, both};
    const auto table = test::random_values<float>(4, 16 * 3);
    const auto formula = [&](double s, Index h, Index q, Index kv) {
      return s + static_cast<double>(table[static_cast<std::size_t>(bucket(kv - q, t) * 3 + h)]);
    };
    this->expect_is(relative_bias(t, table, 3), formula, 3);
    this->expect_slopes(relative_bias(t, table, 3));
  }
}

TYPED_TEST(ScoreModTest, TensorBias) {
  const Index H = 2, Sq = 331, Sk = 331;
  const auto bias = test::random_values<float>(5, H * Sq * Sk);
  const auto formula = [&](double s, Index h, Index q, Index kv) {
    return s + (kv < Sk ? static_cast<double>(bias[static_cast<std::size_t>((h * Sq + q) * Sk + kv)]) : 0);
  };
  this->expect_is(tensor_bias(ScoreTensor<float>(bias.data(), {1, H, Sq, Sk})), formula, H);
  this->expect_slopes(tensor_bias(ScoreTensor<float>(bias.data(), {1, H, Sq, Sk})));
}

TYPED_TEST(ScoreModTest, TensorBiasBroadcasts) {
  const Index B = 3, Sk = 7;
  const auto bias = test::random_values<half>(6, B * Sk);
  const auto mod = tensor_bias(ScoreTensor<half>(bias.data(), {B, 1, 1, Sk}));
  for (Index seq = 0; seq < B; ++seq) {
    std::vector<TypeParam> scores(5, 1);
    mod.mod(std::span<TypeParam>(scores), ScoreRow{seq, 4, 1000, 4});
    for (Index j = 0; j < 5; ++j) {
      const double expected =
          4 + j < Sk ? 1 + static_cast<double>(bias[static_cast<std::size_t>(seq * Sk + 4 + j)]) : 1;
      EXPECT_NEAR(static_cast<double>(scores[static_cast<std::size_t>(j)]), expected, 1e-6);
    }
  }
}

TYPED_TEST(ScoreModTest, TensorBiasRowsSitAtTheEndUnlessTold) {
  const auto bias = test::random_values<double>(7, 2 * 6);
  Eigen::Tensor<double, 3, Eigen::RowMajor> tensor(1, 2, 6);
  std::copy(bias.begin(), bias.end(), tensor.data());
  for (const auto& [mod, first] :
       {std::pair{tensor_bias(tensor), Index{4}}, {tensor_bias(tensor, 1), Index{1}}}) {
    std::vector<TypeParam> scores(6);
    mod.mod(std::span<TypeParam>(scores), ScoreRow{0, 0, first + 1, 0});
    for (std::size_t j = 0; j < 6; ++j) EXPECT_NEAR(static_cast<double>(scores[j]), bias[6 + j], 1e-6);
  }
}

TYPED_TEST(ScoreModTest, Temperature) {
  this->expect_is(
      temperature([](Index q) { return 1 + 0.25 * static_cast<double>(q); }),
      [](double s, Index, Index q, Index) { return s * (1 + 0.25 * static_cast<double>(q)); }, 1);
  this->expect_is(
      llama4_temperature(0.1, 60),
      [](double s, Index, Index q, Index) {
        return s * (std::log(std::floor((static_cast<double>(q) + 1) / 60) + 1) * 0.1 + 1);
      },
      1);
  this->expect_slopes(temperature([](Index) { return 0.7; }));
}

TYPED_TEST(ScoreModTest, OnesOwnFunction) {
  const auto f = [](auto s, Index h, Index q, Index kv) {
    return s * 2 + static_cast<decltype(s)>(h * 100 + q - kv);
  };
  this->expect_is(score_fn(f), f, 4);
  this->expect_slopes(score_fn([](double s, Index, Index, Index) { return s * s; },
                               [](double s, Index, Index, Index) { return 2 * s; }));
}

TYPED_TEST(ScoreModTest, StagesOrderAChainWhateverTheOrderWritten) {
  const auto formula = [](double s, Index, Index q, Index kv) {
    const double scaled = s * (q % 2 ? 2 : 3);
    return 5 * std::tanh(scaled / 5) - 0.5 * static_cast<double>(q > kv ? q - kv : kv - q);
  };
  const auto heat = temperature([](Index q) { return q % 2 ? 2 : 3; });
  const auto cap = soft_cap(5);
  const auto bias = alibi(std::vector<double>{0.5, 0.5});
  this->expect_is(heat | cap | bias, formula, 1);
  this->expect_is(bias | cap | heat, formula, 1);
  this->expect_is(cap | (bias | heat), formula, 1);
  this->expect_slopes(bias | (cap | heat));
}

TYPED_TEST(ScoreModTest, AStageKeepsTheOrderWritten) {
  const auto doubled = [](double s, Index, Index, Index) { return 2 * s; };
  const auto one_more = score_fn([](double s, Index, Index, Index) { return s + 1; });
  this->expect_is(
      one_more | doubled, [](double s, Index, Index, Index) { return 2 * (s + 1); }, 1);
  this->expect_is(
      doubled | one_more, [](double s, Index, Index, Index) { return 2 * s + 1; }, 1);
  this->expect_is(
      ScoreChain<>() | one_more, [](double s, Index, Index, Index) { return s + 1; }, 1);
  this->expect_is(
      ScoreChain<>(), [](double s, Index, Index, Index) { return s; }, 1);
}

static_assert(DifferentiableScoreMod<SoftCap> && DifferentiableScoreMod<Alibi>);
static_assert(!DifferentiableScoreMod<decltype(score_fn([](double s, Index, Index, Index) { return s; }))>);

}  // namespace
}  // namespace gqa
