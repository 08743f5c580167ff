// SPDX-License-Identifier: Apache-2.0
// Ranges, checked sizes and heads.
#include "gqa/core/shape.hpp"
#include "support/message_of.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace gqa {
namespace {

using test::message_of;

constexpr Index largest = std::numeric_limits<Index>::max();
constexpr Index smallest = std::numeric_limits<Index>::min();

TEST(Range, SizeEmptyContains) {
  constexpr Range r = {3, 7};
  static_assert(r.size() == 4 && !r.empty());
  EXPECT_FALSE(r.contains(2));
  EXPECT_TRUE(r.contains(3));
  EXPECT_TRUE(r.contains(6));
  EXPECT_FALSE(r.contains(7));
  EXPECT_TRUE((Range{5, 5}.empty()));
  EXPECT_TRUE((Range{5, 4}.empty()));
  EXPECT_EQ((Range{5, 4}.size()), 0);
  EXPECT_FALSE((Range{5, 4}.contains(4)));
}

TEST(Range, IntersectIsWhatBothContain) {
  for (Index a = -2; a < 6; ++a) {
    for (Index b = a - 1; b < 6; ++b) {
      for (Index c = -2; c < 6; ++c) {
        for (Index d = c - 1; d < 6; ++d) {
          const Range x = {a, b}, y = {c, d}, both = intersect(x, y);
          ASSERT_LE(both.begin, both.end);
          for (Index i = -4; i < 8; ++i) ASSERT_EQ(both.contains(i), x.contains(i) && y.contains(i));
        }
      }
    }
  }
  EXPECT_EQ(intersect({0, 3}, {5, 9}), (Range{5, 5}));
  EXPECT_EQ(intersect({5, 9}, {0, 3}), (Range{5, 5}));
}

TEST(Rounding, DivisionAndMultiples) {
  for (Index a = 0; a < 200; ++a) {
    for (Index m : {1, 2, 7, 16, 64}) {
      EXPECT_EQ(ceil_div(a, m), a / m + (a % m != 0));
      EXPECT_EQ(round_down(a, m) % m, 0);
      EXPECT_EQ(round_up(a, m) % m, 0);
      EXPECT_LE(round_down(a, m), a);
      EXPECT_GT(round_down(a, m) + m, a);
      EXPECT_GE(round_up(a, m), a);
      EXPECT_LT(round_up(a, m), a + m);
    }
  }
}

TEST(CheckedSizes, TheLargestThatFit) {
  EXPECT_EQ(checked_mul(largest, 1, "x"), largest);
  EXPECT_EQ(checked_mul(largest / 2, 2, "x"), largest - 1);
  EXPECT_EQ(checked_mul(0, largest, "x"), 0);
  EXPECT_EQ(checked_add(largest - 1, 1, "x"), largest);
}

TEST(CheckedSizes, OneMoreThrowsNamingWhatAndBothSizes) {
  EXPECT_EQ(message_of<std::length_error>([] { checked_mul(largest / 2 + 1, 2, "cache"); }),
            "cache: the size 4611686018427387904 * 2 overflows");
  EXPECT_EQ(message_of<std::length_error>([] { checked_add(largest, 1, "cache"); }),
            "cache: the size 9223372036854775807 + 1 overflows");
  EXPECT_THROW(checked_mul(Index{1} << 32, Index{1} << 31, "x"), std::length_error);
  EXPECT_THROW(checked_mul(smallest, -1, "x"), std::length_error);
  EXPECT_THROW(checked_add(smallest, -1, "x"), std::length_error);
}

TEST(Heads, StaticDynamicAndMixed) {
  EXPECT_EQ((Heads<32, 8>().group_size()), 4);
  EXPECT_EQ(Heads<>(71, 1).group_size(), 71);
  EXPECT_EQ(Heads<>(9, 3).group_size(), 3);
  EXPECT_EQ((Heads<Dynamic, 8>(8, 8).group_size()), 1);
  EXPECT_EQ((Heads<32, Dynamic>(32, 16).group_size()), 2);
}

TEST(Heads, WrongSizesNameArgumentDimensionValueAndExpectation) {
  const auto message = [](auto f) { return message_of<std::invalid_argument>(f); };
  EXPECT_EQ(message([] { Heads<32, 8>(16, 8); }), "q: heads is 16, expected 32");
  EXPECT_EQ(message([] { Heads<32, 8>(32, 4); }), "k: heads is 4, expected 8");
  EXPECT_EQ(message([] { Heads<>(0, 1); }), "q: heads is 0, expected at least 1");
  EXPECT_EQ(message([] { Heads<>(-4, 2); }), "q: heads is -4, expected at least 1");
  EXPECT_EQ(message([] { Heads<>(4, 0); }), "k: heads is 0, expected at least 1");
  EXPECT_EQ(message([] { Heads<>(4, -2); }), "k: heads is -2, expected at least 1");
  EXPECT_EQ(message([] { Heads<>(30, 8); }), "q: heads is 30, expected a multiple of the 8 heads of k");
  EXPECT_EQ(message([] { Heads<>(2, 4); }), "q: heads is 2, expected a multiple of the 4 heads of k");
}

TEST(Check, BuildsItsMessageOnlyOnFailure) {
  int built = 0;
  const auto say = [&] {
    ++built;
    return "said";
  };
  GQA_CHECK(true, std::invalid_argument, say());
  EXPECT_EQ(built, 0);
  EXPECT_EQ(message_of<std::out_of_range>(
                [&] { GQA_CHECK(1 + 1 == 3, std::out_of_range, "a " << 1 << " b " << say()); }),
            "a 1 b said");
  EXPECT_EQ(built, 1);
}

TEST(Check, IsOneStatement) {
  if (false)
    GQA_CHECK(false, std::invalid_argument, "not reached");
  else
    SUCCEED();
}

TEST(FormatError, IsARuntimeError) {
  EXPECT_EQ(message_of<std::runtime_error>([] { throw format_error("magic is 'XXXX', expected 'GGUF'"); }),
            "magic is 'XXXX', expected 'GGUF'");
}

}  // namespace
}  // namespace gqa
