// SPDX-License-Identifier: Apache-2.0
// A paged cache when memory fails at the n-th allocation, for every n: nothing has changed then.
#include <gtest/gtest.h>

#include <new>

#include "kv/counted_memory.hpp"
#include "kv/paged_model.hpp"

namespace gqa {
namespace {

using test::allocations_left;
using test::TokenValues;

/// Two sequences, one published, that share pages.
struct Fixture {
  Fixture() {
    first = cache.create();
    go_on(first, 150);
    cache.publish(first, ids);
    second = cache.fork(first);
  }

  void go_on(SequenceId id, Index n) {
    const Span span = cache.extend(id, n);
    while (std::ssize(ids) < span.positions.end) ids.push_back(static_cast<TokenId>(ids.size()));
    values.write<float>(ids, span.positions, [&](Index layer, const auto& k, const auto& v) {
      cache.write(layer, id, span, k, v);
    });
  }

  void expect_unchanged(const PageStatistics& before, Index sequences, long n) const {
    const PageStatistics now = cache.statistics();
    EXPECT_EQ(now.used, before.used) << "at allocation " << n;
    EXPECT_EQ(now.kept, before.kept) << "at allocation " << n;
    EXPECT_EQ(now.shared, before.shared) << "at allocation " << n;
    EXPECT_EQ(cache.num_sequences(), sequences) << "at allocation " << n;
    for (const SequenceId id : {first, second}) {
      ASSERT_EQ(cache.size(id), 150);
      const auto read = [&](Index layer, Range r, auto& k, auto& v) { cache.read(layer, id, r, k, v); };
      EXPECT_EQ(values.difference<float>(std::span(ids).first(150), read), "") << "at allocation " << n;
    }
  }

  TokenValues values{2, 1, 4, 4};
  PagedCache<float> cache{{.num_pages = 12, .num_layers = 2, .num_kv_heads = 1, .head_dim = 4}};
  std::vector<TokenId> ids;
  SequenceId first, second;
};

/// Runs `operation` on fresh caches with memory that fails at the first, the second... allocation, until it
/// succeeds.
template <class F>
void expect_all_or_nothing(F&& operation) {
  for (long n = 0;; ++n) {
    Fixture fixture;
    const PageStatistics before = fixture.cache.statistics();
    const Index sequences = fixture.cache.num_sequences();
    bool failed = false;
    allocations_left = n;
    try {
      operation(fixture);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    allocations_left = -1;
    if (!failed) {
      EXPECT_GT(n, 0) << "it takes memory";
      return;
    }
    fixture.expect_unchanged(before, sequences, n);
    fixture.cache.clear();
    EXPECT_EQ(fixture.cache.statistics().free, 12);
  }
}

TEST(PagedMemory, Create) {
  expect_all_or_nothing([](Fixture& f) { f.cache.create(); });
}
TEST(PagedMemory, CreateWithIds) {
  expect_all_or_nothing([](Fixture& f) { f.cache.create(f.ids); });
}
TEST(PagedMemory, Extend) {
  expect_all_or_nothing([](Fixture& f) { f.cache.extend(f.second, 200); });
}
TEST(PagedMemory, Fork) {
  expect_all_or_nothing([](Fixture& f) { f.cache.fork(f.first); });
}
TEST(PagedMemory, Reorder) {
  expect_all_or_nothing([](Fixture& f) {
    const SequenceId ids[] = {f.first, f.second};
    const Index parents[] = {1, 1};
    f.cache.reorder(ids, parents);
  });
}
TEST(PagedMemory, Views) {
  expect_all_or_nothing([](Fixture& f) {
    const SequenceId ids[] = {f.first, f.second};
    f.cache.layer(0, ids);
  });
}
TEST(PagedMemory, TheCacheItself) {
  for (long n = 0;; ++n) {
    allocations_left = n;
    try {
      const PagedCache<float> cache({.num_pages = 2, .num_kv_heads = 1, .head_dim = 4});
      allocations_left = -1;
      EXPECT_GT(n, 2);
      return;
    } catch (const std::bad_alloc&) {
      allocations_left = -1;
    }
  }
}

}  // namespace
}  // namespace gqa
