// SPDX-License-Identifier: Apache-2.0
// The matrix product of every instruction set against a plain loop in double: every register tile, odd depths
// and columns, pairs and dot products.
#include <gtest/gtest.h>
#include <Eigen/Core>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gqa/simd/kernels.hpp"
#include "simd/isa_list.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

using simd::element_group;
using simd::padding;
using simd::Product;

/// A product in plain memory: A rows x depth, B depth x columns, and what C += A B is in double.
struct Sizes {
  Index rows, depth, columns;
};

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// A of type A, B of type T in element groups, both surrounded by NaN; runs `product` and checks C.
template <class A, class T>
void expect_product(void (*product)(const Product&), const Sizes& s, bool accumulate, std::uint64_t seed) {
  using Acc = Accumulator<T>;
  constexpr Index E = element_group<T>;
  const Index padded = round_up(s.columns, padding), groups = ceil_div(s.depth, E);
  const Index a_stride = round_up(s.depth, E) + 3, b_stride = padded * E + 32, c_stride = padded + 16;
  const auto nan = std::numeric_limits<Acc>::quiet_NaN();

  std::vector<A> a(at(s.rows * a_stride), static_cast<A>(nan));
  std::vector<T> b(at(groups * b_stride), static_cast<T>(nan));
  std::vector<Acc> c(at(s.rows * c_stride), nan);
  const auto a_values = test::random_values<A>(3 * seed, s.rows * s.depth);
  const auto b_values = test::random_values<T>(3 * seed + 1, s.depth * s.columns);
  const auto c_values = test::random_values<Acc>(3 * seed + 2, s.rows * s.columns);
  for (Index i = 0; i < s.rows; ++i) {
    for (Index k = 0; k < round_up(s.depth, E); ++k)
      a[at(i * a_stride + k)] = k < s.depth ? a_values[at(i * s.depth + k)] : A{};
    for (Index n = 0; n < s.columns; ++n) c[at(i * c_stride + n)] = c_values[at(i * s.columns + n)];
  }
  for (Index k = 0; k < groups * E; ++k)
    for (Index n = 0; n < s.columns; ++n)
      b[at(k / E * b_stride + n * E + k % E)] =
          k < s.depth ? b_values[at(k * s.columns + n)] : static_cast<T>(5);

  product(
      {a.data(), a_stride, b.data(), b_stride, c.data(), c_stride, s.rows, s.depth, s.columns, accumulate});

  for (Index i = 0; i < s.rows; ++i) {
    for (Index n = 0; n < s.columns; ++n) {
      double exact = accumulate ? static_cast<double>(c_values[at(i * s.columns + n)]) : 0;
      double magnitude = std::abs(exact);
      for (Index k = 0; k < s.depth; ++k) {
        const double term = static_cast<double>(a_values[at(i * s.depth + k)]) *
                            static_cast<double>(b_values[at(k * s.columns + n)]);
        exact += term;
        magnitude += std::abs(term);
      }
      // Each of depth + 1 roundings is at most half an epsilon of the partial sum.
      const double bound = static_cast<double>(s.depth + 1) * magnitude *
                           static_cast<double>(std::numeric_limits<Acc>::epsilon());
      ASSERT_NEAR(static_cast<double>(c[at(i * c_stride + n)]), exact, bound)
          << s.rows << " x " << s.depth << " x " << s.columns << " at " << i << ", " << n;
    }
    for (Index n = padded; n < c_stride; ++n)
      ASSERT_TRUE(std::isnan(c[at(i * c_stride + n)])) << "wrote past column " << padded << " of row " << i;
  }
}

std::vector<Sizes> sizes() {
  std::vector<Sizes> list;
  for (Index rows = 1; rows <= 13; ++rows) list.push_back({rows, 40, 64});
  for (Index depth : {0, 1, 2, 3, 7, 64, 71, 128, 241}) list.push_back({5, depth, 64});
  for (Index columns : {1, 15, 16, 17, 31, 33, 48, 63, 65, 80, 96, 112, 128, 256})
    list.push_back({7, 9, columns});
  list.push_back({71, 33, 40});
  list.push_back({1, 1, 1});
  return list;
}

