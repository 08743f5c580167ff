// SPDX-License-Identifier: Apache-2.0
// A prefill, the same in pieces, and decoding token by token give the same bits, over tensors and over a
// cache.
#include <gtest/gtest.h>

#include <numeric>

#include "gqa/kv/cache.hpp"
#include "laws/slices.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::How;
using test::Result;
using test::Sizes;
using test::slice;

/// The queries in pieces; the keys that are there when a piece's turn comes are all before its end.
template <class T>
Result<T> in_pieces(const AttentionCase<T>& c, const How& how, const std::vector<Index>& pieces) {
  const Index past = c.sizes.num_kv_tokens - c.sizes.num_q_tokens;
  Result<T> all;
  Index begin = 0;
  for (Index n : pieces) {
    all.append(test::run<T>(how, slice(c.q_view(), begin, begin + n), c.sizes.value_dim,
                            slice(c.k_view(), 0, past + begin + n), slice(c.v_view(), 0, past + begin + n)));
    begin += n;
  }
  return all;
}

template <class T>
Result<T> in_pieces_cached(const AttentionCase<T>& c, const How& how, const std::vector<Index>& pieces) {
  const Sizes& s = c.sizes;
  KVCache<T> cache({.max_tokens = s.num_kv_tokens,
                    .num_kv_heads = s.num_kv_heads,
                    .head_dim = s.head_dim,
                    .value_dim = s.value_dim});
  const Index past = s.num_kv_tokens - s.num_q_tokens;
  cache.append(slice(c.k_view(), 0, past), slice(c.v_view(), 0, past));
  Result<T> all;
  Index begin = 0;
  for (Index n : pieces) {
    cache.append(slice(c.k_view(), past + begin, past + begin + n),
                 slice(c.v_view(), past + begin, past + begin + n));
    all.append(test::run<T>(how, slice(c.q_view(), begin, begin + n), s.value_dim, cache.layer(0)));
    begin += n;
  }
  return all;
}

template <class T>
class Chunking : public ::testing::Test {};
TYPED_TEST_SUITE(Chunking, test::AllScalars, test::ScalarNames);

TYPED_TEST(Chunking, DecodeStepByStepIsPrefill) {
  const AttentionCase<TypeParam> c(Sizes{600, 600, 4, 2, 24, 40}, 1);
  const std::vector<Index> ones(600, 1);
  for (const Window mask : {causal(), sliding_window(70)}) {
    const How how{.mask = mask};
    const auto whole = test::run(c, how);
    EXPECT_TRUE(same(in_pieces(c, how, ones), whole));
    EXPECT_TRUE(same(in_pieces_cached(c, how, ones), whole)) << "cache";
  }
}

TYPED_TEST(Chunking, AnyPiecesArePrefill) {
  for (std::uint64_t seed : test::seeds(12)) {
    test::Random random(seed);
    const Index G = random.integer(1, 3), group = random.pick(std::vector<Index>{1, 3, 4, 7});
    const Index Sk = random.integer(1, random.flip(0.3) ? 1300 : 300), Sq = random.integer(1, Sk);
    const AttentionCase<TypeParam> c(
        Sizes{Sq, Sk, G * group, G, random.integer(1, 50), random.integer(1, 50)}, seed);
    const How how{.mask = random.flip() ? causal() : sliding_window(random.integer(1, 600))};
    const auto whole = test::run(c, how);
    const auto pieces = test::random_pieces(random, Sq);
    EXPECT_TRUE(same(in_pieces(c, how, pieces), whole)) << "seed " << seed;
    EXPECT_TRUE(same(in_pieces_cached(c, how, pieces), whole)) << "cache, seed " << seed;
  }
}

TYPED_TEST(Chunking, QueriesAloneOrTogetherOverAllKeys) {
  // Without a mask every query sees every key, in whatever company it comes.
  const AttentionCase<TypeParam> c(Sizes{50, 700, 6, 2, 33}, 3);
  const auto whole = test::run(c, {});
  for (Index n : {1, 2, 3, 13, 25}) {
    Result<TypeParam> all;
    for (Index begin = 0; begin < 50; begin += n)
      all.append(test::run<TypeParam>({}, slice(c.q_view(), begin, std::min<Index>(begin + n, 50)), 33,
                                      c.k_view(), c.v_view()));
    EXPECT_TRUE(same(all, whole)) << n << " queries a call";
  }
}

TYPED_TEST(Chunking, CacheIsTensors) {
  for (std::uint64_t seed : test::seeds(15)) {
    test::Random random(seed);
    const Index G = random.integer(1, 3), group = random.pick(std::vector<Index>{1, 3, 4, 16});
    const Sizes sizes{random.flip() ? 1 : random.integer(0, 60),
                      random.integer(0, 1200),
                      G * group,
                      G,
                      random.integer(1, 80),
                      random.integer(1, 80)};
    const AttentionCase<TypeParam> c(sizes, seed);
    const How how{.mask = random.flip() ? causal() : window(random.integer(-1, 200), random.integer(-1, 200)),
                  .scale = random.uniform(-1, 1)};
    EXPECT_TRUE(same(test::run(c, how), test::run_cached(c, how))) << "seed " << seed << ", " << sizes.name();
  }
}

TYPED_TEST(Chunking, ATruncatedCacheIsOneThatNeverHadMore) {
  using T = TypeParam;
  AttentionCase<T> c(Sizes{4, 130, 4, 2, 17, 9}, 5);
  for (Index keep : {1, 62, 63, 64, 65, 101, 127, 128}) {
    KVCache<T> cache({.max_tokens = 200, .num_kv_heads = 2, .head_dim = 17, .value_dim = 9});
    cache.append(slice(c.k_view(), 0, keep), slice(c.v_view(), 0, keep));
    // What is thrown away again is NaN, infinite and large.
    AttentionCase<T> junk = c;
    for (std::size_t i = 0; i < junk.k.size(); ++i)
      junk.k[i] = i % 3 == 0   ? std::numeric_limits<T>::quiet_NaN()
                  : i % 3 == 1 ? std::numeric_limits<T>::infinity()
                               : std::numeric_limits<T>::max();
    for (std::size_t i = 0; i < junk.v.size(); ++i) junk.v[i] = junk.k[i];
    cache.append(slice(junk.k_view(), 0, 70), slice(junk.v_view(), 0, 70));
    cache.truncate(keep);
    for (const Window mask : {no_mask(), causal()}) {
      const auto expected =
          test::run<T>({.mask = mask}, c.q_view(), 9, slice(c.k_view(), 0, keep), slice(c.v_view(), 0, keep));
      EXPECT_TRUE(same(test::run<T>({.mask = mask}, c.q_view(), 9, cache.layer(0)), expected))
          << "keep " << keep;
    }
    cache.append(slice(c.k_view(), keep, 130), slice(c.v_view(), keep, 130));
    EXPECT_TRUE(same(test::run<T>({.mask = causal()}, c.q_view(), 9, cache.layer(0)),
                     test::run(c, {.mask = causal()})))
        << "written again from " << keep;
  }
}

}  // namespace
}  // namespace gqa
