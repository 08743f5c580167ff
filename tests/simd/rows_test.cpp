// SPDX-License-Identifier: Apache-2.0
// Softmax of a block, merge and tanh of every instruction set against their definitions in double.
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

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

template <class Acc>
class Rows : public ::testing::Test {
 protected:
  static constexpr Acc inf = std::numeric_limits<Acc>::infinity();
  static constexpr Acc nan = std::numeric_limits<Acc>::quiet_NaN();
  static constexpr double epsilon = static_cast<double>(std::numeric_limits<Acc>::epsilon());

  struct Softmax {
    Index rows, columns, rows_per_mask = 1, stride = columns + 16;
    std::vector<Acc> scores = {};
    std::vector<std::uint64_t> mask = {};  // columns / 64 words a mask row, one more between them
    std::vector<Acc> max = {}, sum = {};

    bool counts(Index row, Index j) const {
      const Index words = columns / 64 + 1;
      return mask.empty() || (mask[at(row / rows_per_mask * words + j / 64)] >> (j % 64) & 1) != 0;
    }
    Acc& score(Index row, Index j) { return scores[at(row * stride + j)]; }

    void run(Isa isa, Acc scale, bool pack_pairs = false, bool keep_scores = false) {
      max.assign(at(rows), nan);
      sum.assign(at(rows), nan);
      simd::row_kernels<Acc>(isa).softmax({scores.data(), stride, rows, columns, scale,
                                           mask.empty() ? nullptr : mask.data(), columns / 64 + 1,
                                           rows_per_mask, max.data(), sum.data(), pack_pairs, keep_scores});
    }
  };

  static Softmax random_softmax(Index rows, Index columns, bool masked, std::uint64_t seed) {
    Softmax s{.rows = rows, .columns = columns, .rows_per_mask = masked ? 3 : 1};
    s.scores = test::random_values<Acc>(seed, rows * s.stride, 4);
    test::Random random(seed);
    if (masked) {
      for (Index i = 0; i < ceil_div(rows, 3) * (columns / 64 + 1); ++i) {
        const Index kind = random.integer(0, 4);
        std::uint64_t word = 0;
        for (int bit = 0; bit < 64; ++bit) word |= std::uint64_t{random.flip()} << bit;
        s.mask.push_back(kind == 0 ? 0 : kind == 1 ? ~std::uint64_t{0} : word);
      }
    }
    return s;
  }
};
using Accumulators = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Rows, Accumulators);

TYPED_TEST(Rows, SoftmaxIsItsDefinition) {
  using Acc = TypeParam;
  for (Isa isa : test::supported_isas()) {
    for (bool masked : {false, true}) {
      for (Index columns : {64, 128, 192, 512}) {
        auto s = this->random_softmax(7, columns, masked, static_cast<std::uint64_t>(columns));
        auto before = s;
        if (masked) {  // whatever stands at a masked entry counts nothing
          for (Index r = 0; r < s.rows; ++r)
            for (Index j = 0; j < columns; ++j)
              if (!s.counts(r, j))
                s.score(r, j) = j % 3 == 0 ? this->nan : j % 3 == 1 ? this->inf : Acc{1000};
        }
        const Acc scale = Acc{0.375};
        s.run(isa, scale);
        for (Index r = 0; r < s.rows; ++r) {
          double largest = -std::numeric_limits<double>::infinity(), sum = 0;
          for (Index j = 0; j < columns; ++j)
            if (s.counts(r, j)) largest = std::max(largest, static_cast<double>(before.score(r, j)) * 0.375);
          if (std::isinf(largest)) {
            ASSERT_EQ(s.max[at(r)], -this->inf) << name(isa);
            ASSERT_EQ(s.sum[at(r)], 0) << name(isa);
            continue;
          }
          ASSERT_NEAR(static_cast<double>(s.max[at(r)]), largest, this->epsilon * std::abs(largest))
              << name(isa);
          for (Index j = 0; j < columns; ++j) {
            const double expected =
                s.counts(r, j) ? std::exp(static_cast<double>(before.score(r, j)) * 0.375 - largest) : 0;
            sum += expected;
            // The exponent carries half an epsilon of its magnitude, 2^x two of the result.
            ASSERT_NEAR(static_cast<double>(s.score(r, j)), expected, 16 * this->epsilon * expected)
                << name(isa) << ": " << r << ", " << j;
          }
          ASSERT_NEAR(static_cast<double>(s.sum[at(r)]), sum, 16 * this->epsilon * sum) << name(isa);
        }
      }
    }
  }
}

TYPED_TEST(Rows, SoftmaxLeavesTheRestOfTheRowsAlone) {
  for (Isa isa : test::supported_isas()) {
    auto s = this->random_softmax(3, 64, true, 5);
    auto before = s;
    s.run(isa, 1);
    for (Index r = 0; r < 3; ++r)
      for (Index j = 64; j < s.stride; ++j) ASSERT_EQ(s.score(r, j), before.score(r, j)) << name(isa);
  }
}

