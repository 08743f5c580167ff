// SPDX-License-Identifier: Apache-2.0
// The gradient under masks of every kind, and what a masked NaN reaches: nothing.
#include "attention/backward.hpp"

namespace gqa {
namespace {

using test::BackwardHow;
using test::GradientCase;
using test::Sizes;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

template <class T, class M>
void expect_oracle(const Sizes& sizes, const M& mask, std::uint64_t seed) {
  GradientCase<T> c(sizes, seed);
  c.run({.mask = mask});
  auto problem = c.gradient_problem();
  problem.forward.visible = [&](Index h, Index q_pos, Index kv_pos) {
    return mask_for(mask, 0, h, sizes.num_kv_tokens - sizes.num_q_tokens)(q_pos, kv_pos);
  };
  c.expect(problem, "seed " + std::to_string(seed));
}

TEST(BackwardMasks, OfEveryKind) {
  const Sizes sizes{70, 200, 6, 2, 16};
  const std::vector<Index> ids = [] {
    std::vector<Index> v(200);
    for (Index i = 0; i < 200; ++i) v[at(i)] = i / 37;
    return v;
  }();
  std::vector<char> bits(at(6 * 70 * 200));
  test::Random random(3);
  for (char& b : bits) b = random.flip(0.3);
  const auto dense =
      tensor_mask(ScoreTensor<bool>(reinterpret_cast<const bool*>(bits.data()), {1, 6, 70, 200}));
  const auto odd = as_mask([](Index q_pos, Index kv_pos) { return (q_pos + kv_pos) % 3 != 0; });
  expect_oracle<float>(sizes, causal() & document(ids), 1);
  expect_oracle<float>(sizes, sinks(3) | sliding_window(20), 2);
  expect_oracle<float>(sizes, dilated(3) & causal(), 3);
  expect_oracle<float>(sizes, chunked(50), 4);
  expect_oracle<float>(sizes, prefix(90) | causal(), 5);
  expect_oracle<float>(sizes, odd, 6);
  expect_oracle<float>(sizes, dense, 7);
  expect_oracle<float>(sizes,
                       per_head({AnyMask(causal()), AnyMask(sliding_window(5)), AnyMask(odd),
                                 AnyMask(no_mask()), AnyMask(causal()), AnyMask(window(0, 0))}),
                       8);
}

/// A key that nobody sees, and a query that sees nothing.
template <class T>
void expect_masked_nan_reaches_nothing(const Window& base, double poison) {
  const Index Sq = 70, Sk = 130, H = 4, G = 2, D = 24;
  const auto mask = as_mask([base](Index q_pos, Index kv_pos) {
    return base(q_pos, kv_pos) && q_pos % 9 != 4 && kv_pos % 11 != 5;
  });
  GradientCase<T> clean({Sq, Sk, H, G, D}, 11), dirty = clean;
  const auto poisoned = [&](std::vector<T>& x, Index token, Index heads) {
    for (Index i = 0; i < heads * D; ++i) x[at(token * heads * D + i)] = static_cast<T>(poison);
  };
  for (Index i = 0; i < Sq; ++i)
    if ((Sk - Sq + i) % 9 == 4) {
      poisoned(dirty.q, i, H);
      poisoned(dirty.d_out, i, H);
    }
  for (Index j = 5; j < Sk; j += 11) {
    poisoned(dirty.k, j, G);
    poisoned(dirty.v, j, G);
  }
  clean.run({.mask = mask});
  dirty.run({.mask = mask});
  EXPECT_TRUE(clean.same_gradients(dirty)) << "other bits beside " << poison;
  for (Index j = 5; j < Sk; j += 11) EXPECT_EQ(clean.dk[at(j * G * D)], 0);
}

TEST(BackwardMasks, AMaskedNaNReachesNothing) {
  for (double poison : {nan, HUGE_VAL, -HUGE_VAL}) {
    expect_masked_nan_reaches_nothing<float>(no_mask(), poison);
    expect_masked_nan_reaches_nothing<float>(causal(), poison);
    expect_masked_nan_reaches_nothing<bfloat16>(causal(), poison);
  }
}

/// Under a causal mask a NaN in d_out reaches its own row of dq and the keys up to its own, no others; in a
/// key, the queries from its own on and, through them, the keys they see.
TEST(BackwardMasks, ANaNReachesWhatDependsOnItAndNothingElse) {
  const Index S = 150, D = 8, row = 70;
  GradientCase<float> clean({S, S, 1, 1, D}, 12), dirty = clean;
  clean.run({.mask = causal()});
  dirty.d_out[at(row * D + 3)] = static_cast<float>(nan);
  dirty.run({.mask = causal()});
  for (Index i = 0; i < S; ++i) {
    EXPECT_EQ(std::isnan(dirty.dq[at(i * D)]), i == row) << i;
    EXPECT_EQ(std::isnan(dirty.dk[at(i * D)]), i <= row) << i;
    EXPECT_EQ(std::isnan(dirty.dv[at(i * D + 3)]), i <= row) << i;
    if (i != row) {
      EXPECT_EQ(dirty.dq[at(i * D)], clean.dq[at(i * D)]) << i;
    }
    if (i > row) {
      EXPECT_EQ(dirty.dk[at(i * D)], clean.dk[at(i * D)]) << i;
    }
    EXPECT_EQ(dirty.dv[at(i * D)], clean.dv[at(i * D)]) << "another dim";
  }

  GradientCase<float> key = clean;
  key.k[at(row * D)] = static_cast<float>(nan);
  key.run({.mask = causal()});
  for (Index i = 0; i < S; ++i) {
    EXPECT_EQ(std::isnan(key.dq[at(i * D)]), i >= row) << i;
    if (i < row) {
      EXPECT_EQ(key.dq[at(i * D)], clean.dq[at(i * D)]) << i;
    }
  }
}

/// Where a row's scores are all far below 0, e^(s - lse) of a score that does not count, 0 behind the last
/// key or huge behind the mask, overflows: times a zero that would be NaN.
TEST(BackwardMasks, ScoresFarBelowZeroAreNoOverflow) {
  GradientCase<float> c({40, 71, 2, 1, 16}, 14);
  for (float& x : c.q) x = std::abs(x) + 4;
  for (std::size_t i = 0; i < c.k.size(); ++i) c.k[i] = i / 16 % 5 == 3 ? 40.0f : -std::abs(c.k[i]) - 8;
  const auto mask = as_mask([](Index q_pos, Index kv_pos) { return kv_pos <= q_pos && kv_pos % 5 != 3; });
  c.run({.mask = mask});
  EXPECT_LT(c.lse[0], -100);
  auto problem = c.gradient_problem();
  problem.forward.visible = test::visible_by(mask);
  c.expect(problem, "low lse");
}

TEST(BackwardMasks, WhatIsRuledOutIsNeverRead) {
  const Index Sq = 128, Sk = 512, D = 16;  // queries 384 to 511
  GradientCase<float> c({Sq, Sk, 2, 1, D}, 13);
  const auto first_read = [&](const AnyMask& mask) {
    Index first = Sk;
    test::FunctionKV<float> view{.key_dim = D, .values_dim = D, .positions = {0, Sk}};
    view.read = [&](Index, Index, Range want, void*) -> KVTile {
      first = std::min(first, want.begin);
      return {.k = tile_side(c.k.data() + want.begin * D, D),
              .v = tile_side(c.v.data() + want.begin * D, D),
              .size = want.size(),
              .layout = TileLayout::token_major};
    };
    c.run({.mask = mask}, view);
    return first;
  };
  EXPECT_EQ(first_read(causal()), 0);
  EXPECT_EQ(first_read(chunked(64)), 384);
  EXPECT_EQ(first_read(window(10, 0)), 320);
  for (Index j = 0; j < 374 * D; ++j) ASSERT_EQ(c.dk[at(j)], 0);
  for (Index j = 374 * D; j < Sk * D; ++j) ASSERT_NE(c.dk[at(j)], 0);
}

}  // namespace
}  // namespace gqa
