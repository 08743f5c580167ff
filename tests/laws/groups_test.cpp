// SPDX-License-Identifier: Apache-2.0
// Grouped-query attention is multi-head attention with repeated key and value heads, to the bit.
#include <gtest/gtest.h>

#include "laws/slices.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::How;
using test::Sizes;

template <class T>
class Groups : public ::testing::Test {};
TYPED_TEST_SUITE(Groups, test::AllScalars, test::ScalarNames);

TYPED_TEST(Groups, AreMultiHeadWithRepeatedHeads) {
  using T = TypeParam;
  std::uint64_t seed = 1;
  for (const auto& [H, G] : {std::pair<Index, Index>{4, 2}, {6, 2}, {7, 1}, {71, 1}, {12, 4}}) {
    for (const auto& [Sq, Sk] : {std::pair<Index, Index>{1, 700}, {3, 65}, {70, 130}}) {
      const AttentionCase<T> grouped(Sizes{Sq, Sk, H, G, 40, 24}, seed++);
      AttentionCase<T> repeated = grouped;
      repeated.sizes.num_kv_heads = H;
      repeated.k.clear();
      repeated.v.clear();
      for (Index t = 0; t < Sk; ++t) {
        for (Index h = 0; h < H; ++h) {
          const T* k = grouped.k_view().at(0, t, h / (H / G));
          const T* v = grouped.v_view().at(0, t, h / (H / G));
          repeated.k.insert(repeated.k.end(), k, k + 40);
          repeated.v.insert(repeated.v.end(), v, v + 24);
        }
      }
      for (const Window mask : {causal(), no_mask(), sliding_window(50)}) {
        EXPECT_TRUE(same(test::run(grouped, {.mask = mask}), test::run(repeated, {.mask = mask})))
            << grouped.sizes.name();
        EXPECT_TRUE(
            same(test::run_cached(grouped, {.mask = mask}), test::run_cached(repeated, {.mask = mask})))
            << "cache, " << grouped.sizes.name();
      }
    }
  }
}

TYPED_TEST(Groups, EachHeadIsItself) {
  // One query head alone gives what it gives among its group.
  using T = TypeParam;
  const Index H = 7, Sq = 20, Sk = 150;
  const AttentionCase<T> all(Sizes{Sq, Sk, H, 1, 33}, 50);
  const auto together = test::run(all, {.mask = causal()});
  for (Index h = 0; h < H; ++h) {
    const TensorView<const T> q(all.q.data() + h * 33, {1, Sq, 1, 33}, {0, H * 33, 33});
    const auto alone = test::run<T>({.mask = causal()}, q, 33, all.k_view(), all.v_view());
    for (Index t = 0; t < Sq; ++t)
      ASSERT_EQ(
          std::memcmp(alone.out.data() + t * 33, together.out.data() + (t * H + h) * 33, 33 * sizeof(T)), 0)
          << "head " << h << ", query " << t;
  }
}

}  // namespace
}  // namespace gqa
