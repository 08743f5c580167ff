// SPDX-License-Identifier: Apache-2.0
// The planner as a pure function: whatever the sizes and threads, the items cover each query, head and key
// once.
#include "gqa/kernel/make_plan.hpp"

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "support/random.hpp"

namespace gqa {
namespace {

using detail::Plan;
using detail::PlanSequence;
using detail::PlanSizes;
using detail::Slot;
using detail::Split;
using detail::WorkItem;
using detail::tuning::block_sizes;
using detail::tuning::BlockSizes;

struct Call {
  PlanSizes sizes;
  std::vector<PlanSequence> seqs;

  Plan plan() const {
    Plan result;
    make_plan(result);
    return result;
  }
  void make_plan(Plan& into) const {
    detail::make_plan(
        sizes, static_cast<Index>(seqs.size()), [&](Index i) { return seqs[static_cast<std::size_t>(i)]; },
        into);
  }
};

void expect_valid(const Call& call) {
  const Plan plan = call.plan();
  const PlanSizes& sizes = call.sizes;

  // Items in order of what they compute.
  std::map<std::vector<Index>, std::vector<WorkItem>> by_head;  // seq, kv_head -> items
  Index max_rows = 0;
  for (const WorkItem& item : plan.items) {
    ASSERT_GE(item.kv_head, 0);
    ASSERT_LT(item.kv_head, sizes.num_kv_heads);
    ASSERT_FALSE(item.q.empty());
    by_head[{item.seq, item.kv_head}].push_back(item);
    const Index rows = item.q.size() * sizes.group_size;
    max_rows = std::max(max_rows, rows);
    ASSERT_LE(rows, std::max(sizes.blocks.task_rows, sizes.group_size));
  }
  ASSERT_EQ(plan.max_rows, max_rows);
  ASSERT_GE(plan.num_workers, plan.items.empty() ? 0 : 1);
  ASSERT_LE(plan.num_workers, std::max<Index>(1, sizes.num_threads));
  ASSERT_LE(plan.num_workers, std::max<Index>(1, static_cast<Index>(plan.items.size())));

  for (std::size_t seq = 0; seq < call.seqs.size(); ++seq) {
    const PlanSequence& s = call.seqs[seq];
    for (Index head = 0; head < sizes.num_kv_heads; ++head) {
      auto& items = by_head[{static_cast<Index>(seq), head}];
      std::sort(items.begin(), items.end(), [](const WorkItem& a, const WorkItem& b) {
        return std::pair(a.q.begin, a.kv.begin) < std::pair(b.q.begin, b.kv.begin);
      });
      Index token = 0;
      for (std::size_t i = 0; i < items.size();) {
        const Range q = items[i].q;
        ASSERT_EQ(q.begin, token) << "queries are left out or computed twice";
        token = q.end;
        // The chunks of the parts follow each other, without those that nobody sees.
        Index key = s.kv.hull().begin;
        Index number = 0;
        for (; i < items.size() && items[i].q.begin == q.begin; ++i) {
          const WorkItem& item = items[i];
          ASSERT_EQ(item.q, q);
          const Range hull = s.kv.hull();
          if (item.split >= 0) {
            const Split& split = plan.splits[static_cast<std::size_t>(item.split)];
            ASSERT_EQ(split.part(item.part).begin, number) << "chunks are left out or computed twice";
            number = split.part(item.part).end;
            for (Index n = split.part(item.part).begin; n < number; ++n) {
              const Range chunk = {split.chunks[n] * chunk_keys, (split.chunks[n] + 1) * chunk_keys};
              ASSERT_EQ(intersect(chunk, item.kv), intersect(chunk, hull));
            }
            ASSERT_LE(key, item.kv.begin);
          } else {
            ASSERT_EQ(item.kv, hull);
          }
          ASSERT_TRUE(item.kv.begin == hull.begin || item.kv.begin % chunk_keys == 0) << item.kv.begin;
          ASSERT_TRUE(item.kv.end == hull.end || item.kv.end % chunk_keys == 0) << item.kv.end;
          ASSERT_TRUE(!item.kv.empty() || s.kv.empty());
          key = item.kv.end;
        }
        if (number > 0) {
          ASSERT_EQ(number, plan.splits[static_cast<std::size_t>(items.back().split)].chunks.size());
        }
        ASSERT_EQ(key, s.kv.hull().end);
      }
      ASSERT_EQ(token, s.num_q_tokens);
    }
  }

  // Every chunk of every split has a slot, in ascending order: of its own, or with all others of its merge
  // unit.
  std::vector<int> used(static_cast<std::size_t>(plan.num_slots));
  std::vector<Index> items_of(plan.splits.size());
  for (const WorkItem& item : plan.items) {
    if (item.split < 0) continue;
    ASSERT_LT(item.split, static_cast<Index>(plan.splits.size()));
    const Split& split = plan.splits[static_cast<std::size_t>(item.split)];
    ++items_of[static_cast<std::size_t>(item.split)];
    Index number = split.part(item.part).begin;
    split.for_slots(item.part, item.slot, [&](const Slot& slot) {
      ASSERT_GE(slot.slot, split.first_slot);
      ASSERT_LT(slot.slot, split.first_slot + split.num_slots);
      ++used[static_cast<std::size_t>(slot.slot)];
      ASSERT_EQ(slot.numbers.begin, number);
      number = slot.numbers.end;
      const auto in_unit = [&](Index n) {
        return n >= 0 && n < split.chunks.size() &&
               (split.chunks[n] * chunk_keys + split.shift) / merge_keys == slot.unit;
      };
      for (Index n = slot.numbers.begin; n < slot.numbers.end; ++n) ASSERT_TRUE(in_unit(n));
      if (slot.numbers.size() > 1) {
        ASSERT_FALSE(in_unit(slot.numbers.begin - 1) || in_unit(slot.numbers.end))
            << "part of a unit in one state";
      }
    });
    ASSERT_EQ(number, split.part(item.part).end);
  }
  for (int times : used) ASSERT_EQ(times, 1) << "a slot has two owners or none";
  for (std::size_t i = 0; i < plan.splits.size(); ++i) {
    ASSERT_GT(plan.splits[i].num_items, 1);
    ASSERT_EQ(items_of[i], plan.splits[i].num_items);
  }
}

Call random_call(test::Random& random) {
  Call call;
  call.sizes.num_kv_heads = random.integer(1, 9);
  call.sizes.group_size = random.pick(std::vector<Index>{1, 2, 3, 4, 7, 8, 71, 1000});
  call.sizes.head_dim = random.pick(std::vector<Index>{1, 40, 64, 128, 256, 576});
  call.sizes.value_dim = random.pick(std::vector<Index>{1, 64, 128, 512});
  call.sizes.kv_bytes = random.pick(std::vector<Index>{2, 4, 8});
  call.sizes.num_threads = random.pick(std::vector<Index>{1, 2, 3, 8, 64});
  call.sizes.blocks = block_sizes(call.sizes.head_dim, call.sizes.value_dim, 4, Index{1} << 20);
  for (Index i = random.integer(0, 5); i > 0; --i) {
    const Index begin = random.flip() ? 0 : random.integer(0, 5000);
    const Index length = random.flip(0.2) ? 0 : random.integer(1, random.flip() ? 100 : 20000);
    const Index tokens = random.flip(0.1) ? 0
                         : random.flip()  ? 1
                                          : random.integer(1, random.flip() ? 20 : 5000);
    Ranges kv = Range{begin, begin + length};
    for (Index more = random.flip() ? 0 : random.integer(1, 3); more > 0; --more) {
      const Index from = kv.hull().end + random.integer(1, 30000);
      kv.push_back({from, from + random.integer(1, 9000)});
    }
    call.seqs.push_back({tokens, kv, random.flip() ? 0 : random.integer(0, 20000)});
  }
  return call;
}

TEST(Plan, CoversEachQueryHeadAndKeyOnce) {
  for (std::uint64_t seed : test::seeds(2000)) {
    test::Random random(seed);
    expect_valid(random_call(random));
    if (testing::Test::HasFatalFailure()) FAIL() << "seed " << seed;
  }
}

TEST(Plan, IsAPureFunctionAndItsMemoryIsReused) {
  test::Random random(1);
  Plan reused;
  for (int i = 0; i < 200; ++i) {
    const Call call = random_call(random);
    const Plan fresh = call.plan();
    call.make_plan(reused);
    ASSERT_EQ(fresh.items.size(), reused.items.size());
    for (std::size_t j = 0; j < fresh.items.size(); ++j) {
      const WorkItem &a = fresh.items[j], &b = reused.items[j];
      ASSERT_TRUE(a.seq == b.seq && a.kv_head == b.kv_head && a.q == b.q && a.kv == b.kv &&
                  a.split == b.split && a.slot == b.slot);
    }
    ASSERT_EQ(fresh.splits.size(), reused.splits.size());
    ASSERT_EQ(fresh.num_slots, reused.num_slots);
    ASSERT_EQ(fresh.max_rows, reused.max_rows);
    ASSERT_EQ(fresh.num_workers, reused.num_workers);
  }
}

Call one_sequence(Index q_tokens, Index keys, Index kv_heads, Index group, Index threads) {
  Call call;
  call.sizes = {.num_kv_heads = kv_heads,
                .group_size = group,
                .head_dim = 128,
                .value_dim = 128,
                .kv_bytes = 4,
                .num_threads = threads,
                .blocks = block_sizes(128, 128, 4, Index{1} << 20)};
  call.seqs = {{q_tokens, Range{0, keys}}};
  return call;
}

TEST(Plan, NothingToDoMakesNoItems) {
  EXPECT_TRUE(one_sequence(0, 100, 8, 4, 2).plan().items.empty());
  Call none;
  EXPECT_TRUE(none.plan().items.empty());
}

TEST(Plan, QueriesWithoutKeysStillHaveAnItemToWriteTheirZeros) {
  const Plan plan = one_sequence(3, 0, 2, 4, 8).plan();
  ASSERT_EQ(plan.items.size(), 2u);
  EXPECT_EQ(plan.items[0].q, (Range{0, 3}));
  EXPECT_TRUE(plan.items[0].kv.empty());
}

TEST(Plan, ShortCallsStayOnOneThread) {
  const Plan plan = one_sequence(1, 32, 8, 4, 8).plan();
  EXPECT_EQ(plan.num_workers, 1);
  EXPECT_EQ(plan.num_slots, 0);
}

TEST(Plan, LongDecodeOfOneHeadIsSplitAmongAllThreads) {
  for (Index threads : {2, 3, 8}) {
    const Plan plan = one_sequence(1, 100000, 1, 8, threads).plan();
    EXPECT_EQ(plan.num_workers, threads);
    EXPECT_GE(static_cast<Index>(plan.items.size()), 2 * threads);
  }
}

TEST(Plan, ASplitKeepsOneStateForEachWholeMergeUnit) {
  const Plan plan = one_sequence(1, 64 * merge_keys, 1, 8, 2).plan();
  EXPECT_GT(plan.splits.size(), 0u);
  EXPECT_EQ(plan.num_slots, 64);
  EXPECT_TRUE(plan.several_units);
  EXPECT_FALSE(one_sequence(1, merge_keys, 1, 8, 2).plan().several_units);
}

TEST(Plan, WhatNobodySeesIsNoWork) {
  Call call = one_sequence(1, 0, 1, 8, 2);
  call.seqs[0].kv = Ranges{{0, 4}, {40000000, 40016384}};
  const Plan far = call.plan(), near = one_sequence(1, 16384 + 4, 1, 8, 2).plan();
  EXPECT_EQ(far.items.size(), near.items.size());
  EXPECT_LE(far.num_slots, near.num_slots + 2);
}

TEST(Plan, PrefillIsCutIntoQueriesBeforeKeys) {
  const Plan plan = one_sequence(4096, 4096, 8, 4, 2).plan();
  EXPECT_EQ(plan.num_workers, 2);
  EXPECT_TRUE(plan.splits.empty());
  EXPECT_GE(plan.items.size(), 8u);
}

TEST(Plan, TuningTakesThePlaceOfWhatSizesSay) {
  const auto tuned = [](Index q_tokens, Index keys, Index threads, const Tuning& tuning) {
    Call call = one_sequence(q_tokens, keys, 1, 8, threads);
    apply(tuning, call.sizes);
    expect_valid(call);
    return call.plan();
  };
  EXPECT_EQ(tuned(1, 100000, 8, {.threads = 3}).num_workers, 3);
  EXPECT_EQ(tuned(1, 100000, 2, {.threads = 3}).num_workers, 2);  // there are no more
  EXPECT_EQ(tuned(1, 760, 8, {}).num_workers, 1);                 // little to do
  EXPECT_EQ(tuned(1, 760, 8, {.threads = 2}).num_workers, 2);     // said all the same
  EXPECT_EQ(tuned(1, 100000, 2, {.tasks_per_thread = 1}).items.size(), 2u);
  EXPECT_EQ(tuned(1, 100000, 2, {.tasks_per_thread = 16}).items.size(), 32u);
  EXPECT_EQ(tuned(3000, 3000, 1, {.task_rows = 80}).max_rows, 80);
  EXPECT_EQ(tuned(3000, 3000, 1, {.task_rows = 3}).max_rows, 8);  // a token's heads stay together
  EXPECT_EQ(tuned(3000, 3000, 1, {.block_rows = 40}).max_rows, 16 * 40);
  EXPECT_EQ(tuned(1000, 1000, 64, {.block_rows = 40}).max_rows, 40);
  EXPECT_EQ(tuned(3000, 3000, 1, {.block_rows = 40, .task_rows = 24}).max_rows, 24);
}

TEST(Plan, OneThreadNeedsNoSlots) {
  for (Index tokens : {1, 7, 1000}) EXPECT_EQ(one_sequence(tokens, 50000, 2, 4, 1).plan().num_slots, 0);
}

TEST(BlockSizes, FillHalfTheCacheWithinTheirLimits) {
  for (Index dim : {1, 40, 64, 128, 256, 576, 4096, 100000}) {
    for (Index value_dim : {1, 64, 128, 512, 100000}) {
      for (Index cache : {Index{1} << 18, Index{1} << 20, Index{1} << 22}) {
        const BlockSizes b = block_sizes(dim, value_dim, 4, cache);
        EXPECT_EQ(b.block_rows % 24, 0);
        EXPECT_GE(b.block_rows, 24);
        EXPECT_LE(b.block_rows, 192);
        EXPECT_GE(b.task_rows, b.block_rows);
        EXPECT_EQ(b.task_rows % b.block_rows, 0);
        if (b.block_rows > 24) {
          EXPECT_LE(b.block_rows * (chunk_keys + dim + 2 * value_dim) * 4, cache / 2);
        }
      }
    }
  }
}

}  // namespace
}  // namespace gqa
