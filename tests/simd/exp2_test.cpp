// SPDX-License-Identifier: Apache-2.0
// 2^x of every instruction set: at most 2 ulp, for every float there is and a sample of the doubles.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "gqa/simd/kernels.hpp"
#include "simd/isa_list.hpp"
#include "support/random.hpp"
#include "support/sanitizers.hpp"

namespace gqa {
namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr double inf64 = std::numeric_limits<double>::infinity();

/// The distance between floats around `exact`, which a result is measured in; 2^-149 among the subnormals.
double ulp(double exact) {
  const auto bits = std::bit_cast<std::uint64_t>(exact) >> 52;
  return std::bit_cast<double>((std::max<std::uint64_t>(bits, 1023 - 126) - 23) << 52);
}

/// All floats of a sign whose exponent field is in [first, last], in batches: exp2 of each set against
/// double. Sanitizers, which look for other mistakes, see one batch in 31.
void expect_two_ulp(std::uint32_t sign, std::uint32_t first, std::uint32_t last) {
  constexpr std::uint32_t batch = 1 << 14, step = GQA_TEST_SANITIZED ? 31 * batch : batch;
  std::vector<float> x(batch), y(batch);
  std::vector<double> exact(batch);
  for (std::uint32_t begin = first << 23; begin < (last + 1) << 23; begin += step) {
    for (std::uint32_t i = 0; i < batch; ++i) {
      x[i] = std::bit_cast<float>(sign | (begin + i));
      exact[i] = std::exp2(static_cast<double>(x[i]));
    }
    for (Isa isa : test::supported_isas()) {
      simd::score_kernels<float>(isa).exp2(x.data(), y.data(), batch);
      double worst = 0;
      std::uint32_t at = 0;
      for (std::uint32_t i = 0; i < batch; ++i) {
        // Past the largest float by less than half an ulp still rounds to it, and infinity is 1 ulp off
        // there.
        const double result = y[i] == inf ? 0x1p128 : static_cast<double>(y[i]);
        const double error = std::abs(result - std::min(exact[i], 0x1p128)) / ulp(exact[i]);
        if (!(error <= worst)) {
          worst = error;
          at = i;
        }
      }
      ASSERT_LE(worst, 2) << name(isa) << ": 2^" << x[at] << " = " << y[at];
    }
  }
}

// Below 2^-25 in magnitude 2^x rounds to 1, from 128 on it is infinite and below -151 it is 0. A test a range
// of exponents, so that ctest runs them side by side.
TEST(Exp2OfEveryFloat, TinyPositive) { expect_two_ulp(0, 127 - 26, 127 - 10); }
TEST(Exp2OfEveryFloat, Positive) { expect_two_ulp(0, 127 - 9, 127 + 7); }
TEST(Exp2OfEveryFloat, TinyNegative) { expect_two_ulp(0x80000000u, 127 - 26, 127 - 10); }
TEST(Exp2OfEveryFloat, Negative) { expect_two_ulp(0x80000000u, 127 - 9, 127 + 7); }

TEST(Exp2, FloatsOfTheOtherExponentsAreOneZeroOrInfinity) {
  for (Isa isa : test::supported_isas()) {
    const auto exp2 = simd::score_kernels<float>(isa).exp2;
    std::vector<float> x, y;
    for (std::uint32_t bits = 0; bits < (127u - 26) << 23; bits += 12347)
      x.push_back(std::bit_cast<float>(bits));
    const auto tiny = x.size();
    for (std::uint32_t bits = (127u + 8) << 23; bits < 255u << 23; bits += 12347)
      x.push_back(std::bit_cast<float>(bits));
    const auto all = x.size();
    for (std::size_t i = 0; i < all; ++i) x.push_back(-x[i]);
    y.resize(x.size());
    exp2(x.data(), y.data(), static_cast<Index>(x.size()));
    for (std::size_t i = 0; i < x.size(); ++i)
      ASSERT_EQ(y[i], i % all < tiny ? 1.0f : i < all ? inf : 0.0f) << name(isa) << ": 2^" << x[i];
  }
}

template <class Acc>
class Exp2 : public ::testing::Test {};
using Accumulators = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Exp2, Accumulators);