TYPED_TEST(Rows, ScoresThatAreKeptHaveTheSameSumsAndMakeTheProbabilities) {
  using Acc = TypeParam;
  for (Isa isa : test::supported_isas()) {
    auto s = this->random_softmax(7, 192, true, 11), kept = s;
    const auto before = s.scores;
    const Acc scale = static_cast<Acc>(0.3);
    s.run(isa, scale);
    kept.run(isa, scale, false, true);
    ASSERT_EQ(kept.max, s.max) << name(isa);
    ASSERT_EQ(kept.sum, s.sum) << name(isa);
    for (Index r = 0; r < s.rows; ++r) {
      for (Index j = 0; j < 192; ++j)
        ASSERT_EQ(kept.score(r, j), s.counts(r, j) ? before[at(r * s.stride + j)] * scale : -this->inf);
      // Elsewhere and in place, in parts that are no whole vectors.
      const Acc max = s.max[at(r)], sum = s.sum[at(r)];
      std::vector<Acc> p(193, Acc{-1});
      simd::gradient_kernels<Acc>(isa).probabilities({&kept.score(r, 0), p.data(), 101, max, sum});
      simd::gradient_kernels<Acc>(isa).probabilities({&kept.score(r, 101), p.data() + 101, 91, max, sum});
      simd::gradient_kernels<Acc>(isa).probabilities({&kept.score(r, 0), &kept.score(r, 0), 192, max, sum});
      for (Index j = 0; j < 192; ++j) {
        const double exact =
            s.counts(r, j) ? static_cast<double>(s.score(r, j)) / static_cast<double>(sum) : 0;
        ASSERT_NEAR(static_cast<double>(p[at(j)]), exact, 32 * this->epsilon * exact) << name(isa);
        ASSERT_EQ(p[at(j)], kept.score(r, j)) << name(isa);
      }
      ASSERT_EQ(p[192], -1);
    }
  }
}

TYPED_TEST(Rows, SoftmaxOfNothingIsZeroAndMinusInfinity) {
  for (Isa isa : test::supported_isas()) {
    auto s = this->random_softmax(6, 128, true, 6);
    s.mask.assign(s.mask.size(), 0);
    s.score(0, 5) = this->nan;
    s.run(isa, 2);
    for (Index r = 0; r < s.rows; ++r) {
      EXPECT_EQ(s.max[at(r)], -this->inf);
      EXPECT_EQ(s.sum[at(r)], 0);
      for (Index j = 0; j < 128; ++j) ASSERT_EQ(s.score(r, j), 0) << name(isa);
    }
  }
}

TYPED_TEST(Rows, SoftmaxOfMinusInfinitiesIsThatOfTheOthers) {
  for (Isa isa : test::supported_isas()) {
    auto s = this->random_softmax(2, 64, false, 7);
    for (Index j = 0; j < 64; ++j) s.score(0, j) = j == 9 ? TypeParam{-3} : -this->inf;
    for (Index j = 0; j < 64; ++j) s.score(1, j) = -this->inf;
    s.run(isa, 1);
    EXPECT_EQ(s.max[0], -3);
    EXPECT_EQ(s.sum[0], 1);
    EXPECT_EQ(s.score(0, 9), 1);
    EXPECT_EQ(s.score(0, 8), 0);
    EXPECT_EQ(s.max[1], -this->inf);
    EXPECT_EQ(s.sum[1], 0);
  }
}

TYPED_TEST(Rows, SoftmaxOfNaNIsNaNWhereItStandsAndInTheSum) {
  for (Isa isa : test::supported_isas()) {
    for (Index place : {0, 1, 15, 16, 40, 63}) {
      auto s = this->random_softmax(2, 64, false, 8);
      s.score(0, place) = this->nan;
      s.run(isa, 1);
      EXPECT_TRUE(std::isnan(s.sum[0])) << name(isa) << ", " << place;
      EXPECT_TRUE(std::isnan(s.score(0, place))) << name(isa) << ", " << place;
      EXPECT_FALSE(std::isnan(s.sum[1]));
    }
    auto all = this->random_softmax(1, 64, false, 9);
    for (Index j = 0; j < 64; ++j) all.score(0, j) = this->nan;
    all.run(isa, 1);
    EXPECT_TRUE(std::isnan(all.sum[0])) << "a row of NaN alone must not look empty";
  }
}

