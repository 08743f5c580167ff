// SPDX-License-Identifier: Apache-2.0
// Products of rows in every instruction set: against a plain loop in double, with the same bits whatever
// other rows there are, however the depth is cut and in every set that multiplies and adds in one rounding.
#include <gtest/gtest.h>
#include <Eigen/Core>

#include <cmath>
#include <limits>
#include <vector>

#include "gqa/simd/kernels.hpp"
#include "simd/isa_list.hpp"
#include "support/random.hpp"
#include "support/scalars.hpp"

namespace gqa {
namespace {

using simd::dot_columns;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// A and B by rows of `stride` elements, what is between them NaN.
template <class T>
struct Rows {
  using Acc = Accumulator<T>;
  Index a_rows, b_rows, depth, stride;
  std::vector<Acc> a;
  std::vector<T> b;

  Rows(Index rows_of_a, Index rows_of_b, Index of_depth, std::uint64_t seed)
      : a_rows(rows_of_a),
        b_rows(rows_of_b),
        depth(of_depth),
        stride(of_depth + 3),
        a(at(a_rows * stride), std::numeric_limits<Acc>::quiet_NaN()),
        b(at(b_rows * stride), static_cast<T>(std::numeric_limits<float>::quiet_NaN())) {
    const auto a_values = test::random_values<Acc>(2 * seed, a_rows * depth);
    const auto b_values = test::random_values<T>(2 * seed + 1, b_rows * depth);
    for (Index k = 0; k < depth; ++k) {
      for (Index i = 0; i < a_rows; ++i) a[at(i * stride + k)] = a_values[at(i * depth + k)];
      for (Index j = 0; j < b_rows; ++j) b[at(j * stride + k)] = b_values[at(j * depth + k)];
    }
  }

  /// a_rows x b_rows, of the depth cut at `cut`, a multiple of the lanes.
  std::vector<Acc> product(Isa isa, Index cut = 0, Index stream = 0) const {
    const auto& kernels = simd::dot_kernels<T>(isa);
    const Index step = dot_columns * 64 / Index{sizeof(Acc)};
    std::vector<Acc> sums(at(a_rows * step)), c(at(a_rows * dot_columns)), result;
    const auto run = [&](Index from, Index to, bool accumulate) {
      kernels.dot_rows({a.data() + from, stride, b.data() + from, stride, a_rows, b_rows, to - from,
                        sums.data(), accumulate, stream});
    };
    if (cut > 0) run(0, cut, false);
    run(cut, depth, cut > 0);
    kernels.fold_lanes(sums.data(), a_rows, c.data(), dot_columns);
    for (Index i = 0; i < a_rows; ++i)
      for (Index j = 0; j < b_rows; ++j) result.push_back(c[at(i * dot_columns + j)]);
    return result;
  }
};

template <class T>
class DotRowsOf : public ::testing::Test {};
TYPED_TEST_SUITE(DotRowsOf, test::AllScalars);

TYPED_TEST(DotRowsOf, AreSumsOfProducts) {
  using Acc = Accumulator<TypeParam>;
  for (const Isa isa : test::supported_isas()) {
    for (Index depth : {0, 1, 7, 15, 16, 17, 32, 100, 577})
      for (Index b_rows : {1, 3, 4, 5, 15, 16}) {
        const Rows<TypeParam> rows(7, b_rows, depth, static_cast<std::uint64_t>(depth));
        const auto c = rows.product(isa);
        for (Index i = 0; i < rows.a_rows; ++i)
          for (Index j = 0; j < b_rows; ++j) {
            double exact = 0, magnitude = 0;
            for (Index k = 0; k < depth; ++k) {
              const double term = static_cast<double>(rows.a[at(i * rows.stride + k)]) *
                                  static_cast<double>(rows.b[at(j * rows.stride + k)]);
              exact += term;
              magnitude += std::abs(term);
            }
            // A term goes through at most depth / lanes + log2(lanes) + 1 roundings of half an epsilon, and
            // one more where products are rounded too.
            const double bound = static_cast<double>(depth / 8 + 6) * magnitude *
                                 static_cast<double>(std::numeric_limits<Acc>::epsilon());
            ASSERT_NEAR(static_cast<double>(c[at(i * b_rows + j)]), exact, bound)
                << name(isa) << ", depth " << depth << ", " << b_rows << " rows, at " << i << ", " << j;
          }
      }
  }
}

TYPED_TEST(DotRowsOf, AreTheSameBitsWhateverOtherRowsThereAre) {
  for (const Isa isa : test::supported_isas()) {
    const Rows<TypeParam> all(13, 16, 203, 5);
    const auto expected = all.product(isa);
    for (Index i = 0; i < all.a_rows; ++i)
      for (Index j : {0, 1, 6, 15}) {
        Rows<TypeParam> one(1, 1, 203, 5);
        for (Index k = 0; k < 203; ++k) {
          one.a[at(k)] = all.a[at(i * all.stride + k)];
          one.b[at(k)] = all.b[at(j * all.stride + k)];
        }
        ASSERT_EQ(one.product(isa)[0], expected[at(i * 16 + j)]) << name(isa) << " at " << i << ", " << j;
      }
    for (Index cut : {16, 64, 192})
      ASSERT_EQ(all.product(isa, cut), expected) << name(isa) << " cut at " << cut;
  }
}

TYPED_TEST(DotRowsOf, AreTheSameBitsInStreams) {
  for (const Isa isa : test::supported_isas()) {
    const Rows<TypeParam> all(7, 16, 203, 6);
    const auto in_order = all.product(isa), streamed = all.product(isa, 0, 4);
    for (Index i = 0; i < 7; ++i)
      for (Index c = 0; c < 16; ++c)
        ASSERT_EQ(streamed[at(i * 16 + c)], in_order[at(i * 16 + c % 4 * 4 + c / 4)])
            << name(isa) << ", " << c;
  }
}

TYPED_TEST(DotRowsOf, AreTheSameBitsInEverySetWithFusedSums) {
  const Rows<TypeParam> rows(6, 16, 333, 9);
  std::vector<Accumulator<TypeParam>> first;
  for (const Isa isa : test::supported_isas()) {
    if (isa == Isa::generic) continue;
    const auto c = rows.product(isa);
    if (first.empty()) first = c;
    EXPECT_EQ(c, first) << name(isa);
  }
}

}  // namespace
}  // namespace gqa
