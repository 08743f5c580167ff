// SPDX-License-Identifier: Apache-2.0
#include "gqa/position/rope_scaling.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "rope_reference.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace {

using gqa::Index;
using gqa::RopeScaling;
using gqa::test::message_of;

constexpr long double two_pi = 6.283185307179586476925286766559005768L;

long double trained(Index i, Index dim, double theta) {
  return 1 / std::pow(static_cast<long double>(theta),
                      2.0L * static_cast<long double>(i) / static_cast<long double>(dim));
}

void expect_close(const std::vector<double>& actual, const std::vector<double>& expected, double relative) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i)
    EXPECT_NEAR(actual[i] / expected[i], 1, relative) << "pair " << i;
}

TEST(RopeScaling, NoneIsTheTrainedGeometricSeries) {
  for (const double theta : {10000.0, 500000.0, 1.0, 0.5, 1e8})
    for (const Index dim : {2, 6, 64, 100, 128, 256}) {
      const std::vector<double> actual = RopeScaling::none().inverse_frequencies(dim, theta);
      ASSERT_EQ(actual.size(), static_cast<std::size_t>(dim / 2));
      for (Index i = 0; i < dim / 2; ++i)
        EXPECT_NEAR(actual[static_cast<std::size_t>(i)] / static_cast<double>(trained(i, dim, theta)), 1,
                    3e-15);
    }
  EXPECT_EQ(RopeScaling::none().attention_factor(), 1);
}

// The published implementations, in float32: hence 1e-6.
TEST(RopeScaling, AgreesWithTransformers) {
  namespace ref = rope_reference;
  const auto check = [](const char* name, const RopeScaling& scaling, Index dim, double theta,
                        const ref::Frequencies& expected) {
    SCOPED_TRACE(name);
    expect_close(scaling.inverse_frequencies(dim, theta), expected.inverse, 1e-6);
    EXPECT_NEAR(scaling.attention_factor(), expected.attention_factor, 1e-12);
  };
  check("llama 3.1",
        RopeScaling::llama3(
            {.factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_context = 8192}),
        128, 500000, ref::llama_3_1);
  check("llama 3.2",
        RopeScaling::llama3(
            {.factor = 32, .low_freq_factor = 1, .high_freq_factor = 4, .original_context = 8192}),
        64, 500000, ref::llama_3_2);
  check("qwen 2.5", RopeScaling::yarn({.factor = 4, .original_context = 32768}), 128, 1e6,
        ref::qwen_2_5_yarn);
  check("deepseek v3",
        RopeScaling::yarn({.factor = 40,
                           .original_context = 4096,
                           .attention_factor = gqa::yarn_mscale(40, 1.0) / gqa::yarn_mscale(40, 1.0)}),
        64, 10000, ref::deepseek_v3_yarn);
  check("gpt-oss", RopeScaling::yarn({.factor = 32, .original_context = 4096, .truncate = false}), 64, 150000,
        ref::gpt_oss_yarn);
  check("gemma 3", RopeScaling::linear(8), 256, 1e6, ref::gemma_3_linear);
  check("ntk", RopeScaling::ntk(4), 128, 10000, ref::ntk_alpha_4);
  check("partial", RopeScaling::linear(2), 32, 10000, ref::partial_linear);
}

TEST(RopeScaling, LinearDividesEveryFrequency) {
  for (const double factor : {0.5, 1.0, 2.0, 8.0, 31.7}) {
    const std::vector<double> actual = RopeScaling::linear(factor).inverse_frequencies(64, 10000);
    for (Index i = 0; i < 32; ++i)
      EXPECT_NEAR(actual[static_cast<std::size_t>(i)] * factor / static_cast<double>(trained(i, 64, 10000)),
                  1, 1e-15);
  }
}

TEST(RopeScaling, NtkKeepsTheFastestPairAndDividesTheSlowest) {
  for (const double alpha : {0.5, 1.0, 2.0, 8.0, 26.3}) {
    const std::vector<double> plain = RopeScaling::none().inverse_frequencies(128, 10000);
    const std::vector<double> actual = RopeScaling::ntk(alpha).inverse_frequencies(128, 10000);
    EXPECT_EQ(actual.front(), 1);
    EXPECT_NEAR(plain.back() / actual.back() / alpha, 1, 1e-13);
    for (Index i = 0; i < 64; ++i) {  // a geometric series still
      const double exponent = static_cast<double>(i) / 63;
      EXPECT_NEAR(plain[static_cast<std::size_t>(i)] / actual[static_cast<std::size_t>(i)] /
                      std::pow(alpha, exponent),
                  1, 1e-13);
    }
  }
}

