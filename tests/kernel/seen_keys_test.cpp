// SPDX-License-Identifier: Apache-2.0
// What a block of queries sees of a chunk, against asking the mask of every pair.
#include "gqa/kernel/seen_keys.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "gqa/core/memory.hpp"
#include "gqa/mask.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

using detail::for_row_runs;
using detail::GroupMask;
using detail::HeadTable;
using detail::RowRun;
using detail::SeenKeys;

constexpr Index group = 3;
const HeadTable heads{2 * group, 2, group};

/// A mask and what a GroupMask binds it into.
struct Memory {
  template <class M>
  explicit Memory(const M& mask)
      : source(detail::source_of(mask)),
        bytes(allocate_aligned<std::byte>(static_cast<std::size_t>(source.bytes(group) + 1))) {}
  GroupMask bind(Index kv_head) const { return {source, heads, 0, kv_head, 0, 0, bytes.get()}; }
  detail::MaskSource source;
  AlignedArray<std::byte> bytes;
};

/// look() and for_row_runs() of one chunk, bit by bit.
template <class M>
void expect_exact(const M& mask, Index kv_head, Range q, Index chunk_begin, const Ranges& retained) {
  const Memory memory(mask);
  const GroupMask of_group = memory.bind(kv_head);
  std::vector<std::uint64_t> words(static_cast<std::size_t>(q.size() * group * chunk_tiles),
                                   0x5555555555555555u);
  SeenKeys seen;
  seen.words = words.data();
  seen.look(of_group, q, group, chunk_begin, retained);

  const auto visible = [&](Index row, Index column) {  // of the block, in the chunk
    const Index position = chunk_begin + column;
    return std::ranges::any_of(retained, [&](Range r) { return r.contains(position); }) &&
           mask_for(mask, 0, heads.q_head(kv_head, row % group))(q.begin + row / group, position);
  };
  const Index rows = q.size() * group;
  for (Index t = 0; t < chunk_tiles; ++t) {
    bool any = false;
    for (Index row = 0; row < rows; ++row) {
      for (Index j = 0; j < tile_keys; ++j) {
        const bool see = visible(row, t * tile_keys + j);
        any |= see;
        if (t < seen.first_tile || t > seen.last_tile) {
          ASSERT_FALSE(see) << "tile " << t << " is left out";
        } else if (seen.whole) {
          ASSERT_TRUE(see) << "row " << row << ", tile " << t << ", key " << j;
        } else {
          ASSERT_EQ((seen.row(row / seen.rows_per_mask)[t] >> j & 1) != 0, see)
              << "row " << row << ", tile " << t << ", key " << j;
        }
      }
    }
    ASSERT_FALSE(any && seen.tiles[t] == Coverage::none);
    if (seen.whole || t < seen.first_tile || t > seen.last_tile) continue;

    // Whole tiles and pieces of them.
    for (const auto& [offset, size] : {std::pair<Index, Index>{0, 64}, {16, 16}, {5, 40}, {63, 1}}) {
      for (Index rows_wanted : {1, 4, 12, 1000}) {
        std::vector<bool> in_a_run(static_cast<std::size_t>(rows * size));
        Index next_row = 0;
        for_row_runs(seen, t, offset, size, rows_wanted, [&, o = offset, n = size](const RowRun& run) {
          ASSERT_GE(run.row, next_row) << "runs overlap";
          next_row = run.row + run.rows;
          ASSERT_EQ(run.row % seen.rows_per_mask, 0);
          ASSERT_EQ(run.rows % seen.rows_per_mask, 0);
          ASSERT_LE(run.rows, std::max(rows_wanted, seen.rows_per_mask));
          ASSERT_GE(run.columns.begin, 0);
          ASSERT_LE(run.columns.end, n);
          ASSERT_FALSE(run.columns.empty());
          bool all = true, first = false, last = false;
          for (Index row = run.row; row < run.row + run.rows; ++row) {
            first |= visible(row, t * tile_keys + o + run.columns.begin);
            last |= visible(row, t * tile_keys + o + run.columns.end - 1);
            for (Index c = run.columns.begin; c < run.columns.end; ++c) {
              in_a_run[static_cast<std::size_t>(row * n + c)] = true;
              all &= visible(row, t * tile_keys + o + c);
            }
          }
          ASSERT_TRUE(first && last) << "columns nobody sees";
          ASSERT_EQ(run.uniform, all);
        });
        for (Index row = 0; row < rows; ++row) {
          for (Index c = 0; c < size; ++c) {
            ASSERT_TRUE(in_a_run[static_cast<std::size_t>(row * size + c)] ||
                        !visible(row, t * tile_keys + offset + c))
                << "a visible key is in no run";
          }
        }
      }
    }
  }
}

