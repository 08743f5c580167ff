// SPDX-License-Identifier: Apache-2.0
// What a row may not see does not reach it in any bit: the future, keys left of a window, rows that see
// nothing.
#include <gtest/gtest.h>

#include "laws/slices.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::How;
using test::Result;
using test::Sizes;

template <class T>
class Unseen : public ::testing::Test {
 protected:
  static std::vector<T> poisons() {
    using Limits = std::numeric_limits<T>;
    return {Limits::quiet_NaN(), Limits::infinity(), static_cast<T>(-Limits::infinity()), Limits::max(),
            Limits::signaling_NaN()};
  }

  /// Fills the keys and values of tokens [begin, end) with a poison, or with all of them in turn.
  static void poison(AttentionCase<T>& c, Index begin, Index end, std::size_t which) {
    const auto list = poisons();
    const auto fill = [&](std::vector<T>& x, Index dim) {
      const Index each = c.sizes.num_kv_heads * dim;
      for (Index i = begin * each; i < end * each; ++i)
        x[static_cast<std::size_t>(i)] =
            list[which < list.size() ? which : static_cast<std::size_t>(i) % list.size()];
    };
    fill(c.k, c.sizes.head_dim);
    fill(c.v, c.sizes.value_dim);
  }

  static Result<T> both(const AttentionCase<T>& c, const How& how) {
    const auto result = test::run(c, how), cached = test::run_cached(c, how);
    const bool nan = std::any_of(result.lse.begin(), result.lse.end(), [](auto x) { return std::isnan(x); });
    EXPECT_TRUE(nan || same(result, cached));
    return result;
  }
};
TYPED_TEST_SUITE(Unseen, test::AllScalars, test::ScalarNames);

TYPED_TEST(Unseen, RowsAreIndependentOfTheFuture) {
  for (const Sizes& sizes :
       {Sizes{140, 140, 4, 2, 20, 12}, Sizes{3, 600, 4, 1, 33, 16}, Sizes{80, 600, 2, 2, 16, 64}}) {
    const Index past = sizes.num_kv_tokens - sizes.num_q_tokens;
    AttentionCase<TypeParam> c(sizes, 1);
    const auto clean = this->both(c, {.mask = causal()});
    // The first poisoned token: inside and at the ends of pairs, tiles and chunks.
    for (Index first : {1, 2, 3, 16, 31, 32, 63, 64, 65, 97, 127, 128, 129, 139, 511, 512, 513, 598, 599}) {
      if (first <= past || first >= sizes.num_kv_tokens) continue;
      for (std::size_t which = 0; which <= this->poisons().size(); ++which) {
        AttentionCase<TypeParam> future = c;
        this->poison(future, first, sizes.num_kv_tokens, which);
        const Index rows = first - past;
        EXPECT_TRUE(same(test::run(future, {.mask = causal()}).tokens(0, rows, sizes.num_q_tokens),
                         clean.tokens(0, rows, sizes.num_q_tokens)))
            << sizes.name() << ", poison " << which << " from token " << first;
        EXPECT_TRUE(same(test::run_cached(future, {.mask = causal()}).tokens(0, rows, sizes.num_q_tokens),
                         clean.tokens(0, rows, sizes.num_q_tokens)))
            << "cache, " << sizes.name() << ", poison " << which << " from token " << first;
      }
    }
  }
}

TYPED_TEST(Unseen, OneTokenReachesNoRowBeforeIt) {
  // A single poisoned token, odd or even, among tokens that are fine.
  const Sizes sizes{70, 70, 3, 1, 16, 32};
  AttentionCase<TypeParam> c(sizes, 2);
  const auto clean = this->both(c, {.mask = causal()});
  for (Index token = 1; token < 70; ++token) {
    AttentionCase<TypeParam> one = c;
    this->poison(one, token, token + 1, 0);
    for (const auto& result :
         {test::run(one, {.mask = causal()}), test::run_cached(one, {.mask = causal()})}) {
      EXPECT_TRUE(same(result.tokens(0, token, 70), clean.tokens(0, token, 70))) << token;
      for (Index t = token; t < 70; ++t)
        for (Index h = 0; h < 3; ++h)
          EXPECT_TRUE(std::isnan(result.lse[static_cast<std::size_t>(t * 3 + h)])) << token << ", row " << t;
    }
  }
}

