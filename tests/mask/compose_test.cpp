// SPDX-License-Identifier: Apache-2.0
// &, | and ! of masks: sound on every block whatever is composed, exact where one side decides.
#include "gqa/mask/compose.hpp"

#include <gtest/gtest.h>

#include "mask/mask_laws.hpp"

namespace gqa {
namespace {

using test::Exactness;
using test::expect_mask_is;
using test::Formula;
using test::Random;

TEST(Compose, NotIsTheComplement) {
  expect_mask_is(
      !causal(), [](Index q, Index kv) { return kv > q; }, Exactness::exact);
  expect_mask_is(
      !sliding_window(5), [](Index q, Index kv) { return kv > q || kv <= q - 5; }, Exactness::exact);
  expect_mask_is(
      !!dilated(3), [](Index q, Index kv) { return (q - kv) % 3 == 0; }, Exactness::exact);
  EXPECT_EQ((!causal()).coverage({3, 3}, {0, 4}), Coverage::none);
}

TEST(Compose, WindowsIntersectExactly) {
  expect_mask_is(
      causal() & sliding_window(5), [](Index q, Index kv) { return kv <= q && kv > q - 5; },
      Exactness::exact);
  expect_mask_is(
      window(3, -1) & window(-1, 2), [](Index q, Index kv) { return kv <= q + 2 && kv >= q - 3; },
      Exactness::exact);
  expect_mask_is(
      causal() & chunked(4), [](Index q, Index kv) { return q >= 0 && kv <= q && q / 4 == kv / 4; },
      Exactness::exact);
}

TEST(Compose, GlobalPartOfASlidingWindowIsWhatLiesBefore) {
  const auto global = causal() & !sliding_window(100);
  expect_mask_is(
      causal() & !sliding_window(5), [](Index q, Index kv) { return kv <= q - 5; }, Exactness::exact);
  EXPECT_EQ(global.coverage({256, 320}, {0, 128}), Coverage::full);
  EXPECT_EQ(global.coverage({256, 320}, {128, 192}), Coverage::partial);
  EXPECT_EQ(global.coverage({256, 320}, {256, 320}), Coverage::none);
}

TEST(Compose, OneSideDecides) {
  const auto everything = no_mask();
  const auto nothing = !no_mask();
  const Formula formula = [](Index q, Index kv) { return kv <= q; };
  expect_mask_is(everything & causal(), formula, Exactness::exact);
  expect_mask_is(causal() & everything, formula, Exactness::exact);
  expect_mask_is(nothing | causal(), formula, Exactness::exact);
  expect_mask_is(causal() | nothing, formula, Exactness::exact);
  // On blocks too large to look at row by row, too.
  const Range large = {0, 5000};
  EXPECT_EQ((dilated(2) & nothing).coverage(large, large), Coverage::none);
  EXPECT_EQ((nothing & dilated(2)).coverage(large, large), Coverage::none);
  EXPECT_EQ((dilated(2) | everything).coverage(large, large), Coverage::full);
  EXPECT_EQ((everything | dilated(2)).coverage(large, large), Coverage::full);
}

TEST(Compose, StreamingSinks) {
  expect_mask_is(
      sinks(3) | sliding_window(4), [](Index q, Index kv) { return kv <= q && (kv < 3 || kv > q - 4); },
      Exactness::sound);
  EXPECT_EQ((sinks(4) | sliding_window(8)).coverage({64, 80}, {16, 48}), Coverage::none);
  EXPECT_EQ(kv_bounds(sinks(4) | sliding_window(8), {64, 80}), (Range{0, 80}));
  EXPECT_EQ(kv_bounds(sinks(0) | sliding_window(8), {64, 80}), (Range{57, 80}));
}

TEST(Compose, BoundsIntersectAndHull) {
  EXPECT_EQ(kv_bounds(window(10, 20) & window(3, 40), {50, 60}), (Range{47, 80}));
  EXPECT_EQ(kv_bounds(window(10, 20) | window(3, 40), {50, 60}), (Range{40, 100}));
  EXPECT_EQ(kv_bounds(!sliding_window(4), {50, 60}), all_positions);
}

/// A random mask beside its formula.
struct Pair {
  AnyMask mask;
  Formula formula;
  bool lambda = false;  // in it somewhere: its blocks are never known
};

Pair random_leaf(Random& random) {
  switch (random.integer(0, 8)) {
    case 0:
      return {causal(), [](Index q, Index kv) { return kv <= q; }};
    case 1: {
      const Index l = random.integer(-1, 6), r = random.integer(-1, 6);
      return {window(l, r),
              [=](Index q, Index kv) { return (l < 0 || kv >= q - l) && (r < 0 || kv <= q + r); }};
    }
    case 2: {
      const Index size = random.integer(1, 9);
      return {chunked(size), [=](Index q, Index kv) { return q >= 0 && kv <= q && kv / size == q / size; }};
    }
    case 3: {
      const Index n = random.integer(0, 20);
      return {prefix(n), [=](Index q, Index kv) { return kv <= q || kv < n; }};
    }
    case 4: {
      const Index n = random.integer(0, 20);
      return {sinks(n), [=](Index q, Index kv) { return kv <= q && kv < n; }};
    }
    case 5: {
      const Index step = random.integer(1, 5);
      return {dilated(step), [=](Index q, Index kv) { return (kv - q) % step == 0; }};
    }
    case 6: {
      std::vector<Index> ids;
      for (Index id = 0; ids.size() < 40; id += random.integer(0, 4) == 0) ids.push_back(id);
      return {document(ids), [=](Index q, Index kv) {
                return q >= 0 && q < 40 && kv < 40 &&
                       ids[static_cast<std::size_t>(q)] == ids[static_cast<std::size_t>(kv)];
              }};
    }
    case 7: {
      const Index a = random.integer(1, 5), b = random.integer(1, 6), seed = random.integer(0, 1000);
      const auto allowed = [=](Index i, Index j) { return (seed >> ((i * 3 + j) % 10) & 1) != 0; };
      return {blocks(BlockMask::from_predicate({8, 8, a, b}, allowed)),
              [=](Index q, Index kv) { return q >= 0 && q / a < 8 && kv / b < 8 && allowed(q / a, kv / b); }};
    }
    default: {
      const Index seed = random.integer(1, 97);
      const auto f = [=](Index q, Index kv) { return ((q + 7) * 31 + kv * seed) % 5 < 3; };
      return {mask_fn(f), f, true};
    }
  }
}

Pair random_mask(Random& random, int depth) {
  if (depth == 0 || random.flip(0.15)) return random_leaf(random);
  const Pair a = random_mask(random, depth - 1);
  if (random.flip(0.25)) return {!a.mask, [f = a.formula](Index q, Index kv) { return !f(q, kv); }, a.lambda};
  const Pair b = random_mask(random, depth - 1);
  if (random.flip())
    return {a.mask & b.mask,
            [f = a.formula, g = b.formula](Index q, Index kv) { return f(q, kv) && g(q, kv); },
            a.lambda || b.lambda};
  return {a.mask | b.mask, [f = a.formula, g = b.formula](Index q, Index kv) { return f(q, kv) || g(q, kv); },
          a.lambda || b.lambda};
}

TEST(Compose, RandomCompositionsAreExactOnTilesAndSoundBeyond) {
  for (const std::uint64_t seed : test::seeds(150)) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const Pair pair = random_mask(random, 3);
    ASSERT_NO_FATAL_FAILURE(expect_mask_is(mask_for(pair.mask, 0, 0), pair.formula,
                                           pair.lambda ? Exactness::sound : Exactness::exact, 14));
    if (seed <= 40) {
      ASSERT_NO_FATAL_FAILURE(test::expect_large_blocks_hold(mask_for(pair.mask, 0, 0), pair.formula,
                                                             Exactness::sound, seed, 210));
    }
  }
}

TEST(Compose, RandomLeavesAreExact) {
  for (const std::uint64_t seed : test::seeds(60)) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const Pair pair = random_leaf(random);
    ASSERT_NO_FATAL_FAILURE(expect_mask_is(
        mask_for(!pair.mask, 0, 0), [&](Index q, Index kv) { return !pair.formula(q, kv); },
        pair.lambda ? Exactness::sound : Exactness::exact, 14));
  }
}

static_assert(PositionMask<AndMask<Window, Window>>);
static_assert((causal() & sliding_window(64)).coverage({64, 128}, {128, 192}) == Coverage::none);
static_assert(row_bits(causal() & !sliding_window(2), 5, 0, 8) == 0b1111);

}  // namespace
}  // namespace gqa