template <class M>
void expect_exact(const M& mask) {
  for (std::uint64_t seed : test::seeds(20)) {
    test::Random random(seed);
    const Index chunk = 512 * random.integer(0, 2);
    const Index q_begin = chunk + random.integer(-100, 600);
    const Range q = {q_begin, q_begin + random.pick(std::vector<Index>{1, 2, 5, 17})};
    const Range retained = {random.flip() ? 0 : chunk + random.integer(-20, 300),
                            chunk + random.integer(1, 700)};
    Ranges apart = Range{chunk + random.integer(0, 60), chunk + random.integer(61, 90)};
    apart.push_back({chunk + random.integer(91, 120), chunk + random.integer(121, 500)});
    for (Index kv_head : {0, 1}) expect_exact(mask, kv_head, q, chunk, retained);
    expect_exact(mask, random.integer(0, 1), q, chunk, apart);
    if (testing::Test::HasFatalFailure()) FAIL() << "seed " << seed;
  }
}

TEST(SeenKeys, Bands) {
  expect_exact(no_mask());
  expect_exact(causal());
  expect_exact(sliding_window(70));
  expect_exact(window(10, 100));
}

TEST(SeenKeys, Functions) {
  expect_exact(mask_fn([](Index q, Index k) { return (q * 7 + k * 3) % 5 == 0; }));
  expect_exact(causal() & mask_fn([](Index q, Index k) { return (q ^ k) % 3 != 0; }));
}

TEST(SeenKeys, HeadsThatSeeDifferentKeys) {
  expect_exact(per_head([](Index h) { return sliding_window(30 * h + 1); }));
  expect_exact(per_head({causal(), no_mask(), sliding_window(5), causal(), causal(), causal()}));
}

TEST(GroupMask, BoundsAreThoseOfAllHeads) {
  const auto mask = per_head([](Index h) { return sliding_window(10 * h + 1); });
  const Memory a(mask), b(mask);
  const GroupMask first = a.bind(0), second = b.bind(1);
  EXPECT_EQ(first.bounds({100, 101}), (Range{80, 101}));
  EXPECT_EQ(second.bounds({100, 101}), (Range{50, 101}));
  const auto plain = causal();
  EXPECT_EQ(Memory(plain).bind(0).bounds({100, 110}), (Range{0, 110}));
}

/// A mask that counts the planes it made and those that are left, and throws instead of the one for head 5.
struct CountedMask {
  struct Plane {
    explicit Plane(Index* count) : alive(count) { ++*alive; }
    Plane(const Plane& other) : Plane(other.alive) {}
    ~Plane() { --*alive; }
    bool operator()(Index, Index) const { return true; }
    Coverage coverage(Range, Range) const { return Coverage::full; }
    Index* alive;
  };
  Plane at(Index, Index q_head) const {
    if (q_head == 5) throw std::runtime_error("head 5");
    ++*made;
    return Plane(alive);
  }
  Index *made, *alive;
};

TEST(GroupMask, BindsEachHeadOnceAndLeavesNothingBehind) {
  Index made = 0, alive = 0;
  const CountedMask mask{&made, &alive};
  const Memory memory(mask);
  {
    const GroupMask bound = memory.bind(0);
    EXPECT_EQ(made, group);
    EXPECT_EQ(alive, group);
    for (Index i = 0; i < 10; ++i) {
      EXPECT_EQ(bound.coverage({0, 4}, {0, 4}), Coverage::full);
      EXPECT_EQ(bound.bits(i % group, i, 0, 64), ~std::uint64_t{0});
      EXPECT_EQ(bound.bounds({i, i + 1}), all_positions);
    }
    EXPECT_EQ(made, group);
  }
  EXPECT_EQ(alive, 0);
  EXPECT_THROW(memory.bind(1), std::runtime_error);
  EXPECT_EQ(made, 2 * group - 1) << "the heads before the one that throws";
  EXPECT_EQ(alive, 0);
}