template <class T>
class ProductOf : public ::testing::Test {};
using Scalars = ::testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(ProductOf, Scalars);

TYPED_TEST(ProductOf, MatchesAPlainLoop) {
  using T = TypeParam;
  for (Isa isa : test::supported_isas()) {
    SCOPED_TRACE(name(isa));
    std::uint64_t seed = 1;
    for (const Sizes& s : sizes())
      for (bool accumulate : {false, true})
        expect_product<Accumulator<T>, T>(simd::kernels<T>(isa).product, s, accumulate, seed++);
  }
}

TYPED_TEST(ProductOf, ATransposedAChangesNoBit) {
  using T = TypeParam;
  using Acc = Accumulator<T>;
  constexpr Index E = element_group<T>, deep = round_up(13, E), columns = 80;
  for (Index rows = 1; rows <= 13; ++rows) {
    const auto a = test::random_values<Acc>(31, rows * deep);
    std::vector<Acc> turned(a.size());
    for (Index i = 0; i < rows; ++i)
      for (Index k = 0; k < deep; ++k) turned[at(k * rows + i)] = a[at(i * deep + k)];
    const auto b = test::random_values<T>(32, deep * columns);
    for (Isa isa : test::supported_isas()) {
      for (bool streaming : {false, true}) {
        std::vector<Acc> c(at(rows * columns), 1), other = c;
        Product p{a.data(), deep, b.data(), columns * E, c.data(), columns,
                  rows,     deep, columns,  true,        streaming};
        simd::kernels<T>(isa).product(p);
        p.a = turned.data();
        p.a_stride = 1;
        p.a_step = rows;
        p.c = other.data();
        simd::kernels<T>(isa).product(p);
        ASSERT_EQ(c, other) << rows << " rows, " << name(isa);
      }
    }
  }
}

/// How B is asked for from memory, and what is read next, shows in no bit.
template <class A, class T>
void expect_prefetching_changes_no_bit(void (*product)(const Product&), const Sizes& s) {
  constexpr Index E = element_group<T>;
  const Index padded = round_up(s.columns, padding), deep = round_up(s.depth, E);
  const auto a = test::random_values<A>(21, s.rows * deep);
  const auto b = test::random_values<T>(22, deep * padded);
  for (const bool accumulate : {false, true}) {
    const auto run = [&](bool streaming, const void* next) {
      auto c = test::random_values<Accumulator<T>>(23, s.rows * padded);
      product({.a = a.data(),
               .a_stride = deep,
               .b = b.data(),
               .b_stride = padded * E,
               .c = c.data(),
               .c_stride = padded,
               .rows = s.rows,
               .depth = s.depth,
               .columns = s.columns,
               .accumulate = accumulate,
               .streaming = streaming,
               .next = next});
      return c;
    };
    const auto expected = run(false, nullptr);
    EXPECT_EQ(run(true, nullptr), expected) << s.rows << " x " << s.depth << " x " << s.columns;
    EXPECT_EQ(run(true, b.data()), expected) << s.rows << " x " << s.depth << " x " << s.columns;
    EXPECT_EQ(run(true, reinterpret_cast<const void*>(std::uintptr_t{64})), expected) << "nobody's memory";
  }
}

TYPED_TEST(ProductOf, PrefetchingChangesNoBit) {
  using T = TypeParam;
  auto list = sizes();
  list.push_back({4, 128, 64});  // a tile of keys
  list.push_back({4, 64, 128});  // of values
  list.push_back({20, 64, 128});
  list.push_back({3, 1000, 64});
  for (Isa isa : test::supported_isas()) {
    SCOPED_TRACE(name(isa));
    for (const Sizes& s : list) {
      expect_prefetching_changes_no_bit<Accumulator<T>, T>(simd::kernels<T>(isa).product, s);
      if constexpr (std::is_same_v<T, bfloat16>) {
        const auto dot = simd::kernels<T>(isa).product_dot;
        if (dot != nullptr && s.depth % 2 == 0) expect_prefetching_changes_no_bit<T, T>(dot, s);
      }
    }
  }
}