TYPED_TEST(Rows, SoftmaxOfLargeScoresStaysFinite) {
  // Scores far beyond where exp overflows; the largest must weigh 1, or all weights share one factor.
  using Acc = TypeParam;
  for (Isa isa : test::supported_isas()) {
    for (Acc size : {Acc{1e3}, Acc{1e6}, static_cast<Acc>(1e12), std::numeric_limits<Acc>::max() / 4}) {
      for (Acc sign : {Acc{1}, Acc{-1}}) {
        auto s = this->random_softmax(1, 64, false, 10);
        for (Index j = 0; j < 64; ++j) s.score(0, j) = sign * size;
        s.run(isa, Acc{1} / 3);
        ASSERT_TRUE(std::isfinite(s.sum[0])) << name(isa) << ", scores " << sign * size;
        ASSERT_GT(s.sum[0], 0) << name(isa) << ", scores " << sign * size;
        ASSERT_NEAR(static_cast<double>(s.score(0, 3) / s.sum[0]), 1.0 / 64, 1e-6) << name(isa);
        // The next smaller number weighs nothing beside it, from where they are far enough apart.
        auto two = this->random_softmax(1, 64, false, 10);
        for (Index j = 0; j < 64; ++j) two.score(0, j) = j == 7 ? sign * size : sign * size - size / 1024;
        two.run(isa, 1);
        const double other = std::exp(-static_cast<double>(size) / 1024);
        ASSERT_NEAR(static_cast<double>(two.score(0, 7) / two.sum[0]), 1 / (1 + 63 * other), 0.01)
            << name(isa) << ", scores " << sign * size;
      }
    }
  }
}

TEST(SoftmaxPairs, WeightsAreRoundedIntoTheFrontOfTheirRow) {
  for (Isa isa : test::supported_isas()) {
    const Index columns = 192, stride = columns + 16;
    const auto scores = test::random_values<float>(11, 5 * stride, 4);
    auto plain = scores, packed = scores;
    std::vector<float> max(5), sum(5), packed_max(5), packed_sum(5);
    const auto softmax = simd::row_kernels<float>(isa).softmax;
    softmax({plain.data(), stride, 5, columns, 1, nullptr, 0, 1, max.data(), sum.data(), false});
    softmax(
        {packed.data(), stride, 5, columns, 1, nullptr, 0, 1, packed_max.data(), packed_sum.data(), true});
    EXPECT_EQ(max, packed_max);
    EXPECT_EQ(sum, packed_sum);
    for (Index r = 0; r < 5; ++r) {
      const auto* row = reinterpret_cast<const bfloat16*>(packed.data() + r * stride);
      for (Index j = 0; j < columns; ++j)
        ASSERT_EQ(row[j], static_cast<bfloat16>(plain[at(r * stride + j)]))
            << name(isa) << ": " << r << ", " << j;
    }
  }
}

/// A merge of random rows; dim 20 of stride 32, padding NaN past that.
TYPED_TEST(Rows, MergeIsItsDefinition) {
  using Acc = TypeParam;
  const Index rows = 6, dim = 20, stride = 33, block_stride = 48;
  for (Isa isa : test::supported_isas()) {
    auto o = test::random_values<Acc>(12, rows * stride);
    auto max = test::random_values<Acc>(13, rows, 5), sum = test::random_values<Acc>(14, rows);
    const auto block_o = test::random_values<Acc>(15, rows * block_stride);
    auto block_max = test::random_values<Acc>(16, rows, 5);
    const auto block_sum = test::random_values<Acc>(17, rows);
    max[0] = -this->inf;
    block_max[1] = -this->inf;
    max[2] = block_max[2] = -this->inf;
    max[3] = block_max[3] = Acc{2.5};
    max[4] = -2000;
    const auto o_before = o, max_before = max, sum_before = sum;
    simd::row_kernels<Acc>(isa).merge({o.data(), max.data(), sum.data(), block_o.data(), block_max.data(),
                                       block_sum.data(), rows, dim, stride, block_stride});
    for (Index r = 0; r < rows; ++r) {
      const double m1 = static_cast<double>(max_before[at(r)]), m2 = static_cast<double>(block_max[at(r)]);
      const double m = std::max(m1, m2);
      const double w1 = m1 == m ? 1 : std::exp(m1 - m), w2 = m2 == m ? 1 : std::exp(m2 - m);
      EXPECT_EQ(static_cast<double>(max[at(r)]), m);
      const auto expect = [&](Acc result, Acc mine, Acc other) {
        const double a = static_cast<double>(mine) * w1, b = static_cast<double>(other) * w2;
        ASSERT_NEAR(static_cast<double>(result), a + b, 8 * this->epsilon * (std::abs(a) + std::abs(b)))
            << name(isa) << ", row " << r;
      };
      expect(sum[at(r)], sum_before[at(r)], block_sum[at(r)]);
      for (Index d = 0; d < dim; ++d)
        expect(o[at(r * stride + d)], o_before[at(r * stride + d)], block_o[at(r * block_stride + d)]);
      ASSERT_EQ(o[at(r * stride + 32)], o_before[at(r * stride + 32)]) << "wrote past the padding";
    }
  }
}