/// Both heads of a KV head see what its number says.
struct MaskByKVHead {
  Window at(Index, Index q_head) const {
    ++*made;
    return sliding_window(10 * (q_head / group) + 1);
  }
  static HeadVariation varies_by_head() { return HeadVariation::by_kv_head; }
  static bool varies_by_seq() { return false; }
  Index* made;
};

TEST(GroupMask, OneMaskServesAGroupWhereHeadsVaryByKVHead) {
  Index made = 0;
  const MaskByKVHead mask{&made};
  const Memory memory(mask);
  for (Index kv_head : {0, 1}) {
    const GroupMask bound = memory.bind(kv_head);
    EXPECT_EQ(made, kv_head + 1);
    EXPECT_FALSE(bound.by_head());
    EXPECT_EQ(bound.bounds({100, 101}), (Range{100 - 10 * kv_head, 101}));
    for (Index i = 0; i < group; ++i)
      EXPECT_EQ(bound.bits(i, 100, 64, 64), low_bits(37) & ~low_bits(36 - 10 * kv_head));
  }
  expect_exact(mask);
}

TEST(VisibleRanges, LeaveOutWhatNobodySees) {
  const auto mask = sinks(4) | sliding_window(1024);
  const Memory memory(mask);
  const GroupMask bound = memory.bind(0);
  const Range q = {4000000, 4000001};
  EXPECT_EQ(visible_ranges(bound, q, Range{0, 4000001}), (Ranges{{0, 4}, {3998977, 4000001}}));
  EXPECT_EQ(visible_ranges(bound, q, Range{2, 3999000}), (Ranges{{2, 4}, {3998977, 3999000}}));
  EXPECT_EQ(visible_ranges(bound, q, Ranges{{0, 2}, {3, 900}, {3999500, 4000001}}),
            (Ranges{{0, 2}, {3, 4}, {3999500, 4000001}}));
  EXPECT_TRUE(visible_ranges(bound, q, Range{10, 1000}).empty());
}

TEST(VisibleRanges, TheLastTakesInWhatDoesNotFit) {
  const auto every_second =
      blocks(BlockMask::from_predicate({1, 20, 10000, 500}, [](Index, Index j) { return j % 2 == 0; }));
  const Memory memory(every_second);
  const GroupMask bound = memory.bind(0);
  EXPECT_EQ(visible_ranges(bound, {5000, 5001}, Range{0, 9999}),
            (Ranges{{0, 500}, {1000, 1500}, {2000, 2500}, {3000, 9500}}));
  EXPECT_EQ(visible_ranges(bound, {5000, 5001}, Range{0, 4100}),
            (Ranges{{0, 500}, {1000, 1500}, {2000, 2500}, {3000, 4100}}));
  EXPECT_EQ(visible_ranges(bound, {5000, 5001}, Range{400, 3400}),
            (Ranges{{400, 500}, {1000, 1500}, {2000, 2500}, {3000, 3400}}));
}

TEST(HeadTable, ConsecutiveGroupsOrATable) {
  EXPECT_EQ(heads.q_head(1, 2), 5);
  EXPECT_EQ(heads.size(1), 3);
  const Index offsets[] = {0, 1, 4}, order[] = {3, 0, 1, 2};
  const HeadTable uneven{4, 2, 3, offsets, order};
  EXPECT_EQ(uneven.size(0), 1);
  EXPECT_EQ(uneven.size(1), 3);
  EXPECT_EQ(uneven.q_head(0, 0), 3);
  EXPECT_EQ(uneven.q_head(1, 2), 2);
}

}  // namespace
}  // namespace gqa
