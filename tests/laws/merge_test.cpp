// SPDX-License-Identifier: Apache-2.0
// Attention over parts of the keys, merged, is attention over all of them.
#include <gtest/gtest.h>

#include "gqa/kernel/row_state.hpp"
#include "laws/slices.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::How;
using test::Result;
using test::Sizes;
using test::slice;

template <class T>
class MergedParts : public ::testing::Test {
 protected:
  /// Attention over the keys [begin, end) alone, at their positions in the whole.
  static OnlineSoftmax<T> part(const AttentionCase<T>& c, const How& how, Index begin, Index end) {
    const Sizes& s = c.sizes;
    How there = how;
    there.q_offset = s.num_kv_tokens - s.num_q_tokens - begin;
    const auto result = test::run<T>(there, c.q_view(), s.value_dim, slice(c.k_view(), begin, end),
                                     slice(c.v_view(), begin, end));
    return OnlineSoftmax<T>(s.num_q_tokens * s.num_q_heads, s.value_dim, result.out, result.lse);
  }
};
using Accumulators = ::testing::Types<float, double>;
TYPED_TEST_SUITE(MergedParts, Accumulators, test::ScalarNames);

TYPED_TEST(MergedParts, AreTheWhole) {
  using T = TypeParam;
  for (std::uint64_t seed : test::seeds(10)) {
    test::Random random(seed);
    const Index Sk = random.integer(10, 900);
    AttentionCase<T> c(Sizes{random.integer(1, 30), Sk, 4, 2, 24, random.integer(1, 30)}, seed);
    const How how{.mask = random.flip() ? causal() : sliding_window(200)};
    const Index a = random.integer(0, Sk), b = random.integer(a, Sk);
    const auto first = this->part(c, how, 0, a), second = this->part(c, how, a, b),
               third = this->part(c, how, b, Sk);
    auto left = first;
    left.merge(second);
    left.merge(third);
    auto right = third;
    right.merge(second);
    right.merge(first);
    const auto problem = test::problem_of(c, how);
    const auto exact = reference::attention(problem);
    const auto naive = test::naive_attention<T>(problem);
    for (const auto* state : {&left, &right}) {
      const Result<T> merged{state->output(), state->lse()};
      EXPECT_TRUE(test::within_bound(merged, problem, exact, naive))
          << "seed " << seed << ", cut at " << a << ", " << b;
    }
  }
}

TYPED_TEST(MergedParts, ASharedPrefixAndEachOnesOwnKeys) {
  // Two sequences with the same first 100 keys: attended to once, merged with what each has of its own.
  using T = TypeParam;
  const AttentionCase<T> shared(Sizes{6, 100, 4, 2, 16}, 1);
  AttentionCase<T> own(Sizes{6, 40, 4, 2, 16}, 2), whole(Sizes{6, 140, 4, 2, 16}, 3);
  own.q = whole.q = shared.q;
  std::copy(shared.k.begin(), shared.k.end(), whole.k.begin());
  std::copy(shared.v.begin(), shared.v.end(), whole.v.begin());
  std::copy(own.k.begin(), own.k.end(), whole.k.begin() + 100 * 2 * 16);
  std::copy(own.v.begin(), own.v.end(), whole.v.begin() + 100 * 2 * 16);
  const auto a = test::run(shared, {}), b = test::run(own, {.mask = causal()});
  OnlineSoftmax<T> state(24, 16, a.out, a.lse);
  state.merge(OnlineSoftmax<T>(24, 16, b.out, b.lse));
  const auto problem = test::problem_of(whole, {.mask = causal()});
  EXPECT_TRUE(test::within_bound(Result<T>{state.output(), state.lse()}, problem,
                                 reference::attention(problem), test::naive_attention<T>(problem)));
}

}  // namespace
}  // namespace gqa