TYPED_TEST(Rows, MergingNothingChangesNoBit) {
  using Acc = TypeParam;
  for (Isa isa : test::supported_isas()) {
    auto o = test::random_values<Acc>(18, 32), max = test::random_values<Acc>(19, 1),
         sum = test::random_values<Acc>(20, 1);
    const auto o_before = o, max_before = max, sum_before = sum;
    std::vector<Acc> zero(32), minus_inf = {-this->inf};
    const auto merge = simd::row_kernels<Acc>(isa).merge;
    merge({o.data(), max.data(), sum.data(), zero.data(), minus_inf.data(), zero.data(), 1, 32, 32, 32});
    EXPECT_EQ(o, o_before);
    EXPECT_EQ(max, max_before);
    EXPECT_EQ(sum, sum_before);
    std::vector<Acc> other(32), other_max = {-this->inf}, other_sum(1);
    merge(
        {other.data(), other_max.data(), other_sum.data(), o.data(), max.data(), sum.data(), 1, 32, 32, 32});
    EXPECT_EQ(other, o);
    EXPECT_EQ(other_max, max);
    EXPECT_EQ(other_sum, sum);
  }
}

TEST(SoftCap, FourEpsilonOverTheWholeRange) {
  constexpr float inf = std::numeric_limits<float>::infinity();
  std::vector<float> x = {0.0f,   -0.0f, 9.02f, std::nextafter(9.02f, 10.0f), inf, -inf, 1e-38f,
                          1e-45f, 88.0f, 1e30f};
  for (std::uint32_t bits = 0; bits < 0x7f800000u; bits += 997) x.push_back(std::bit_cast<float>(bits));
  for (std::size_t i = 0, n = x.size(); i < n; ++i) x.push_back(-x[i]);
  for (Isa isa : test::supported_isas()) {
    auto y = x;
    simd::score_kernels<float>(isa).soft_cap(y.data(), static_cast<Index>(x.size()), 1.0f);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double exact = std::tanh(static_cast<double>(x[i]));
      ASSERT_NEAR(static_cast<double>(y[i]), exact, 4 * 0x1p-23 * std::abs(exact) + 0x1p-149)
          << name(isa) << ": tanh " << x[i];
      ASSERT_LE(std::abs(y[i]), 1);
    }
    float nan = std::numeric_limits<float>::quiet_NaN();
    simd::score_kernels<float>(isa).soft_cap(&nan, 1, 1.0f);
    EXPECT_TRUE(std::isnan(nan));
  }
}

TYPED_TEST(Rows, ScoreFunctionsOfAnyLengthAndNothingElse) {
  using Acc = TypeParam;
  const Acc tolerance = 8 * std::numeric_limits<Acc>::epsilon();
  for (Isa isa : test::supported_isas()) {
    const auto scale = simd::row_kernels<Acc>(isa).scale;
    const auto kernels = simd::score_kernels<Acc>(isa);
    for (std::size_t n = 0; n < 40; ++n) {
      std::vector<Acc> start(n + 16), other(n);
      for (std::size_t i = 0; i < start.size(); ++i) start[i] = static_cast<Acc>(i % 7) - 3;
      for (std::size_t i = 0; i < n; ++i) other[i] = static_cast<Acc>(i) / 8;
      const auto check = [&](const char* what, auto run, auto formula) {
        auto x = start;
        run(x.data(), static_cast<Index>(n));
        for (std::size_t i = 0; i < x.size(); ++i) {
          const Acc expected = i < n ? static_cast<Acc>(formula(start[i], i)) : start[i];
          ASSERT_NEAR(x[i], expected, i < n ? tolerance * (1 + std::abs(expected)) : 0)
              << name(isa) << ", " << what << ", n " << n;
        }
      };
      check(
          "scale", [&](Acc* x, Index size) { scale(x, size, Acc(1.7)); },
          [](Acc s, std::size_t) { return s * Acc(1.7); });
      check(
          "soft_cap", [&](Acc* x, Index size) { kernels.soft_cap(x, size, Acc(1.5)); },
          [](Acc s, std::size_t) { return Acc(1.5) * std::tanh(s / Acc(1.5)); });
      check(
          "add", [&](Acc* x, Index size) { kernels.add(x, size, other.data()); },
          [&](Acc s, std::size_t i) { return s + other[i]; });
      check(
          "subtract_distance",
          [&](Acc* x, Index size) { kernels.subtract_distance(x, size, Acc(11), Acc(0.5)); },
          [](Acc s, std::size_t i) { return s - std::abs(static_cast<Acc>(i) - 11) / 2; });
    }
  }
}

}  // namespace
}  // namespace gqa