TYPED_TEST(ProductOf, ARowIsTheSameBitsInEveryRegisterTile) {
  using T = TypeParam;
  using Acc = Accumulator<T>;
  constexpr Index E = element_group<T>, depth = 38, columns = 64;
  const auto a = test::random_values<Acc>(1, 13 * depth);
  const auto b =
      test::random_values<T>(2, depth * columns);  // any numbers: the grouping does not matter here
  for (Isa isa : test::supported_isas()) {
    const auto run = [&](Index first, Index rows, Index first_column, Index width) {
      std::vector<Acc> c(at(rows * columns));
      simd::kernels<T>(isa).product({a.data() + first * depth, depth, b.data() + first_column * E,
                                     columns * E, c.data(), columns, rows, depth, width, false});
      return c;
    };
    const auto whole = run(0, 13, 0, columns);
    for (Index row = 0; row < 13; ++row) {
      for (Index rows = 1; row + rows <= 13; ++rows) {
        const auto c = run(row, rows, 0, columns);
        for (Index i = 0; i < rows * columns; ++i)
          ASSERT_EQ(c[at(i)], whole[at(row * columns + i)]) << name(isa);
      }
      for (Index column : {0, 16, 32, 48}) {
        const auto c = run(row, 1, column, 16);
        for (Index n = 0; n < 16; ++n)
          ASSERT_EQ(c[at(n)], whole[at(row * columns + column + n)]) << name(isa);
      }
    }
  }
}

TYPED_TEST(ProductOf, SplittingTheDepthOrPrefetchingChangesNoBit) {
  using T = TypeParam;
  using Acc = Accumulator<T>;
  constexpr Index E = element_group<T>, depth = 50, columns = 80;
  const auto a = test::random_values<Acc>(4, 9 * depth);
  const auto b = test::random_values<T>(5, depth * columns);
  for (Isa isa : test::supported_isas()) {
    std::vector<Acc> once(9 * columns), twice(9 * columns);
    const auto product = simd::kernels<T>(isa).product;
    product({a.data(), depth, b.data(), columns * E, once.data(), columns, 9, depth, columns, false, true});
    product({a.data(), depth, b.data(), columns * E, twice.data(), columns, 9, 22, columns, false});
    product({a.data() + 22, depth, b.data() + 22 / E * columns * E, columns * E, twice.data(), columns, 9, 28,
             columns, true});
    EXPECT_EQ(once, twice) << name(isa);
  }
}

TEST(ProductDot, IsThereWhereTheProcessorHasIt) {
  for (Isa isa : test::supported_isas()) {
    EXPECT_EQ(simd::kernels<bfloat16>(isa).product_dot != nullptr, isa >= Isa::avx512bf16);
    EXPECT_EQ(simd::kernels<half>(isa).product_dot, nullptr);
    EXPECT_EQ(simd::kernels<float>(isa).product_dot, nullptr);
  }
}

TEST(ProductDot, MatchesAPlainLoop) {
  for (Isa isa : test::supported_isas()) {
    const auto dot = simd::kernels<bfloat16>(isa).product_dot;
    if (dot == nullptr) continue;
    std::uint64_t seed = 100;
    for (const Sizes& s : sizes())
      for (bool accumulate : {false, true}) expect_product<bfloat16, bfloat16>(dot, s, accumulate, seed++);
  }
}

TEST(ProductDot, TheRowsOfACallAndWhatStreamsChangeNoBit) {
  constexpr Index depth = 90, columns = 208, rows = 37;
  const auto a = test::random_values<bfloat16>(6, rows * depth),
             b = test::random_values<bfloat16>(7, depth * columns);
  for (Isa isa : test::supported_isas()) {
    const auto dot = simd::kernels<bfloat16>(isa).product_dot;
    if (dot == nullptr) continue;
    const auto run = [&](Index first, Index count, bool streaming) {
      std::vector<float> c(at(count * columns));
      dot({a.data() + first * depth, depth, b.data(), columns * 2, c.data(), columns, count, depth, columns,
           false, streaming});
      return c;
    };
    const auto whole = run(0, rows, false);
    for (Index first : {0, 5, 21})
      for (Index count : {1, 2, 7, 15, 16})
        for (bool streaming : {false, true}) {
          const auto c = run(first, count, streaming);
          for (Index i = 0; i < count * columns; ++i)
            ASSERT_EQ(c[at(i)], whole[at(first * columns + i)])
                << name(isa) << " " << count << " rows from " << first;
        }
  }
}

