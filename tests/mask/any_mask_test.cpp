// SPDX-License-Identifier: Apache-2.0
// AnyMask holds any mask: of positions, of sequences and heads, and compositions of them.
#include <gtest/gtest.h>

#include <memory>

#include "gqa/gqa.hpp"
#include "mask/mask_laws.hpp"
#include "support/attention_case.hpp"

namespace gqa {
namespace {

using test::Exactness;
using test::expect_mask_is;

constexpr Index B = 2, H = 3, Sq = 5, Sk = 11;

/// A random boolean tensor batch x heads x queries x keys.
Eigen::Tensor<bool, 4, Eigen::RowMajor> booleans(std::uint64_t seed) {
  Eigen::Tensor<bool, 4, Eigen::RowMajor> values(B, H, Sq, Sk);
  test::Random random(seed);
  for (Index i = 0; i < values.size(); ++i) values.data()[i] = random.flip(0.7);
  return values;
}

/// Planes, kinds and checks of `mask` behind AnyMask are those of `mask`.
template <Mask M>
void expect_the_same(const M& mask, Exactness exactness = Exactness::exact) {
  const AnyMask any = mask, twice = any & no_mask(), not_not = !AnyMask(!any);
  EXPECT_EQ(varies_by_head(any), varies_by_head(mask));
  EXPECT_EQ(varies_by_seq(any), varies_by_seq(mask));
  EXPECT_EQ(varies_by_head(twice), varies_by_head(mask));
  for (const AttentionExtent& extent :
       {AttentionExtent{B, H, {Sk - Sq, Sk}, {0, Sk}}, {B, H, {0, 9}, {0, 9}}}) {
    const auto refuses = [&](const auto& m) {
      try {
        check_mask(m, extent);
        return false;
      } catch (const std::invalid_argument&) {
        return true;
      }
    };
    EXPECT_EQ(refuses(any), refuses(mask));
    EXPECT_EQ(refuses(twice), refuses(mask));
  }
  for (Index seq = 0; seq < B; ++seq) {
    for (Index h = 0; h < H; ++h) {
      decltype(auto) plane = mask_for(mask, seq, h, Sk - Sq);
      const auto formula = [&](Index q, Index kv) { return plane(q, kv); };
      ASSERT_NO_FATAL_FAILURE(expect_mask_is(any.at(seq, h, Sk - Sq), formula, exactness, 14));
      ASSERT_NO_FATAL_FAILURE(expect_mask_is(mask_for(twice, seq, h, Sk - Sq), formula, exactness, 14));
      ASSERT_NO_FATAL_FAILURE(expect_mask_is(mask_for(not_not, seq, h, Sk - Sq), formula, exactness, 14));
      const AnyMask::Plane original = any.at(seq, h), copy = original;
      EXPECT_EQ(copy(7, 3), original(7, 3));
    }
  }
}

TEST(AnyMask, OfPositions) {
  expect_the_same(causal());
  expect_the_same(sinks(2) & !sliding_window(4));
  expect_the_same(mask_fn([](Index q, Index kv) { return (q + 2 * kv) % 3 == 0; }), Exactness::sound);
  expect_the_same(AnyMask(causal()));
}

TEST(AnyMask, OfSequencesAndHeads) {
  const auto values = booleans(1);
  const auto tensor = tensor_mask(values);
  expect_the_same(tensor);
  expect_the_same(causal() & tensor);
  expect_the_same((!tensor) | sinks(1));
  expect_the_same(per_head([](Index h) { return sliding_window(h + 1); }));
  expect_the_same(per_head({causal(), sliding_window(3), dilated(2)}));
}

TEST(AnyMask, InItselfAndLarge) {
  const auto first = booleans(2), second = booleans(3), third = booleans(4), fourth = booleans(5);
  const AnyMask one = tensor_mask(first), two = tensor_mask(second) | tensor_mask(third);
  expect_the_same(one & two);  // planes in planes: more than lie in one
  expect_the_same((one & AnyMask(two & causal())) | AnyMask(tensor_mask(fourth) & AnyMask(sinks(3))));
  expect_the_same((tensor_mask(first) | tensor_mask(second)) & (tensor_mask(third) | tensor_mask(fourth)) &
                  !(tensor_mask(first) & tensor_mask(third)));
}

TEST(AnyMask, HeadsOfAnyKind) {
  const auto values = booleans(6);
  const AnyMask tensor = tensor_mask(values);
  const auto list = per_head({causal(), tensor, tensor_mask(values) & sinks(5)});
  EXPECT_TRUE(varies_by_seq(list));
  EXPECT_FALSE(varies_by_seq(per_head({causal(), dilated(2), causal()})));
  const auto function = per_head([&](Index h) {
    return h == 0 ? AnyMask(causal()) : h == 1 ? tensor : tensor & sinks(5);
  });
  EXPECT_TRUE(varies_by_seq(function));
  for (Index seq = 0; seq < B; ++seq) {
    for (Index h = 0; h < H; ++h) {
      const auto formula = [&](Index q, Index kv) {
        const bool there = q >= Sk - Sq && q < Sk && kv < Sk && values(seq, h, q - (Sk - Sq), kv);
        return h == 0 ? kv <= q : h == 1 ? there : there && kv < 5 && kv <= q;
      };
      ASSERT_NO_FATAL_FAILURE(expect_mask_is(list.at(seq, h), formula, Exactness::exact, 14));
      ASSERT_NO_FATAL_FAILURE(expect_mask_is(function.at(seq, h), formula, Exactness::exact, 14));
      // A copy of a plane outlives the first, and what made it.
      auto plane = std::make_unique<const decltype(function.at(0, 0))>(function.at(seq, h));
      const auto copy = *plane;
      plane.reset();
      ASSERT_NO_FATAL_FAILURE(expect_mask_is(copy, formula, Exactness::exact, 14));
    }
  }
  EXPECT_THROW(check_mask(list, {B + 1, H, {Sk - Sq, Sk}, {0, Sk}}), std::invalid_argument);
  EXPECT_THROW(check_mask(function, {B + 1, H, {Sk - Sq, Sk}, {0, Sk}}), std::invalid_argument);
}

TEST(AnyMask, GivesTheBitsOfTheMaskItHolds) {
  const Index D = 8, keys = 150, queries = 70;
  Eigen::Tensor<float, 4, Eigen::RowMajor> q(B, queries, H, D), k(B, keys, 1, D), v(B, keys, 1, D);
  q.setRandom(), k.setRandom(), v.setRandom();
  Eigen::Tensor<bool, 4, Eigen::RowMajor> values(B, H, queries, keys);
  test::Random random(7);
  for (Index i = 0; i < values.size(); ++i) values.data()[i] = random.flip(0.6);
  const auto expect_same = [&](const auto& mask) {
    const auto direct = attention(q, k, v, mask), any = attention(q, k, v, AnyMask(mask));
    for (Index i = 0; i < direct.size(); ++i) ASSERT_EQ(any.data()[i], direct.data()[i]) << i;
    Index seen = 0;
    for (Index i = 0; i < direct.size(); ++i) seen += direct.data()[i] != 0;
    EXPECT_GT(seen, 0);
  };
  expect_same(tensor_mask(values));
  expect_same(causal() & tensor_mask(values));
  expect_same(per_head([](Index h) { return sliding_window(20 * h + 1); }) | sinks(3));
  expect_same(per_head({causal(), AnyMask(tensor_mask(values)), sliding_window(9)}));
}

}  // namespace
}  // namespace gqa