// As Meta publishes it: three cases by wavelength.
TEST(RopeScaling, Llama3FollowsItsWavelengths) {
  for (const std::uint64_t seed : gqa::test::seeds(20)) {
    gqa::test::Random random(seed);
    const double factor = random.uniform(1, 40), low = random.uniform(0.5, 3),
                 high = low + random.uniform(0.5, 6);
    const double theta = random.uniform(5000, 1e6);
    const Index context = random.integer(100, 40000), dim = 2 * random.integer(1, 80);
    const std::vector<double> actual =
        RopeScaling::llama3(
            {.factor = factor, .low_freq_factor = low, .high_freq_factor = high, .original_context = context})
            .inverse_frequencies(dim, theta);
    for (Index i = 0; i < dim / 2; ++i) {
      const long double omega = trained(i, dim, theta), wavelength = two_pi / omega;
      const long double length = static_cast<long double>(context);
      long double expected = 0;
      if (wavelength < length / high) {
        expected = omega;
      } else if (wavelength > length / low) {
        expected = omega / factor;
      } else {
        const long double smooth = (length / wavelength - low) / (high - low);
        expected = (1 - smooth) * omega / factor + smooth * omega;
      }
      EXPECT_NEAR(actual[static_cast<std::size_t>(i)] / static_cast<double>(expected), 1, 1e-12)
          << "seed " << seed << " pair " << i;
    }
  }
}

// As its authors' repository has it: the bounds of a ramp over pair numbers, found from numbers of turns.
TEST(RopeScaling, YarnBlendsByParts) {
  int compared = 0;
  for (const std::uint64_t seed : gqa::test::seeds(200)) {
    gqa::test::Random random(seed);
    const double factor = random.uniform(0.5, 40), slow = random.uniform(0.5, 3),
                 fast = slow + random.uniform(1, 40);
    const double theta = std::exp(random.uniform(2, 14));
    const Index context = static_cast<Index>(std::exp(random.uniform(3, 11))),
                dim = 2 * random.integer(2, 80);
    const bool truncate = random.flip();
    const std::vector<double> actual = RopeScaling::yarn({.factor = factor,
                                                          .original_context = context,
                                                          .beta_fast = fast,
                                                          .beta_slow = slow,
                                                          .attention_factor = std::nullopt,
                                                          .truncate = truncate})
                                           .inverse_frequencies(dim, theta);
    const auto correction_dim = [&](long double rotations) {
      return static_cast<long double>(dim) *
             std::log(static_cast<long double>(context) / (rotations * two_pi)) /
             (2 * std::log(static_cast<long double>(theta)));
    };
    long double low = correction_dim(fast), high = correction_dim(slow);
    if (truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0L);
    high = std::min(high, static_cast<long double>(dim) - 1);
    if (low == high) high += 0.001L;
    if (high - low < 0.0009L) continue;  // theirs has no meaning there; see the short context below
    ++compared;
    for (Index i = 0; i < dim / 2; ++i) {
      const long double ramp =
          std::min(1.0L, std::max(0.0L, (static_cast<long double>(i) - low) / (high - low)));
      const long double omega = trained(i, dim, theta);
      const long double expected = omega / factor * ramp + omega * (1 - ramp);
      EXPECT_NEAR(actual[static_cast<std::size_t>(i)] / static_cast<double>(expected), 1, 1e-11)
          << "seed " << seed << " pair " << i;
    }
  }
  EXPECT_GT(compared, 100);
}

TEST(RopeScaling, YarnAttentionFactor) {
  EXPECT_NEAR(RopeScaling::yarn({.factor = 4, .original_context = 4096}).attention_factor(),
              1.138629436111989, 1e-14);
  EXPECT_EQ(RopeScaling::yarn({.factor = 1, .original_context = 4096}).attention_factor(), 1);
  EXPECT_EQ(RopeScaling::yarn({.factor = 0.5, .original_context = 4096}).attention_factor(), 1);
  EXPECT_EQ(
      RopeScaling::yarn({.factor = 4, .original_context = 4096, .attention_factor = 1.5}).attention_factor(),
      1.5);
  EXPECT_NEAR(gqa::yarn_mscale(40, 0.707), 1 + 0.0707 * std::log(40.0), 1e-15);
}

// The blend lies outside the pairs there are: all are turned fewer than beta_slow times.
TEST(RopeScaling, YarnWithAShortContextInterpolatesEverything) {
  const std::vector<double> actual =
      RopeScaling::yarn({.factor = 4, .original_context = 3}).inverse_frequencies(64, 10000);
  for (Index i = 1; i < 32; ++i)
    EXPECT_NEAR(actual[static_cast<std::size_t>(i)] * 4 / static_cast<double>(trained(i, 64, 10000)), 1,
                1e-13);
}

TEST(RopeScaling, FactorsDivideEachFrequency) {
  const RopeScaling scaling = RopeScaling::factors({1, 2, 0.5, 8}, 1.19);
  const std::vector<double> actual = scaling.inverse_frequencies(8, 10000);
  const double expected[] = {1, 0.1 / 2, 0.01 / 0.5, 0.001 / 8};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(actual[i] / expected[i], 1, 1e-15);
  EXPECT_EQ(scaling.attention_factor(), 1.19);
}

