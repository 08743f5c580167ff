// SPDX-License-Identifier: Apache-2.0
// Masks that depend on the sequence or the query head: each plane of them is a mask like any other.
#include <gtest/gtest.h>

#include <memory>
#include <unsupported/Eigen/CXX11/Tensor>
#include <variant>

#include "mask/mask_laws.hpp"

namespace gqa {
namespace {

using test::Exactness;
using test::expect_mask_is;

/// A random boolean array that lives as long as the test.
struct Booleans {
  Booleans(Index n, std::uint64_t seed) : data(new bool[static_cast<std::size_t>(n)]) {
    test::Random random(seed);
    for (Index i = 0; i < n; ++i) data[static_cast<std::size_t>(i)] = random.flip(0.7);
  }
  bool operator[](Index i) const { return data[static_cast<std::size_t>(i)]; }
  std::unique_ptr<bool[]> data;
};

TEST(TensorMask, EveryWayOfBroadcasting) {
  const Index B = 2, H = 3, Sq = 5, Sk = 11;
  const Booleans values(B * H * Sq * Sk, 1);
  for (Index b_size : {Index{1}, B}) {
    for (Index h_size : {Index{1}, H}) {
      for (Index q_size : {Index{1}, Sq}) {
        const auto mask = tensor_mask(ScoreTensor<bool>(values.data.get(), {b_size, h_size, q_size, Sk}));
        EXPECT_EQ(varies_by_seq(mask), b_size > 1);
        EXPECT_EQ(varies_by_head(mask), h_size > 1);
        EXPECT_NO_THROW(check_mask(mask, {B, H, {Sk - Sq, Sk}, {0, Sk}}));
        for (Index b = 0; b < B; ++b) {
          for (Index h = 0; h < H; ++h) {
            const auto formula = [&](Index q, Index kv) {
              const Index row = q_size == 1 ? 0 : q - (Sk - Sq);
              if (row < 0 || row >= q_size || kv >= Sk) return false;
              return values[(((b_size == 1 ? 0 : b) * h_size + (h_size == 1 ? 0 : h)) * q_size + row) * Sk +
                            kv];
            };
            ASSERT_NO_FATAL_FAILURE(expect_mask_is(mask_for(mask, b, h), formula, Exactness::exact, 14));
          }
        }
      }
    }
  }
}

TEST(TensorMask, StridesAndAFirstPosition) {
  const Booleans values(400, 2);
  const ScoreTensor<bool> tensor(values.data.get(), {1, 2, 4, 6}, {0, 7, 20}, 3);
  const auto formula = [&](Index q, Index kv) {
    return q >= 3 && q < 7 && kv < 6 && values[7 + (q - 3) * 20 + kv];
  };
  expect_mask_is(tensor_mask(tensor).at(0, 1), formula, Exactness::exact, 14);
}

TEST(TensorMask, EigenTensorsOfEitherLayout) {
  Eigen::Tensor<bool, 3, Eigen::RowMajor> rows(2, 3, 5);
  Eigen::Tensor<bool, 4, Eigen::ColMajor> columns(5, 3, 2, 1);
  test::Random random(3);
  for (Index h = 0; h < 2; ++h) {
    for (Index i = 0; i < 3; ++i) {
      for (Index j = 0; j < 5; ++j) rows(h, i, j) = columns(j, i, h, 0) = random.flip();
    }
  }
  for (Index h = 0; h < 2; ++h) {
    const auto formula = [&](Index q, Index kv) { return q >= 2 && q < 5 && kv < 5 && rows(h, q - 2, kv); };
    expect_mask_is(tensor_mask(rows).at(0, h), formula, Exactness::exact, 9);
    expect_mask_is(tensor_mask(columns).at(0, h), formula, Exactness::exact, 9);
  }
}

TEST(PerHead, AListAndAFunction) {
  const auto list =
      per_head({causal(), sliding_window(3) | sinks(1), [](Index q, Index kv) { return q == kv; }});
  EXPECT_NO_THROW(check_mask(list, {2, 3, {0, 9}, {0, 9}}));
  expect_mask_is(
      mask_for(list, 0, 0), [](Index q, Index kv) { return kv <= q; }, Exactness::exact);
  expect_mask_is(
      mask_for(list, 1, 1), [](Index q, Index kv) { return kv <= q && (kv < 1 || kv > q - 3); },
      Exactness::exact);
  expect_mask_is(
      mask_for(list, 1, 2), [](Index q, Index kv) { return q == kv; }, Exactness::sound);
  const auto by_head = per_head([](Index h) { return sliding_window(h + 1); });
  for (Index h : {0, 4}) {
    expect_mask_is(
        mask_for(by_head, 0, h), [=](Index q, Index kv) { return kv <= q && kv >= q - h; }, Exactness::exact);
  }
  EXPECT_TRUE(varies_by_head(list));
  EXPECT_FALSE(varies_by_seq(list));
  EXPECT_FALSE(varies_by_seq(by_head));
}

TEST(BoundMasks, ComposeWithMasksOfPositions) {
  const Index Sk = 12;
  const Booleans values(2 * Sk, 4);  // a padding mask: a row of keys for each sequence
  const auto padding = tensor_mask(ScoreTensor<bool>(values.data.get(), {2, 1, 1, Sk}));
  const auto mask = causal() & padding & !per_head({sliding_window(2), sliding_window(5)});
  const auto either = mask | chunked(4);
  static_assert(BoundMask<decltype(mask)> && !PositionMask<decltype(mask)>);
  EXPECT_TRUE(varies_by_head(mask));
  EXPECT_TRUE(varies_by_seq(mask));
  EXPECT_FALSE(varies_by_head(causal() & padding));
  for (Index seq : {0, 1}) {
    for (Index h : {0, 1}) {
      const Index W = h == 0 ? 2 : 5;
      const auto formula = [&](Index q, Index kv) { return kv <= q - W && kv < Sk && values[seq * Sk + kv]; };
      expect_mask_is(mask_for(mask, seq, h), formula, Exactness::exact);
      expect_mask_is(
          mask_for(either, seq, h),
          [&](Index q, Index kv) { return formula(q, kv) || (q >= 0 && kv <= q && q / 4 == kv / 4); },
          Exactness::exact);
    }
  }
}

TEST(BoundMasks, EitherSideOfACompositionMayDependOnTheHead) {
  const auto heads = per_head({sliding_window(2), sliding_window(5)});
  const auto nothing = !no_mask();
  const auto both = heads & !heads;
  const auto left = heads & no_mask();
  const auto right = no_mask() & heads;
  const auto left_or = heads | nothing;
  const auto right_or = nothing | heads;
  const auto neither = !heads;
  for (Index h : {0, 1}) {
    const Index W = h == 0 ? 2 : 5;
    const auto formula = [=](Index q, Index kv) { return kv <= q && kv > q - W; };
    expect_mask_is(mask_for(left, 0, h), formula, Exactness::exact);
    expect_mask_is(mask_for(right, 0, h), formula, Exactness::exact);
    expect_mask_is(mask_for(left_or, 0, h), formula, Exactness::exact);
    expect_mask_is(mask_for(right_or, 0, h), formula, Exactness::exact);
    expect_mask_is(
        mask_for(neither, 0, h), [=](Index q, Index kv) { return !formula(q, kv); }, Exactness::exact);
    expect_mask_is(
        mask_for(both, 0, h), [](Index, Index) { return false; }, Exactness::exact);
  }
}

/// Says which heads differ in one of the three ways there are, or not at all.
template <class Answer>
struct Varying {
  Answer answer;
  constexpr Window at(Index, Index) const { return causal(); }
  constexpr Answer varies_by_head() const requires(!std::same_as<Answer, std::monostate>) { return answer; }
};

TEST(HeadVariations, AreWhatTheMaskSaysAndByQueryHeadIfItDoesNot) {
  using enum HeadVariation;
  static_assert(head_variation(causal()) == none && head_variation(causal() & !sinks(2)) == none);
  static_assert(head_variation(Varying<bool>{false}) == none);
  static_assert(head_variation(Varying<bool>{true}) == by_q_head);
  static_assert(head_variation(Varying<std::monostate>{}) == by_q_head);
  for (const HeadVariation said : {none, by_kv_head, by_q_head}) {
    const Varying<HeadVariation> mask{said};
    EXPECT_EQ(head_variation(mask), said);
    EXPECT_EQ(varies_by_head(mask), said != none);
    EXPECT_EQ(head_variation(!mask), said);
    EXPECT_EQ(head_variation(AnyMask(mask)), said);
    EXPECT_EQ(head_variation(AnyMask(!AnyMask(mask))), said);
  }
}

TEST(HeadVariations, OfACompositionAreTheStrongerOnes) {
  using enum HeadVariation;
  const HeadVariation all[] = {none, by_kv_head, by_q_head};
  const HeadVariation stronger[3][3] = {
      {none, by_kv_head, by_q_head}, {by_kv_head, by_kv_head, by_q_head}, {by_q_head, by_q_head, by_q_head}};
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) {
      const Varying<HeadVariation> a{all[i]}, b{all[j]};
      EXPECT_EQ(head_variation(a & b), stronger[i][j]) << i << " & " << j;
      EXPECT_EQ(head_variation(a | b), stronger[i][j]) << i << " | " << j;
      EXPECT_EQ(head_variation(AnyMask(a) & AnyMask(b)), stronger[i][j]) << i << " & " << j;
      EXPECT_EQ(head_variation(AnyMask(a | b)), stronger[i][j]) << i << " | " << j;
      EXPECT_EQ(varies_by_head(a & b), i + j > 0) << i << " & " << j;
    }
    EXPECT_EQ(head_variation(causal() & Varying<HeadVariation>{all[i]}), all[i]);
  }
}

TEST(BoundMasks, AMaskOfPositionsIsItselfForEveryHead) {
  const auto mask = causal() & sliding_window(4);
  EXPECT_EQ(&mask_for(mask, 0, 0), &mask);
  static_assert(!varies_by_head(causal()) && !varies_by_seq(causal() & sliding_window(3)));
}

}  // namespace
}  // namespace gqa
