// SPDX-License-Identifier: Apache-2.0
// Which keys are visited: runs of them, and what lies between is skipped.
#include <gtest/gtest.h>

#include "mask/mask_laws.hpp"
#include "score/cases.hpp"

namespace gqa {
namespace {

using Runs = std::vector<Range>;

constexpr Range nothing = {max_position, max_position};

/// All runs of what the queries in q may see.
template <PositionMask M>
Runs runs_of(const M& mask, Range q, Index from = 0) {
  Runs runs;
  for (Range run = next_visible(mask, q, from); run != nothing; run = next_visible(mask, q, run.end))
    runs.push_back(run);
  return runs;
}

constexpr Range one(Index q_pos) { return {q_pos, q_pos + 1}; }

/// Blocks of 64 keys, one row of queries: those listed attend.
Blocks columns(Index num_kv_blocks, std::vector<Index> allowed, Index kv_block = 64) {
  return blocks(BlockMask::from_predicate({1, num_kv_blocks, 64, kv_block}, [&](Index, Index j) {
    return std::find(allowed.begin(), allowed.end(), j) != allowed.end();
  }));
}

TEST(NextVisible, EveryMaskOfTheTableVisitsWhatItSees) {
  const test::CaseExtent extent{2, 3, -6, 260};
  test::Random random(1);
  for (const test::MaskCase& m : test::mask_cases(extent)) {
    SCOPED_TRACE(m.name);
    for (Index seq = 0; seq < extent.num_seqs; ++seq) {
      for (Index h = 0; h < extent.num_q_heads; ++h) {
        const AnyMask::Plane plane = m.mask.at(seq, h, extent.first_position);
        const test::TruthTable truth([&](Index q, Index kv) { return m.visible(seq, h, q, kv); },
                                     {extent.first_position, extent.end_position}, {0, extent.end_position});
        for (int n = 0; n < 60; ++n) {
          const Index begin = random.integer(extent.first_position, extent.end_position - 1);
          const Index longest = extent.end_position - begin;
          const Range q = {begin, begin + std::min(longest, random.pick(std::vector<Index>{1, 2, 17, 64}))};
          ASSERT_NO_FATAL_FAILURE(test::expect_runs_hold(plane, truth, q, 0));
          ASSERT_NO_FATAL_FAILURE(
              test::expect_runs_hold(plane, truth, q, random.integer(0, extent.end_position)));
        }
      }
    }
  }
}

TEST(NextVisible, IsTheRestOfTheBoundsByDefault) {
  EXPECT_EQ(next_visible(sliding_window(8), {64, 80}, 0), (Range{57, 80}));
  EXPECT_EQ(next_visible(sliding_window(8), {64, 80}, 60), (Range{60, 80}));
  EXPECT_EQ(next_visible(sliding_window(8), {64, 80}, 80), nothing);
  EXPECT_EQ(next_visible(window(3, 5), {-2, 0}, -4), (Range{0, 5}));
  EXPECT_EQ(next_visible(causal(), {-3, 0}, 0), nothing);
  EXPECT_EQ(next_visible(no_mask(), {5, 5}, 0), nothing);
  EXPECT_EQ(next_visible(dilated(3), {5, 6}, -7), all_positions);
  EXPECT_EQ(next_visible(dilated(3), {5, 6}, 40), (Range{40, max_position}));
  EXPECT_EQ(next_visible(dilated(3), {5, 6}, max_position), nothing);
  EXPECT_EQ(next_visible(dilated(3), {5, 6}, max_position + 9), nothing);
  EXPECT_EQ(next_visible(!sliding_window(8), {64, 80}, 7), (Range{7, max_position}));
}

/// Has a `next_visible` that knows nothing of where positions end, and no bounds.
struct EndlessPast {
  constexpr bool operator()(Index, Index) const { return true; }
  constexpr Coverage coverage(Range, Range) const { return Coverage::partial; }
  constexpr Range next_visible(Range q, Index from) const {
    return {std::max(from, q.begin), from + 4 * q.end};
  }
};

TEST(NextVisible, IsTheMembersWhereThereIsOneInsideAllPositions) {
  EXPECT_EQ(next_visible(EndlessPast(), {3, 9}, -50), (Range{3, 36}));
  EXPECT_EQ(next_visible(EndlessPast(), {3, 9}, 30), (Range{30, 66}));
  EXPECT_EQ(next_visible(EndlessPast(), {3, 9}, max_position - 2), (Range{max_position - 2, max_position}));
  EXPECT_EQ(next_visible(EndlessPast(), {3, max_position}, 0), (Range{3, max_position}));
  EXPECT_EQ(next_visible(EndlessPast(), {3, 3}, 0), nothing);
  EXPECT_EQ(next_visible(EndlessPast(), {-9, -3}, 0), nothing);
}

TEST(NextVisible, SinksAndAWindowOfALongContext) {
  const Index q = 4'000'000;
  const Runs expected = {{0, 4}, {q - 1023, q + 1}};
  const auto streaming = sinks(4) | sliding_window(1024);
  EXPECT_EQ(runs_of(streaming, one(q)), expected);
  EXPECT_EQ(runs_of(sliding_window(1024) | sinks(4), one(q)), expected);
  EXPECT_EQ(runs_of(streaming, one(q), 2), (Runs{{2, 4}, {q - 1023, q + 1}}));
  EXPECT_EQ(runs_of(streaming, one(q), 4), (Runs{{q - 1023, q + 1}}));
  EXPECT_EQ(runs_of(streaming, {q, q + 64}), (Runs{{0, 4}, {q - 1023, q + 64}}));
  EXPECT_EQ(runs_of(causal() & streaming, one(q)), expected);
  EXPECT_EQ(runs_of(AnyMask(streaming).at(0, 0), one(q)), expected);
  EXPECT_EQ(runs_of((AnyMask(sinks(4)) | AnyMask(sliding_window(1024))).at(0, 0), one(q)), expected);
  EXPECT_EQ(runs_of((AnyMask(causal()) & AnyMask(streaming)).at(0, 0), one(q)), expected);
}

TEST(NextVisible, RunsOfEitherJoinWhereTheyOverlapOrTouch) {
  for (const Index gap : {-3, -1, 0, 1, 20}) {
    const Index q = 10 + 7 + gap;  // sees the first 10 keys, and from 10 + gap on
    const Runs expected = gap <= 0 ? Runs{{0, q + 1}} : Runs{{0, 10}, {10 + gap, q + 1}};
    EXPECT_EQ(runs_of(sinks(10) | sliding_window(8), one(q)), expected) << gap;
    EXPECT_EQ(runs_of(sliding_window(8) | sinks(10), one(q)), expected) << gap;
  }
  EXPECT_EQ(runs_of(sinks(10) | sinks(4), one(50)), (Runs{{0, 10}}));
  EXPECT_EQ(runs_of(sinks(0) | sliding_window(4), one(50)), (Runs{{47, 51}}));
  EXPECT_EQ(runs_of(sinks(0) | sinks(0), one(50)), Runs());
}

TEST(NextVisible, RunsOfBothAreWhereTheyMeet) {
  const Index q = 100'000;
  const auto narrow = sinks(4) | sliding_window(16), wide = sinks(2) | sliding_window(1024);
  EXPECT_EQ(runs_of(narrow & wide, one(q)), (Runs{{0, 2}, {q - 15, q + 1}}));
  EXPECT_EQ(runs_of(wide & narrow, one(q)), (Runs{{0, 2}, {q - 15, q + 1}}));
  EXPECT_EQ(runs_of(sinks(9) & sliding_window(16), one(q)), Runs());
  EXPECT_EQ((sinks(9) & sliding_window(16)).next_visible(one(q), 0), nothing);
  // Runs that pass each other many times before they meet, and after.
  const auto odd = columns(40, {1, 3, 5, 7, 9, 20, 21, 22, 31}),
             even = columns(40, {0, 2, 4, 6, 8, 21, 22, 30});
  EXPECT_EQ(runs_of(odd & even, one(5)), (Runs{{21 * 64, 23 * 64}}));
  EXPECT_EQ(runs_of(even & odd, one(5)), (Runs{{21 * 64, 23 * 64}}));
  EXPECT_EQ(runs_of(odd & even & sinks(22 * 64), one(5)), Runs());
}

TEST(NextVisible, BlocksFarApart) {
  const Index n = 62'500;  // 4M keys
  const auto mask = columns(n, {0, 5'000, 5'001, n - 1});
  EXPECT_EQ(runs_of(mask, one(63)), (Runs{{0, 64}, {320'000, 320'128}, {4 * 1'000'000 - 64, 4 * 1'000'000}}));
  EXPECT_EQ(next_visible(mask, one(0), 320'070), (Range{320'070, 320'128}));
  EXPECT_EQ(mask.next_visible(one(0), 320'070), (Range{320'070, 320'128}));
  EXPECT_EQ(next_visible(mask, one(0), 64 * n), nothing);
  EXPECT_EQ(next_visible(mask, one(0), max_position - 1), nothing);
  EXPECT_EQ(runs_of(mask, one(64)), Runs());
  EXPECT_EQ(runs_of(mask, {-5, 0}), Runs());
  EXPECT_EQ(runs_of(mask, {-5, 1}).size(), 3u);
  EXPECT_EQ(mask.next_visible(one(64), 0), nothing);
}

TEST(NextVisible, BlocksJoinAcrossWordsAndRows) {
  std::vector<Index> middle;
  for (Index j = 60; j < 200; ++j) middle.push_back(j);
  EXPECT_EQ(runs_of(columns(300, middle, 1), one(0)), (Runs{{60, 200}}));
  EXPECT_EQ(runs_of(columns(200, middle, 1), one(0)), (Runs{{60, 200}}));
  EXPECT_EQ(runs_of(columns(256, {63, 64, 127, 128, 255}, 3), one(0)),
            (Runs{{189, 195}, {381, 387}, {765, 768}}));
  const auto stairs = blocks(
      BlockMask::from_predicate({4, 400, 16, 10}, [](Index i, Index j) { return j == 100 * i + i % 2; }));
  EXPECT_EQ(runs_of(stairs, {0, 16}), (Runs{{0, 10}}));
  EXPECT_EQ(runs_of(stairs, {15, 33}), (Runs{{0, 10}, {1010, 1020}, {2000, 2010}}));
  EXPECT_EQ(runs_of(blocks(BlockMask::from_predicate({0, 5}, [](Index, Index) { return true; })), {0, 9}),
            Runs());
}

TEST(NextVisible, EachHeadSkipsForItself) {
  const Index q = 9'000;
  const auto streaming = [](Index n, Index W) { return sinks(n) | sliding_window(W); };
  const auto list = per_head({streaming(4, 64), causal(), streaming(1, 8)});
  EXPECT_EQ(runs_of(list.at(0, 0), one(q)), (Runs{{0, 4}, {q - 63, q + 1}}));
  EXPECT_EQ(runs_of(list.at(0, 1), one(q)), (Runs{{0, q + 1}}));
  EXPECT_EQ(runs_of(list.at(0, 2), one(q)), (Runs{{0, 1}, {q - 7, q + 1}}));
  const auto function = per_head([&](Index h) { return streaming(h, 8); });
  EXPECT_EQ(runs_of(function.at(0, 3), one(q)), (Runs{{0, 3}, {q - 7, q + 1}}));
  const auto any = per_head([&](Index h) { return AnyMask(streaming(h, 8)); });
  EXPECT_EQ(runs_of(any.at(0, 3), one(q)), (Runs{{0, 3}, {q - 7, q + 1}}));
  // Beside a mask of heads, one of positions is referred to.
  const auto both = streaming(4, 64) & list;
  EXPECT_EQ(runs_of(both.at(0, 1), one(q)), (Runs{{0, 4}, {q - 63, q + 1}}));
  EXPECT_EQ(runs_of(both.at(0, 2), one(q)), (Runs{{0, 1}, {q - 7, q + 1}}));
}

static_assert(next_visible(sinks(4) | sliding_window(8), {64, 80}, 4) == Range{57, 80});
static_assert(next_visible(causal() & (sinks(4) | sliding_window(8)), {64, 80}, 80) == nothing);

}  // namespace
}  // namespace gqa