TYPED_TEST(Unseen, RowsAreIndependentOfWhatIsLeftOfTheirWindow) {
  const Sizes sizes{90, 700, 4, 2, 20, 12};
  AttentionCase<TypeParam> c(sizes, 3);
  for (const Window mask :
       {sliding_window(1), sliding_window(2), sliding_window(65), window(3, 5), window(100, 0)}) {
    const auto clean = this->both(c, {.mask = mask});
    for (Index last : {100, 511, 512, 540, 605, 608, 640, 641, 655}) {  // tokens before it are poisoned
      for (std::size_t which : {0u, 1u, 5u}) {
        AttentionCase<TypeParam> left = c;
        this->poison(left, 0, last, which);
        for (const auto& result : {test::run(left, {.mask = mask}), test::run_cached(left, {.mask = mask})}) {
          for (Index t = 0; t < 90; ++t) {
            if (mask.visible(610 + t).begin < last) continue;
            ASSERT_TRUE(same(result.tokens(t, t + 1, 90), clean.tokens(t, t + 1, 90)))
                << "row " << t << ", poison " << which << " up to " << last;
          }
        }
      }
    }
  }
}

TYPED_TEST(Unseen, RowsThatSeeNothingAreZeroAndMinusInfinity) {
  const auto inf = std::numeric_limits<Accumulator<TypeParam>>::infinity();
  const auto expect_empty = [&](AttentionCase<TypeParam>& c, const How& how, Index rows) {
    this->poison(c, 0, c.sizes.num_kv_tokens, 5);
    const auto& s = c.sizes;
    for (const auto& result : {test::run(c, how), test::run_cached(c, how)}) {
      const auto empty = result.tokens(0, rows, s.num_q_tokens);
      EXPECT_EQ(empty.lse,
                std::vector<Accumulator<TypeParam>>(static_cast<std::size_t>(rows * s.num_q_heads), -inf))
          << s.name();
      EXPECT_TRUE(same(Result<TypeParam>{empty.out, {}},
                       Result<TypeParam>{std::vector<TypeParam>(empty.out.size(), TypeParam{}), {}}))
          << s.name();
    }
  };
  AttentionCase<TypeParam> more(Sizes{100, 60, 4, 2, 16}, 4);
  expect_empty(more, {.mask = causal()}, 40);
  AttentionCase<TypeParam> before(Sizes{5, 60, 4, 2, 16}, 5);
  expect_empty(before, {.mask = causal(), .q_offset = -5}, 5);
  AttentionCase<TypeParam> after(Sizes{5, 600, 4, 2, 16}, 6);
  expect_empty(after, {.mask = sliding_window(3), .q_offset = 1000}, 5);
  AttentionCase<TypeParam> nothing(Sizes{5, 0, 4, 2, 16}, 7);
  expect_empty(nothing, {}, 5);
}

TYPED_TEST(Unseen, EmptyRowsAmongOthersOfALongCall) {
  // The first rows see nothing of a chunk that later rows of their block see.
  const Sizes sizes{700, 600, 2, 1, 16};
  AttentionCase<TypeParam> c(sizes, 8);
  test::expect_oracle(c, {.mask = sliding_window(520)});
  test::Threads threads(3);
  EXPECT_TRUE(same(test::run(c, {.mask = sliding_window(520), .threads = &threads}),
                   test::run(c, {.mask = sliding_window(520)})));
}

}  // namespace
}  // namespace gqa
