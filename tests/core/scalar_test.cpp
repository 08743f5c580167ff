// SPDX-License-Identifier: Apache-2.0
// Conversions give the nearest value there is, and of two as near the even one.
#include "gqa/core/scalar.hpp"

#include <gtest/gtest.h>
#include <Eigen/Core>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/random.hpp"

namespace gqa {
namespace {

template <class T>
class RoundedTo : public ::testing::Test {};
using Narrow = ::testing::Types<half, bfloat16>;
TYPED_TEST_SUITE(RoundedTo, Narrow);

template <class T>
T of_bits(std::uint16_t bits) {
  return std::bit_cast<T>(bits);
}
template <class T>
double value(std::uint16_t bits) {
  return static_cast<double>(of_bits<T>(bits));
}
template <class T>
std::uint16_t bits_of(T x) {
  return std::bit_cast<std::uint16_t>(x);
}
/// The bits of infinity, one more than those of the largest finite value.
template <class T>
constexpr std::uint16_t infinity = std::is_same_v<T, half> ? 0x7c00 : 0x7f80;

TYPED_TEST(RoundedTo, KeepsEveryValue) {
  using T = TypeParam;
  for (unsigned i = 0; i <= 0xffff; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    if ((bits & 0x7fff) > infinity<T>) {
      EXPECT_TRUE(std::isnan(static_cast<float>(rounded_to<T>(value<T>(bits)))));
      continue;
    }
    ASSERT_EQ(bits_of(rounded_to<T>(value<T>(bits))), bits);
    ASSERT_EQ(bits_of(rounded_to<T>(static_cast<float>(of_bits<T>(bits)))), bits);
  }
}

TYPED_TEST(RoundedTo, DecidesAtTheMiddle) {
  using T = TypeParam;
  for (unsigned i = 0; i < infinity<T>; ++i) {
    const auto below = static_cast<std::uint16_t>(i), above = static_cast<std::uint16_t>(i + 1);
    // Of infinity: as if there were one more value.
    const double next = above == infinity<T>
                            ? 2 * value<T>(below) - value<T>(static_cast<std::uint16_t>(i - 1))
                            : value<T>(above);
    const double middle = value<T>(below) + (next - value<T>(below)) / 2;
    const std::uint16_t even = i % 2 == 0 ? below : above;
    ASSERT_EQ(bits_of(rounded_to<T>(middle)), even) << i;
    ASSERT_EQ(bits_of(rounded_to<T>(std::nextafter(middle, 0.0))), below) << i;
    ASSERT_EQ(bits_of(rounded_to<T>(std::nextafter(middle, 1e300))), above) << i;
    ASSERT_EQ(bits_of(rounded_to<T>(-middle)), even | 0x8000) << i;
    ASSERT_EQ(bits_of(rounded_to<T>(std::nextafter(-middle, 0.0))), below | 0x8000) << i;
    ASSERT_EQ(bits_of(rounded_to<T>(std::nextafter(-middle, -1e300))), above | 0x8000) << i;
    ASSERT_EQ(bits_of(rounded_to<T>(middle * (1 + 0x1p-30))), above) << i;
    ASSERT_EQ(bits_of(rounded_to<T>(middle * (1 - 0x1p-30))), below) << i;
  }
}

TYPED_TEST(RoundedTo, IsTheNearestOfRandomDoubles) {
  using T = TypeParam;
  for (const double x : test::random_values<double>(3, 200000)) {
    const std::uint16_t bits = bits_of(rounded_to<T>(x));
    const double error = std::abs(value<T>(bits) - x);
    for (const int step : {-1, 1}) {
      if ((bits & 0x7fff) == 0 && step < 0) continue;
      ASSERT_LE(error, std::abs(value<T>(static_cast<std::uint16_t>(bits + step)) - x)) << x;
    }
  }
}

TYPED_TEST(RoundedTo, BeyondTheEnds) {
  using T = TypeParam;
  constexpr double inf = std::numeric_limits<double>::infinity();
  for (const double x : {1e39, 1e300, inf}) {
    EXPECT_EQ(bits_of(rounded_to<T>(x)), infinity<T>);
    EXPECT_EQ(bits_of(rounded_to<T>(-x)), infinity<T> | 0x8000);
  }
  for (const double x : {0.0, 1e-60, 1e-320}) {
    EXPECT_EQ(bits_of(rounded_to<T>(x)), 0);
    EXPECT_EQ(bits_of(rounded_to<T>(-x)), 0x8000);
  }
  EXPECT_TRUE(std::isnan(static_cast<float>(rounded_to<T>(std::numeric_limits<double>::quiet_NaN()))));
}

}  // namespace
}  // namespace gqa
