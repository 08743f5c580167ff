// SPDX-License-Identifier: Apache-2.0
// The same bits with score functions and learned sinks: whatever the pieces, threads and placement, a score
// meets the same function at the same coordinates.
#include <gtest/gtest.h>

#include "gqa/gqa.hpp"
#include "laws/slices.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::Result;
using test::same;
using test::Sizes;
using test::slice;
using test::Threads;

template <class T>
class ScoresAndSinks : public ::testing::Test {
 protected:
  using Acc = Accumulator<T>;
  static constexpr Index H = 6, G = 2, D = 20, Dv = 12;

  /// Some queries over keys that end with the last of them.
  template <class KV>
  static Result<T> run(Threads& threads, const TensorView<const T>& q, const KV& kv) {
    static const AnyScoreMod score =
        soft_cap(3) | alibi(H) |
        temperature([](Index q_pos) { return 1 + 0.001 * static_cast<double>(q_pos); }) |
        [](double s, Index h, Index q_pos, Index kv_pos) {
          return s + 0.01 * static_cast<double>((h + q_pos * 3 + kv_pos * 7) % 11);
        };
    static const SinkLogits sinks{0.5, -1, 2, 0, -std::numeric_limits<double>::infinity(), 1};
    Result<T> result{std::vector<T>(static_cast<std::size_t>(q.tokens * H * Dv), T(7)),
                     std::vector<Acc>(static_cast<std::size_t>(q.tokens * H), 7)};
    const TensorView<T> out(result.out.data(), q.tokens, H, Dv);
    const LseOutput<Acc> lse{{result.lse.data(), 1, q.tokens, H, q.tokens * H, H, 1}};
    attention(threads, q, kv, out, lse, causal(), score, sinks);
    return result;
  }
};

TYPED_TEST_SUITE(ScoresAndSinks, test::AllScalars, test::ScalarNames);

TYPED_TEST(ScoresAndSinks, PiecesThreadsAndTheCacheChangeNoBit) {
  using T = TypeParam;
  for (const std::uint64_t seed : test::seeds(5)) {
    test::Random random(seed);
    const Index Sk = random.integer(100, 1300), Sq = std::min<Index>(Sk, random.integer(1, 200)),
                past = Sk - Sq;
    const AttentionCase<T> c(Sizes{Sq, Sk, this->H, this->G, this->D, this->Dv}, seed);
    const auto tensors = [&](Index end) {
      return ContiguousKV<T>(slice(c.k_view(), 0, end), slice(c.v_view(), 0, end));
    };
    Threads one(1);
    const auto whole = this->run(one, c.q_view(), tensors(Sk));
    for (int n : {2, 3, 8}) {
      Threads threads(n);
      EXPECT_TRUE(same(this->run(threads, c.q_view(), tensors(Sk)), whole)) << n << " threads, seed " << seed;
    }
    KVCache<T> cache({.max_tokens = Sk, .num_kv_heads = this->G, .head_dim = this->D, .value_dim = this->Dv});
    cache.append(slice(c.k_view(), 0, past), slice(c.v_view(), 0, past));
    Result<T> of_tensors, of_cache;
    Index begin = 0;
    for (Index n : test::random_pieces(random, Sq)) {
      const auto q = slice(c.q_view(), begin, begin + n);
      const Index first = past + begin;
      cache.append(slice(c.k_view(), first, first + n), slice(c.v_view(), first, first + n));
      of_tensors.append(this->run(one, q, tensors(first + n)));
      of_cache.append(this->run(one, q, cache.layer(0)));
      begin += n;
    }
    EXPECT_TRUE(same(of_tensors, whole)) << "seed " << seed;
    EXPECT_TRUE(same(of_cache, whole)) << "cache, seed " << seed;
  }
}

TYPED_TEST(ScoresAndSinks, SplitDecodeChangesNoBit) {
  using T = TypeParam;
  const AttentionCase<T> c(Sizes{1, 9000, this->H, this->G, this->D, this->Dv}, 9);
  const ContiguousKV<T> kv(c.k_view(), c.v_view());
  Threads one(1), eight(8);
  EXPECT_TRUE(same(this->run(eight, c.q_view(), kv), this->run(one, c.q_view(), kv)));
  EXPECT_GT(eight.calls(), 0) << "not shared out";
}

}  // namespace
}  // namespace gqa