// What converters write into `rope_freqs.weight` is Llama 3's scaling as factors.
TEST(RopeScaling, Llama3AsFactors) {
  const std::vector<double> plain = RopeScaling::none().inverse_frequencies(128, 500000);
  const std::vector<double> llama =
      RopeScaling::llama3(
          {.factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_context = 8192})
          .inverse_frequencies(128, 500000);
  std::vector<double> factors(plain.size());
  for (std::size_t i = 0; i < plain.size(); ++i) factors[i] = plain[i] / llama[i];
  EXPECT_EQ(factors.front(), 1);
  EXPECT_NEAR(factors.back(), 8, 1e-14);
  expect_close(RopeScaling::factors(factors).inverse_frequencies(128, 500000), llama, 1e-15);
}

TEST(RopeScaling, RefusesWhatIsNotPositive) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  for (const double bad : {0.0, -1.0, nan, inf}) {
    EXPECT_THROW(RopeScaling::linear(bad), std::invalid_argument) << bad;
    EXPECT_THROW(RopeScaling::ntk(bad), std::invalid_argument) << bad;
    EXPECT_THROW(RopeScaling::factors({1, bad}), std::invalid_argument) << bad;
    EXPECT_THROW(RopeScaling::factors({1, 1}, bad), std::invalid_argument) << bad;
    EXPECT_THROW(RopeScaling::yarn({.factor = bad, .original_context = 4096}), std::invalid_argument) << bad;
    EXPECT_THROW(RopeScaling::yarn({.factor = 4, .original_context = 4096, .beta_fast = bad}),
                 std::invalid_argument)
        << bad;
    EXPECT_THROW(RopeScaling::yarn({.factor = 4, .original_context = 4096, .beta_slow = bad}),
                 std::invalid_argument)
        << bad;
    EXPECT_THROW(RopeScaling::yarn({.factor = 4, .original_context = 4096, .attention_factor = bad}),
                 std::invalid_argument)
        << bad;
    EXPECT_THROW(RopeScaling::llama3({bad, 1, 4, 8192}), std::invalid_argument) << bad;
    EXPECT_THROW(RopeScaling::llama3({8, bad, 4, 8192}), std::invalid_argument) << bad;
    EXPECT_THROW(RopeScaling::llama3({8, 1, bad, 8192}), std::invalid_argument) << bad;
    EXPECT_THROW(RopeScaling::none().inverse_frequencies(64, bad), std::invalid_argument) << bad;
  }
  EXPECT_THROW(RopeScaling::yarn({.factor = 4, .original_context = 0}), std::invalid_argument);
  EXPECT_THROW(RopeScaling::llama3({8, 1, 4, -8192}), std::invalid_argument);
}

TEST(RopeScaling, SaysWhatIsWrong) {
  EXPECT_EQ(message_of([] { RopeScaling::linear(-2); }), "linear: factor is -2, expected a positive number");
  EXPECT_EQ(message_of([] {
              RopeScaling::factors({1, 0});
            }),
            "factors: factor 1 is 0, expected a positive number");
  EXPECT_EQ(message_of([] { RopeScaling::yarn({.factor = 4, .original_context = 4096, .beta_fast = 1}); }),
            "yarn: beta_fast is 1, expected more than beta_slow = 1");
  EXPECT_EQ(message_of([] {
              RopeScaling::llama3({8, 4, 1, 8192});
            }),
            "llama3: high_freq_factor is 1, expected more than low_freq_factor = 4");
  EXPECT_EQ(message_of([] { RopeScaling::none().inverse_frequencies(7, 10000); }),
            "rope: rotary_dim is 7, expected a positive even number");
  EXPECT_EQ(message_of([] { RopeScaling::none().inverse_frequencies(64, 0); }),
            "rope: theta is 0, expected a positive number");
  EXPECT_EQ(message_of([] {
              RopeScaling::factors({1, 1, 1}).inverse_frequencies(64, 10000);
            }),
            "factors: size is 3, expected rotary_dim / 2 = 32");
  EXPECT_EQ(message_of([] { RopeScaling::ntk(2).inverse_frequencies(2, 10000); }),
            "ntk: rotary_dim is 2, expected more than 2");
  EXPECT_EQ(message_of([] { RopeScaling::ntk(1e300).inverse_frequencies(4, 10000); }),
            "ntk: alpha is 1e+300, which makes theta = 10000 become inf");
  EXPECT_EQ(message_of([] {
              RopeScaling::yarn({.factor = 4, .original_context = 4096}).inverse_frequencies(64, 1);
            }),
            "yarn: theta is 1, expected more than 1");
}

}  // namespace
