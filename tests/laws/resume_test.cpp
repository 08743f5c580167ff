// SPDX-License-Identifier: Apache-2.0
// A call that goes on from the state of another: the bits of one call where the cut allows it, rounding
// elsewhere.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gqa/gqa.hpp"
#include "support/attention_case.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::Sizes;

/// Some of the keys of tensors, at their own positions: what a machine of several holds.
template <class T>
struct PartKV {
  using Scalar = T;
  TensorView<const T> k, v;
  Range positions;

  Index num_seqs() const { return k.batch; }
  Index num_kv_heads() const { return k.heads; }
  Index head_dim() const { return k.dim; }
  Index value_dim() const { return v.dim; }
  Index scratch_bytes() const { return 0; }
  Range retained(Index) const { return positions; }
  KVTile tile(Index seq, Index head, Range want, void*) const {
    return {.k = tile_side(k.at(seq, want.begin, head), k.token_stride),
            .v = tile_side(v.at(seq, want.begin, head), v.token_stride),
            .size = want.size(),
            .layout = TileLayout::token_major};
  }
};

template <class T>
struct Calls {
  using Acc = Accumulator<T>;
  const AttentionCase<T>& c;
  std::vector<T> out;
  std::vector<Acc> lse;
  double scale = 0.25;

  explicit Calls(const AttentionCase<T>& of)
      : c(of),
        out(static_cast<std::size_t>(c.sizes.num_q_tokens * c.sizes.num_q_heads * c.sizes.value_dim)),
        lse(static_cast<std::size_t>(c.sizes.num_q_tokens * c.sizes.num_q_heads)) {}

  OnlineSoftmax<Acc> state() const { return {c.sizes.num_q_tokens * c.sizes.num_q_heads, c.sizes.value_dim}; }
  TensorView<T> out_view() {
    return {out.data(), c.sizes.num_q_tokens, c.sizes.num_q_heads, c.sizes.value_dim};
  }
  auto lse_view() {
    const Index H = c.sizes.num_q_heads, tokens = c.sizes.num_q_tokens;
    return RowsView<Acc>{lse.data(), 1, tokens, H, tokens * H, H, 1};
  }
  template <class... X>
  void over(Range keys, const X&... extras) {
    const PartKV<T> part{c.k_view(), c.v_view(), keys};
    const AttentionOptions at{.scale = scale, .q_offset = c.sizes.num_kv_tokens - c.sizes.num_q_tokens};
    attention(c.q_view(), part, out_view(), lse_into(lse_view()), at, extras...);
  }
};

template <class T>
class Resume : public ::testing::Test {};
using Scalars = ::testing::Types<float, bfloat16, double>;
TYPED_TEST_SUITE(Resume, Scalars);

constexpr Index n = 2 * merge_keys + 1300;
constexpr Sizes sizes{5, n, 6, 2, 16, 24};

TYPED_TEST(Resume, KeepsEveryBitWhereACutIsAMergeUnits) {
  const AttentionCase<TypeParam> c(sizes, 1);
  const auto expect = [&](const std::vector<Index>& cuts, const auto&... extras) {
    Calls<TypeParam> whole(c), parts(c);
    whole.scale = parts.scale = cuts.size() == 3 ? 0.25 : -0.5;
    auto of_whole = whole.state(), state = parts.state();
    whole.over({0, n}, state_into(of_whole), extras...);
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      if (i == 0)
        parts.over({cuts[i], cuts[i + 1]}, state_into(state), extras...);
      else  // the state in place
        parts.over({cuts[i], cuts[i + 1]}, resume(state), state_into(state), extras...);
    }
    EXPECT_EQ(parts.out, whole.out);
    EXPECT_EQ(parts.lse, whole.lse);
    EXPECT_EQ(state.output(), of_whole.output());
    EXPECT_EQ(state.lse(), of_whole.lse());
  };
  for (const auto& cuts : {std::vector<Index>{0, merge_keys, n},
                           {0, 2 * merge_keys, n},
                           {0, merge_keys, 2 * merge_keys, n},
                           {0, chunk_keys, n},
                           {0, 3 * chunk_keys, 7 * chunk_keys, n}}) {
    expect(cuts, no_mask());
    expect(cuts, causal());
    expect(cuts, causal() & sliding_window(merge_keys + 700));
    expect(cuts, sinks(4) | sliding_window(900));
    expect(cuts, causal(), soft_cap(2));
  }
}