TEST(ProductDot, AUnitThatStaysSetChangesNoBit) {
  constexpr Index depth = 90, columns = 80, rows = 37;
  const auto a = test::random_values<bfloat16>(16, rows * depth),
             b = test::random_values<bfloat16>(17, depth * columns);
  for (Isa isa : test::supported_isas()) {
    const auto kernels = simd::kernels<bfloat16>(isa);
    if (kernels.product_dot == nullptr) continue;
    EXPECT_EQ(kernels.release != nullptr, isa == Isa::amx);
    simd::MatrixUnit unit;
    // Shapes that follow one another share all of a unit's settings, some, or none.
    constexpr std::pair<Index, Index> shapes[] = {{4, 64},  {4, 64},  {4, 90}, {4, 32}, {4, 74},
                                                  {16, 64}, {37, 90}, {5, 90}, {5, 64}};
    for (const auto& shape : shapes) {
      const Index count = shape.first, deep = shape.second;
      const auto run = [&](simd::MatrixUnit* kept) {
        std::vector<float> c(at(count * columns));
        kernels.product_dot({.a = a.data(),
                             .a_stride = depth,
                             .b = b.data(),
                             .b_stride = columns * 2,
                             .c = c.data(),
                             .c_stride = columns,
                             .rows = count,
                             .depth = deep,
                             .columns = columns,
                             .accumulate = false,
                             .unit = kept});
        return c;
      };
      const auto kept = run(&unit);
      if (kernels.release != nullptr) {
        EXPECT_NE(unit.rows, 0);
        kernels.release(unit);
        EXPECT_EQ(unit.rows, 0);
      }
      const auto alone = run(nullptr);
      EXPECT_EQ(kept, alone) << name(isa) << " " << count << " rows, depth " << deep;
      EXPECT_EQ(run(&unit), alone) << name(isa) << " " << count << " rows, depth " << deep;
    }
    if (kernels.release != nullptr) kernels.release(unit);
  }
}

TEST(ProductDot, PartsOfADepthAreTheWholeAtMultiplesOfAStep) {
  // Keys that cannot be seen weigh 0 or are not there: a part may begin and end anywhere inside a step.
  constexpr Index depth = 160, columns = 32, rows = 5;
  const auto a = test::random_values<bfloat16>(8, rows * depth),
             b = test::random_values<bfloat16>(9, depth * columns);
  for (Isa isa : test::supported_isas()) {
    const auto dot = simd::kernels<bfloat16>(isa).product_dot;
    if (dot == nullptr) continue;
    for (Index begin : {0, 2, 30, 32, 46}) {
      for (Index end : {66, 96, 98, 128, 160}) {
        auto seen = a;
        for (Index r = 0; r < rows; ++r)
          for (Index k = 0; k < depth; ++k)
            if (k < begin || k >= end) seen[at(r * depth + k)] = bfloat16{};
        std::vector<float> whole(rows * columns), part(rows * columns), twice(rows * columns);
        dot({seen.data(), depth, b.data(), columns * 2, whole.data(), columns, rows, depth, columns, false});
        const auto run = [&](Index from, Index to, bool accumulate, std::vector<float>& c) {
          dot({.a = seen.data() + from,
               .a_stride = depth,
               .b = b.data() + from * columns,
               .b_stride = columns * 2,
               .c = c.data(),
               .c_stride = columns,
               .rows = rows,
               .depth = to - from,
               .columns = columns,
               .accumulate = accumulate,
               .depth_begin = from});
        };
        run(begin, end, false, part);
        EXPECT_EQ(part, whole) << name(isa) << " " << begin << " to " << end;
        run(begin, 64, false, twice);
        run(64, end, true, twice);
        EXPECT_EQ(twice, whole) << name(isa) << " " << begin << " to 64 to " << end;
      }
    }
  }
}

}  // namespace
}  // namespace gqa
