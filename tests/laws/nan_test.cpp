// SPDX-License-Identifier: Apache-2.0
// NaN and infinity where they are seen do what arithmetic says, and nothing else: the rows and columns of the
// oracle.
#include <gtest/gtest.h>

#include "laws/slices.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::How;
using test::Result;
using test::Sizes;

template <class T>
class NotANumber : public ::testing::Test {
 protected:
  static constexpr Index H = 4, G = 2, D = 20, Dv = 12;

  /// The same outputs are NaN or infinite as in the oracle; finite ones are close.
  static void expect_like_oracle(AttentionCase<T>& c, const How& how) {
    const auto exact = reference::attention(test::problem_of(c, how));
    for (const auto& result : {test::run(c, how), test::run_cached(c, how)}) {
      for (std::size_t i = 0; i < exact.out.size(); ++i)
        expect_alike(static_cast<double>(result.out[i]), exact.out[i], i);
      for (std::size_t i = 0; i < exact.lse.size(); ++i)
        expect_alike(static_cast<double>(result.lse[i]), exact.lse[i], i);
      if (HasFatalFailure()) return;
    }
  }
  static void expect_alike(double value, double exact, std::size_t i) {
    if (std::isfinite(exact))
      ASSERT_NEAR(value, exact, 0.1) << i;
    else if (std::isnan(exact))
      ASSERT_TRUE(std::isnan(value)) << i << ": " << value;
    else
      ASSERT_EQ(value, exact) << i;
  }
  using ::testing::Test::HasFatalFailure;

  T nan = std::numeric_limits<T>::quiet_NaN(), inf = std::numeric_limits<T>::infinity();
};
TYPED_TEST_SUITE(NotANumber, test::AllScalars, test::ScalarNames);

TYPED_TEST(NotANumber, InAQueryRowStaysInThatRow) {
  using T = TypeParam;
  const Sizes sizes{40, 200, 4, 2, 20, 12};
  const AttentionCase<T> c(sizes, 1);
  for (const Window mask : {causal(), no_mask(), sliding_window(9)}) {
    const auto clean = test::run(c, {.mask = mask});
    for (Index row : {0, 1, 5, 63, 158, 159}) {
      for (Index d : {0, 7, 19}) {
        AttentionCase<T> bad = c;
        bad.q[static_cast<std::size_t>(row * 20 + d)] =
            row % 2 ? this->nan : std::numeric_limits<T>::signaling_NaN();
        for (const auto& result : {test::run(bad, {.mask = mask}), test::run_cached(bad, {.mask = mask})}) {
          for (Index r = 0; r < 160; ++r) {
            const auto at = static_cast<std::size_t>(r);
            ASSERT_EQ(std::isnan(result.lse[at]), r == row) << r;
            for (std::size_t i = at * 12; i < at * 12 + 12; ++i) {
              ASSERT_EQ(std::isnan(static_cast<double>(result.out[i])), r == row) << r;
              ASSERT_TRUE(r == row || std::memcmp(&result.out[i], &clean.out[i], sizeof(T)) == 0) << r;
            }
          }
        }
      }
    }
  }
}

TYPED_TEST(NotANumber, InAQueryThatSeesNothingIsStillNothing) {
  AttentionCase<TypeParam> c(Sizes{10, 5, 4, 2, 20, 12}, 2);
  c.q[3] = this->nan;
  this->expect_like_oracle(c, {.mask = causal()});
}

TYPED_TEST(NotANumber, InAKey) {
  for (const Sizes& sizes : {Sizes{30, 100, 4, 2, 20, 12}, Sizes{1, 600, 4, 2, 20, 12}}) {
    for (Index token : {0, 1, 63, 64, 77, 84, 99}) {
      for (TypeParam bad : {this->nan, this->inf, static_cast<TypeParam>(-this->inf)}) {
        AttentionCase<TypeParam> c(sizes, 3);
        c.k[static_cast<std::size_t>((token * 2 + 1) * 20 + 6)] = bad;
        this->expect_like_oracle(c, {.mask = causal()});
        this->expect_like_oracle(c, {.mask = sliding_window(40)});
      }
    }
  }
}

TYPED_TEST(NotANumber, InAValue) {
  // Only its column, of the rows that see it. Scores are tame, so that no weight underflows to 0.
  for (const Sizes& sizes :
       {Sizes{30, 100, 4, 2, 20, 12}, Sizes{1, 600, 4, 2, 20, 12}, Sizes{50, 50, 4, 2, 20, 12}}) {
    for (Index token : {0, 1, 33, 47, 48}) {
      for (TypeParam bad : {this->nan, this->inf, static_cast<TypeParam>(-this->inf)}) {
        AttentionCase<TypeParam> c(sizes, 4);
        c.v[static_cast<std::size_t>((token * 2 + 1) * 12 + 5)] = bad;
        this->expect_like_oracle(c, {.mask = causal(), .scale = 0.05});
        this->expect_like_oracle(c, {.mask = window(700, 3), .scale = 0.05});
        c.v[static_cast<std::size_t>(((token + 1) * 2 + 1) * 12 + 5)] = static_cast<TypeParam>(-this->inf);
        this->expect_like_oracle(c, {.mask = causal(), .scale = 0.05});
      }
    }
  }
}

TYPED_TEST(NotANumber, Everywhere) {
  AttentionCase<TypeParam> c(Sizes{20, 90, 4, 2, 20, 12}, 5);
  std::fill(c.k.begin(), c.k.end(), this->nan);
  std::fill(c.v.begin(), c.v.end(), this->nan);
  this->expect_like_oracle(c, {.mask = causal()});
}

TYPED_TEST(NotANumber, KeysOfMinusInfinityWeighNothing) {
  // A key whose every score is -inf: its value still must be finite to count 0.
  AttentionCase<TypeParam> c(Sizes{10, 80, 4, 2, 20, 12}, 6);
  for (auto& x : c.q) x = static_cast<TypeParam>(std::abs(static_cast<double>(x)) + 0.1);
  for (Index d = 0; d < 20; ++d)
    c.k[static_cast<std::size_t>((7 * 2 + 1) * 20 + d)] = static_cast<TypeParam>(-this->inf);
  this->expect_like_oracle(c, {.mask = causal()});
  this->expect_like_oracle(c, {});
}

}  // namespace
}  // namespace gqa
