// SPDX-License-Identifier: Apache-2.0
// Conversions between stored types and accumulators, of every instruction set: exhaustive from 16 bits, a
// large sample to them, Eigen's conversions as the judge. The generic set is the twin of the others'
// instructions.
#include <gtest/gtest.h>
#include <Eigen/Core>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "gqa/simd/kernels.hpp"
#include "simd/isa_list.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

template <class T>
class Convert16 : public ::testing::Test {};
using Scalars16 = ::testing::Types<half, bfloat16>;
TYPED_TEST_SUITE(Convert16, Scalars16);

template <class T>
std::uint16_t bits_of(T x) {
  return std::bit_cast<std::uint16_t>(x);
}
std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }

TYPED_TEST(Convert16, EveryValueWidensAsInEigen) {
  using T = TypeParam;
  std::vector<T> x;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits)
    x.push_back(std::bit_cast<T>(static_cast<std::uint16_t>(bits)));
  std::vector<float> y(x.size());
  for (Isa isa : test::supported_isas()) {
    simd::convert_kernels<T>(isa).widen(x.data(), static_cast<Index>(x.size()), 1, y.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float expected = static_cast<float>(x[i]);
      if (std::isnan(expected))
        ASSERT_TRUE(std::isnan(y[i])) << name(isa) << ": " << std::hex << i;
      else
        ASSERT_EQ(bits_of(y[i]), bits_of(expected)) << name(isa) << ": " << std::hex << i;
    }
  }
}

/// Floats around every value of T and every tie between two of them, and a sample of all others.
template <class T>
std::vector<float> floats_to_round() {
  std::vector<float> x;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float a = static_cast<float>(std::bit_cast<T>(static_cast<std::uint16_t>(bits)));
    const float b = static_cast<float>(std::bit_cast<T>(static_cast<std::uint16_t>((bits + 1) & 0xffff)));
    const float tie = static_cast<float>((static_cast<double>(a) + static_cast<double>(b)) / 2);
    for (float middle : {a, tie}) {
      const auto at = bits_of(middle);
      for (std::uint32_t nearby : {at - 1, at, at + 1}) x.push_back(std::bit_cast<float>(nearby));
    }
  }
  for (std::uint64_t all = 0; all < 0x100000000; all += 1021)
    x.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(all)));
  for (float special : {0x1p-14f, 0x1p-24f, 0x1p-25f, 0x1.000002p-25f, 0x1.fffffep-26f, 65504.0f, 65519.996f,
                        65520.0f, 0x1p-126f, 0x1p-149f, 0x1.fffffep127f, 0x1.fep127f, 0x1.ffp127f})
    for (float sign : {1.0f, -1.0f}) x.push_back(sign * special);
  for (std::uint32_t nan : {0x7f800001u, 0x7fffffffu, 0xffc00000u, 0x7f801fffu, 0xff80ffffu})
    x.push_back(std::bit_cast<float>(nan));
  return x;
}

TYPED_TEST(Convert16, FloatsNarrowAsInEigenAndNoZeroTurnsNegative) {
  using T = TypeParam;
  const auto x = floats_to_round<T>();
  std::vector<T> y(x.size());
  for (Isa isa : test::supported_isas()) {
    simd::convert_kernels<T>(isa).narrow(x.data(), static_cast<Index>(x.size()), 1, y.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (std::isnan(x[i])) {
        ASSERT_TRUE(std::isnan(static_cast<float>(y[i]))) << name(isa) << ": " << std::hex << bits_of(x[i]);
      } else {
        const T expected = static_cast<T>(x[i] == 0 ? 0.0f : x[i]);
        ASSERT_EQ(bits_of(y[i]), bits_of(expected)) << name(isa) << ": " << std::hex << bits_of(x[i]);
      }
    }
  }
}

TYPED_TEST(Convert16, FloatsRoundAsInEigen) {
  using T = TypeParam;
  const auto x = floats_to_round<T>();
  const std::uint16_t quiet = std::is_same_v<T, half> ? 0x7e00 : 0x7fc0;
  std::vector<T> y(x.size());
  for (Isa isa : test::supported_isas()) {
    simd::convert_kernels<T>(isa).round(x.data(), static_cast<Index>(x.size()), y.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::uint16_t nan = quiet | static_cast<std::uint16_t>(std::signbit(x[i]) ? 0x8000 : 0);
      ASSERT_EQ(bits_of(y[i]), std::isnan(x[i]) ? nan : bits_of(static_cast<T>(x[i])))
          << name(isa) << ": " << std::hex << bits_of(x[i]);
    }
  }
}

template <class T>
class Convert : public ::testing::Test {};
using Scalars = ::testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(Convert, Scalars);

TYPED_TEST(Convert, FactorsAndAnyLengthAndNothingElse) {
  using T = TypeParam;
  using Acc = Accumulator<T>;
  for (Isa isa : test::supported_isas()) {
    const auto kernels = simd::convert_kernels<T>(isa);
    for (Index n = 0; n < 50; ++n) {
      const auto x = test::random_values<T>(static_cast<std::uint64_t>(n) + 1, n);
      const auto size = static_cast<std::size_t>(n);
      std::vector<Acc> wide(size + 16, Acc{-7});
      kernels.widen(x.data(), n, Acc{-0.5}, wide.data());
      for (std::size_t i = 0; i < size; ++i) ASSERT_EQ(wide[i], static_cast<Acc>(x[i]) * Acc{-0.5});
      for (std::size_t i = size; i < wide.size(); ++i) ASSERT_EQ(wide[i], -7) << name(isa) << ", n " << n;

      std::vector<T> narrow(size + 16, static_cast<T>(-7));
      kernels.narrow(wide.data(), n, Acc{3}, narrow.data());
      for (std::size_t i = 0; i < size; ++i) ASSERT_EQ(narrow[i], static_cast<T>(wide[i] * 3));
      for (std::size_t i = size; i < narrow.size(); ++i)
        ASSERT_EQ(narrow[i], static_cast<T>(-7)) << name(isa) << ", n " << n;

      kernels.round(wide.data(), n, narrow.data());
      for (std::size_t i = 0; i < size; ++i) ASSERT_EQ(narrow[i], static_cast<T>(wide[i]));
      for (std::size_t i = size; i < narrow.size(); ++i)
        ASSERT_EQ(narrow[i], static_cast<T>(-7)) << name(isa) << ", n " << n;
    }
  }
}

TYPED_TEST(Convert, NegativeZerosBecomePositive) {
  using T = TypeParam;
  using Acc = Accumulator<T>;
  for (Isa isa : test::supported_isas()) {
    const std::vector<Acc> x(20, Acc{-0.0});
    std::vector<T> y(20, static_cast<T>(1));
    simd::convert_kernels<T>(isa).narrow(x.data(), 20, Acc{1}, y.data());
    for (T zero : y) ASSERT_FALSE(std::signbit(static_cast<double>(zero))) << name(isa);
  }
}

}  // namespace
}  // namespace gqa