TYPED_TEST(Exp2, SpecialValuesAreExact) {
  using Acc = TypeParam;
  using Limits = std::numeric_limits<Acc>;
  for (Isa isa : test::supported_isas()) {
    const auto exp2 = [&](Acc x) {
      Acc y = 0;
      simd::score_kernels<Acc>(isa).exp2(&x, &y, 1);
      return y;
    };
    EXPECT_EQ(exp2(-Limits::infinity()), 0) << name(isa);
    EXPECT_FALSE(std::signbit(exp2(-Limits::infinity())));
    EXPECT_EQ(exp2(Limits::infinity()), Limits::infinity()) << name(isa);
    EXPECT_TRUE(std::isnan(exp2(Limits::quiet_NaN()))) << name(isa);
    EXPECT_TRUE(std::isnan(exp2(-Limits::quiet_NaN()))) << name(isa);
    EXPECT_TRUE(std::isnan(exp2(Limits::signaling_NaN()))) << name(isa);
    EXPECT_EQ(exp2(0), 1) << name(isa);
    EXPECT_EQ(exp2(Acc{-0.0}), 1) << name(isa);
    EXPECT_EQ(exp2(Limits::lowest()), 0) << name(isa);
    EXPECT_EQ(exp2(Limits::max()), Limits::infinity()) << name(isa);
    // Whole powers, subnormal ones too.
    for (int n = Limits::min_exponent - Limits::digits; n < Limits::max_exponent; ++n)
      ASSERT_EQ(exp2(static_cast<Acc>(n)), std::ldexp(Acc{1}, n)) << name(isa) << ": 2^" << n;
    EXPECT_EQ(exp2(static_cast<Acc>(Limits::max_exponent)), Limits::infinity()) << name(isa);
  }
}

TYPED_TEST(Exp2, ArraysOfAnyLengthWriteNothingElse) {
  using Acc = TypeParam;
  for (Isa isa : test::supported_isas()) {
    for (std::size_t n = 0; n < 40; ++n) {
      std::vector<Acc> x(n), y(n + 16, Acc{-7});
      for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<Acc>(i) - 5;
      simd::score_kernels<Acc>(isa).exp2(x.data(), y.data(), static_cast<Index>(n));
      for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(y[i], std::ldexp(Acc{1}, static_cast<int>(i) - 5));
      for (std::size_t i = n; i < n + 16; ++i) ASSERT_EQ(y[i], -7) << name(isa) << ", n " << n;
    }
  }
}

TEST(Exp2OfDoubles, TwoUlpOnASample) {
  // In long double, whose 64 bits leave 1/2048 ulp for the reference itself.
  test::Random random(1);
  std::vector<double> x;
  for (int i = 0; i < 1'000'000; ++i) {
    const double magnitude =
        i % 2 ? random.uniform(0, 1075) : std::ldexp(random.uniform(1, 2), -(i / 2 % 60));
    x.push_back(i % 4 < 2 ? magnitude : -magnitude);
  }
  for (double near : {-1074.5, -1074.0, -1075.0, -1022.0, -1021.9999999, 1023.9999999, 0.5, -0.5, 1.5, -1.5})
    for (double to : {-inf64, inf64}) x.push_back(std::nextafter(near, to));
  std::vector<double> y(x.size());
  std::vector<long double> exact;
  for (double value : x) exact.push_back(std::exp2(static_cast<long double>(value)));
  for (Isa isa : test::supported_isas()) {
    simd::score_kernels<double>(isa).exp2(x.data(), y.data(), static_cast<Index>(x.size()));
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (exact[i] >= 0x1p1024L) {
        ASSERT_EQ(y[i], inf64) << name(isa) << ": 2^" << x[i];
        continue;
      }
      int exponent = 0;
      std::frexp(exact[i], &exponent);
      const long double unit = std::ldexp(1.0L, std::max(exponent - 53, -1074));
      const long double result = y[i] == inf64 ? 0x1p1024L : static_cast<long double>(y[i]);
      ASSERT_LE(std::abs(result - exact[i]), 2 * unit) << name(isa) << ": 2^" << x[i] << " = " << y[i];
    }
  }
}

}  // namespace
}  // namespace gqa
