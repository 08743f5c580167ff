// SPDX-License-Identifier: Apache-2.0
// What out may share with q, and what out and lse hold when a call has thrown.
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

#include "attention/attend.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::FunctionKV;
using test::Result;
using test::Sizes;
using test::Threads;

template <class T>
class Out : public ::testing::Test {};

TYPED_TEST_SUITE(Out, test::AllScalars, test::ScalarNames);

TYPED_TEST(Out, MayBeTheQueries) {
  using T = TypeParam;
  // Cut by queries, by heads and by keys; blocks of one call and of many.
  for (const Sizes& s : {Sizes{1, 6000, 4, 1, 32}, Sizes{1, 70, 7, 7, 40}, Sizes{300, 300, 4, 2, 24},
                         Sizes{33, 4100, 6, 3, 40}}) {
    const AttentionCase<T> c(s, 1);
    const auto cache = test::cache_of(c);
    for (int n : {1, 2, 3}) {
      Threads threads(n);
      const test::How how{.mask = causal(), .threads = &threads};
      const auto expected = test::run(c, how);
      const auto in_place = [&](auto&&... kv) {
        Result<T> result{c.q, std::vector<Accumulator<T>>(expected.lse.size())};
        const TensorView<T> q(result.out.data(), s.num_q_tokens, s.num_q_heads, s.head_dim);
        test::attend<T>(how, q, kv..., q,
                        {result.lse.data(), 1, s.num_q_tokens, s.num_q_heads, 0, s.num_q_heads, 1});
        return result;
      };
      EXPECT_TRUE(test::same(in_place(c.k_view(), c.v_view()), expected)) << s.name() << ", threads " << n;
      EXPECT_TRUE(test::same(in_place(cache.layer(0)), expected)) << s.name() << ", threads " << n;
    }
  }
}

TYPED_TEST(Out, HoldsWholeRowsAfterAThrow) {
  using T = TypeParam;
  const Sizes s{200, 900, 6, 3, 24};
  const AttentionCase<T> c(s, 2);
  const auto k = c.k_view(), v = c.v_view();
  const auto expected = test::run(c, {.mask = causal()});
  for (int n : {1, 3}) {
    Threads threads(n);
    Index some = 0;
    for (Index limit = 1;; limit += 7) {
      std::atomic<Index> reads{0};
      const FunctionKV<T> view{.kv_heads = 3,
                               .key_dim = 24,
                               .values_dim = 24,
                               .positions = {0, 900},
                               .read = [&](Index, Index head, Range want, void*) {
                                 if (++reads > limit) throw std::runtime_error("no more");
                                 return KVTile{.k = tile_side(k.at(0, want.begin, head), k.token_stride),
                                               .v = tile_side(v.at(0, want.begin, head), v.token_stride),
                                               .size = want.size(),
                                               .layout = TileLayout::token_major};
                               }};
      Result<T> result{std::vector<T>(expected.out.size(), T(7)),
                       std::vector<Accumulator<T>>(expected.lse.size(), 7)};
      bool threw = false;
      try {
        test::attend<T>({.mask = causal(), .threads = &threads}, c.q_view(), view,
                        TensorView<T>(result.out.data(), 200, 6, 24),
                        {result.lse.data(), 1, 200, 6, 0, 6, 1});
      } catch (const std::runtime_error&) {
        threw = true;
      }
      Index written = 0;
      for (std::size_t row = 0; row < result.lse.size(); ++row) {
        const auto is = [&](const T* wanted) {
          return std::memcmp(&result.out[row * 24], wanted, 24 * sizeof(T)) == 0;
        };
        const std::vector<T> before(24, T(7));
        const bool done = is(&expected.out[row * 24]);
        written += done;
        ASSERT_TRUE(done || is(before.data())) << "row " << row << " after " << limit << " tiles";
        ASSERT_EQ(result.lse[row], done ? expected.lse[row] : Accumulator<T>{7}) << row;
      }
      if (!threw) {
        EXPECT_EQ(written, 1200);
        break;
      }
      EXPECT_LT(written, 1200);
      some += written > 0;
    }
    EXPECT_GT(some, 0) << "no call got to write before it threw";
  }
}

}  // namespace
}  // namespace gqa
