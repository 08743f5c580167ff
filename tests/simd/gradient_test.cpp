// SPDX-License-Identifier: Apache-2.0
// What backward does to rows, of every instruction set, against its definitions in double.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "gqa/simd/kernels.hpp"
#include "simd/isa_list.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

template <class Acc>
class GradientRows : public ::testing::Test {
 protected:
  static constexpr Acc inf = std::numeric_limits<Acc>::infinity();
  static constexpr Acc nan = std::numeric_limits<Acc>::quiet_NaN();
  static constexpr double epsilon = static_cast<double>(std::numeric_limits<Acc>::epsilon());
};
using Accumulators = ::testing::Types<float, double>;
TYPED_TEST_SUITE(GradientRows, Accumulators);

TYPED_TEST(GradientRows, GradientIsItsFormulaWhereTheMaskHasABitAndZeroElsewhere) {
  using Acc = TypeParam;
  constexpr Index rows = 7, columns = 128, stride = columns + 16, rows_per_mask = 3;
  const auto scores = test::random_values<Acc>(1, rows * stride, 3);
  const auto d_scores = test::random_values<Acc>(2, rows * stride);
  const auto lse = test::random_values<Acc>(3, rows), delta = test::random_values<Acc>(4, rows);
  const std::uint64_t mask[] = {~std::uint64_t{0}, 0xf0f0'1234'5678'9abc, 7, 0, 1, std::uint64_t{1} << 63};
  const Acc scale = Acc(0.4);
  for (Isa isa : test::supported_isas()) {
    for (bool masked : {false, true}) {
      auto p = scores, ds = d_scores;
      const auto counts = [&](Index r, Index j) {
        return !masked || (mask[r / rows_per_mask * 2 + j / 64] >> (j % 64) & 1) != 0;
      };
      for (Index r = 0; r < rows; ++r)
        for (Index j = 0; j < columns; ++j)
          if (!counts(r, j)) p[at(r * stride + j)] = ds[at(r * stride + j)] = this->nan;
      simd::gradient_kernels<Acc>(isa).gradient({p.data(), ds.data(), stride, rows, columns, scale,
                                                 lse.data(), delta.data(), masked ? mask : nullptr, 2,
                                                 rows_per_mask});
      for (Index r = 0; r < rows; ++r) {
        for (Index j = 0; j < stride; ++j) {
          const std::size_t i = at(r * stride + j);
          if (j >= columns) {
            ASSERT_EQ(p[i], scores[i]) << "wrote past the columns";
            continue;
          }
          const double exact = std::exp(static_cast<double>(scores[i]) * static_cast<double>(scale) -
                                        static_cast<double>(lse[at(r)]));
          const double slope = exact * (static_cast<double>(d_scores[i]) - static_cast<double>(delta[at(r)]));
          // Each exponent of up to 8 is rounded three times, then 2^x and the product.
          const double unit = 32 * this->epsilon;
          ASSERT_NEAR(static_cast<double>(p[i]), counts(r, j) ? exact : 0, unit * exact);
          ASSERT_NEAR(static_cast<double>(ds[i]), counts(r, j) ? slope : 0, unit * (std::abs(slope) + exact));
        }
      }
    }
  }
}

TYPED_TEST(GradientRows, AScoreOfMinusInfinityWeighsNothing) {
  using Acc = TypeParam;
  for (Isa isa : test::supported_isas()) {
    for (Acc lse : {Acc{1}, -this->inf}) {
      std::vector<Acc> p(64, -this->inf), ds(64, Acc{2});
      const Acc delta = 1;
      simd::gradient_kernels<Acc>(isa).gradient(
          {p.data(), ds.data(), 64, 1, 64, Acc{1}, &lse, &delta, nullptr, 0, 1});
      EXPECT_EQ(p, std::vector<Acc>(64, Acc{0}));
      EXPECT_EQ(ds, std::vector<Acc>(64, Acc{0}));
    }
  }
}

TYPED_TEST(GradientRows, DotSumsProducts) {
  using Acc = TypeParam;
  for (Isa isa : test::supported_isas()) {
    for (Index n : {0, 1, 15, 16, 17, 33, 64, 71, 200}) {
      auto x = test::random_values<Acc>(5, n + 1), y = test::random_values<Acc>(6, n + 1);
      x[at(n)] = y[at(n)] = this->nan;
      double sum = 0, magnitude = 0;
      for (Index i = 0; i < n; ++i) {
        const double product = static_cast<double>(x[at(i)]) * static_cast<double>(y[at(i)]);
        sum += product;
        magnitude += std::abs(product);
      }
      EXPECT_NEAR(static_cast<double>(simd::gradient_kernels<Acc>(isa).dot(x.data(), y.data(), n)), sum,
                  static_cast<double>(n + 1) * this->epsilon * magnitude)
          << n;
    }
  }
}

TYPED_TEST(GradientRows, SoftCapSlopeIsTheDerivative) {
  using Acc = TypeParam;
  for (Isa isa : test::supported_isas()) {
    for (Index n : {1, 16, 71}) {
      const auto x = test::random_values<Acc>(7, n, 4);
      std::vector<Acc> y(at(n + 1), Acc{3});
      simd::gradient_kernels<Acc>(isa).soft_cap_slope(x.data(), y.data(), n, Acc(2.5));
      for (Index i = 0; i < n; ++i)
        EXPECT_NEAR(static_cast<double>(y[at(i)]),
                    3 / std::pow(std::cosh(static_cast<double>(x[at(i)]) / 2.5), 2), 24 * this->epsilon);
      EXPECT_EQ(y[at(n)], Acc{3});
    }
  }
}

}  // namespace
}  // namespace gqa