TYPED_TEST(Resume, ElsewhereItIsTheSameUpToRounding) {
  const AttentionCase<TypeParam> c(sizes, 2);
  Calls<TypeParam> whole(c), parts(c);
  auto state = parts.state();
  whole.over({0, n}, causal());
  parts.over({0, 777}, causal(), state_into(state));
  parts.over({777, merge_keys + 1}, causal(), resume(state), state_into(state));
  parts.over({merge_keys + 1, n}, causal(), resume(state));
  const double unit = test::detail::unit_roundoff<TypeParam>();
  for (std::size_t i = 0; i < whole.out.size(); ++i)
    ASSERT_NEAR(static_cast<double>(parts.out[i]), static_cast<double>(whole.out[i]), 40 * unit) << i;
}

TYPED_TEST(Resume, StatesOfMergeUnitsMergeToTheBitsOfOneCall) {
  const AttentionCase<TypeParam> c(sizes, 3);
  Calls<TypeParam> whole(c), part(c);
  auto of_whole = whole.state(), total = part.state();
  whole.over({0, n}, causal(), state_into(of_whole));
  for (Index begin = 0; begin < n; begin += merge_keys) {
    auto state = part.state();
    part.over({begin, std::min(begin + merge_keys, n)}, causal(), state_into(state));
    total.merge(state);
  }
  EXPECT_EQ(total.output(), of_whole.output());
  EXPECT_EQ(total.lse(), of_whole.lse());
}

TYPED_TEST(Resume, ThreadsAndSplitsChangeNoBit) {
  const AttentionCase<TypeParam> c(Sizes{1, n, 6, 1, 16, 24}, 4);
  Eigen::ThreadPool pool(3);
  for (const Index cut : {chunk_keys, merge_keys}) {
    Calls<TypeParam> one(c), many(c);
    auto a = one.state(), b = many.state();
    one.over({0, cut}, state_into(a));
    one.over({cut, n}, resume(a), state_into(a));
    const AttentionOptions at{.scale = 0.25, .q_offset = n - 1};
    const PartKV<TypeParam> first{c.k_view(), c.v_view(), {0, cut}}, second{c.k_view(), c.v_view(), {cut, n}};
    attention(pool, c.q_view(), first, many.out_view(), state_into(b), at);
    attention(pool, c.q_view(), second, many.out_view(), lse_into(many.lse_view()), resume(b), state_into(b),
              at);
    EXPECT_EQ(one.out, many.out);
    EXPECT_EQ(one.lse, many.lse);
    EXPECT_EQ(a.output(), b.output());
  }
}

TYPED_TEST(Resume, SinksAreCountedOnceAndOverflowsAreRepaired) {
  AttentionCase<TypeParam> c(Sizes{2, merge_keys + 100, 2, 1, 8, 16}, 5);
  Calls<TypeParam> whole(c), parts(c);
  auto state = parts.state();
  const SinkLogits logits{0.5, 2};
  whole.over({0, merge_keys + 100}, logits);
  parts.over({0, merge_keys}, state_into(state), logits);
  parts.over({merge_keys, merge_keys + 100}, resume(state), state_into(state), logits);
  EXPECT_EQ(parts.out, whole.out);
  EXPECT_EQ(parts.lse, whole.lse);
  // Sums of the last call overflow, those of the state do not.
  const auto largest = std::numeric_limits<TypeParam>::max();
  for (Index j = merge_keys; j < merge_keys + 100; ++j)
    for (Index d = 0; d < 16; ++d) c.v[static_cast<std::size_t>(j * 16 + d)] = largest;
  auto again = parts.state();
  whole.over({0, merge_keys + 100});
  parts.over({0, merge_keys}, state_into(again));
  parts.over({merge_keys, merge_keys + 100}, resume(again), state_into(again));
  EXPECT_EQ(parts.out, whole.out);
  for (const TypeParam x : parts.out) EXPECT_TRUE(std::isfinite(static_cast<double>(x)));
}

TEST(ResumeCall, StatesOfOtherSizesAreRefused) {
  const AttentionCase<float> c(Sizes{3, 10, 2, 1, 8, 16}, 6);
  Calls<float> run(c);
  OnlineSoftmax<float> rows(7, 16), dims(6, 8);
  EXPECT_EQ(test::message_of([&] {
              run.over({0, 10}, state_into(rows));
            }),
            "state_into: the state is 7 x 16, expected 6 x 16");
  EXPECT_EQ(test::message_of([&] {
              run.over({0, 10}, resume(dims));
            }),
            "resume: the state is 6 x 8, expected 6 x 16");
}

}  // namespace
}  // namespace gqa
