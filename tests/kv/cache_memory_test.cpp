// SPDX-License-Identifier: Apache-2.0
// What a cache costs: to the byte, as it is needed, and never moved. All memory is counted.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "gqa/kv/cache.hpp"
#include "kv/counted_memory.hpp"
#include "support/message_of.hpp"
#include "support/scalars.hpp"

namespace gqa {
namespace {

using test::aligned_bytes;
using test::allocations_left;
using test::fail_each_allocation;
using test::other_bytes;

template <class T>
class CacheMemory : public ::testing::Test {};
using Scalars = test::AllScalars;
TYPED_TEST_SUITE(CacheMemory, Scalars);

TYPED_TEST(CacheMemory, BytesAreTwiceLayersHeadsDimTokensScalar) {
  using T = TypeParam;
  KVCache<T> cache({.max_tokens = 2000, .num_layers = 5, .num_kv_heads = 3, .head_dim = 37});
  EXPECT_EQ(cache.bytes_per_token(), 2 * 5 * 3 * 37 * Index{sizeof(T)});
  for (Index n : {0, 1, 63, 64, 512, 1, 1000}) {
    cache.extend(n);
    EXPECT_EQ(cache.bytes(), 2 * 5 * 3 * 37 * cache.size() * Index{sizeof(T)});
    EXPECT_EQ(cache.padding_bytes(), cache.allocated_bytes() - cache.bytes());
    EXPECT_GE(cache.padding_bytes(), 0);
  }
}

TYPED_TEST(CacheMemory, BytesOfOtherValueDims) {
  using T = TypeParam;
  KVCache<T> cache({.max_tokens = 10, .num_layers = 2, .num_kv_heads = 4, .head_dim = 192, .value_dim = 128});
  EXPECT_EQ(cache.bytes_per_token(), 2 * 4 * (192 + 128) * Index{sizeof(T)});
  cache.extend(7);
  EXPECT_EQ(cache.bytes(), 7 * 2 * 4 * (192 + 128) * Index{sizeof(T)});
}

TYPED_TEST(CacheMemory, NothingIsPaddedWhereAllIsWhole) {
  KVCache<TypeParam> cache({.max_tokens = 1024, .num_layers = 2, .num_kv_heads = 4, .head_dim = 64});
  cache.extend(512);
  EXPECT_EQ(cache.padding_bytes(), 0);
  cache.extend(1);
  EXPECT_EQ(cache.padding_bytes(), 511 * cache.bytes_per_token());
}

TYPED_TEST(CacheMemory, IsTakenWhenTokensReachIt) {
  aligned_bytes = 0;
  KVCache<TypeParam> cache({.max_tokens = 131072, .num_layers = 30, .num_kv_heads = 3, .head_dim = 64});
  EXPECT_EQ(aligned_bytes, 0);
  EXPECT_EQ(cache.allocated_bytes(), 0);
  EXPECT_LT(cache.bookkeeping_bytes(), 4096);
  cache.extend(1);
  const Index slab = 512 * cache.bytes_per_token();
  EXPECT_EQ(cache.allocated_bytes(), slab);
  EXPECT_EQ(aligned_bytes, slab);
  cache.extend(511);
  EXPECT_EQ(aligned_bytes, slab);
  cache.extend(1);
  EXPECT_EQ(aligned_bytes, 2 * slab);
  EXPECT_EQ(cache.allocated_bytes(), 2 * slab);
  cache.truncate(0);
  EXPECT_EQ(cache.allocated_bytes(), 2 * slab) << "truncation keeps the memory";
  cache.extend(1024);
  EXPECT_EQ(aligned_bytes, 2 * slab);
  cache.clear();
  EXPECT_EQ(cache.allocated_bytes(), 0);
  EXPECT_EQ(cache.bytes(), 0);
}

TYPED_TEST(CacheMemory, IsAlignedAndNeverMoves) {
  using T = TypeParam;
  KVCache<T> cache({.max_tokens = 5000, .num_layers = 2, .num_kv_heads = 3, .head_dim = 5, .value_dim = 3});
  const std::vector<float> zeros(5000 * 3 * 5);
  const auto write = [&](Index n) {
    const Span span = cache.extend(n);
    for (Index layer = 0; layer < 2; ++layer)
      cache.write(layer, span, TensorView<const float>(zeros.data(), n, 3, 5),
                  TensorView<const float>(zeros.data(), n, 3, 3));
  };
  std::vector<const void*> at;
  const auto tiles = [&](Index tokens) {
    std::vector<const void*> list;
    for (Index layer = 0; layer < 2; ++layer)
      for (Index head = 0; head < 3; ++head)
        for (Index begin = 0; begin < tokens; begin += tile_keys) {
          const auto tile = cache.layer(layer).tile(0, head, {begin, begin + tile_keys}, nullptr);
          list.push_back(tile.k.data);
          list.push_back(tile.v.data);
        }
    return list;
  };
  write(640);
  const auto before = tiles(640);
  for (const void* p : before) EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p) % 64, 0u);
  write(4000);
  EXPECT_EQ(tiles(640), before);
  cache.truncate(10);
  write(630);
  EXPECT_EQ(tiles(640), before);
}

TYPED_TEST(CacheMemory, BookkeepingIsWhatIsNotForTokens) {
  other_bytes = 0;
  KVCache<TypeParam> cache({.max_tokens = 5000, .num_layers = 70, .num_kv_heads = 2, .head_dim = 8});
  const auto taken = [&] { return static_cast<Index>(other_bytes) + static_cast<Index>(sizeof cache); };
  constexpr Index counts_of_views = 4 * sizeof(void*);
  EXPECT_GE(taken(), cache.bookkeeping_bytes());
  EXPECT_LE(taken(), cache.bookkeeping_bytes() + counts_of_views);
  const Index before = cache.bookkeeping_bytes();
  cache.extend(5000);
  EXPECT_EQ(cache.bookkeeping_bytes(), before + 10 * Index{sizeof(AlignedArray<TypeParam>)});
  const KVCache<TypeParam> moved = std::move(cache);
  EXPECT_EQ(moved.bookkeeping_bytes(), before + 10 * Index{sizeof(AlignedArray<TypeParam>)});
}

TYPED_TEST(CacheMemory, IsNotTakenBeyondTheLimit) {
  const Index slab = 512 * 2 * 2 * 16 * Index{sizeof(TypeParam)};
  const std::vector<TypeParam> ones(600 * 2 * 16, TypeParam(1));
  const auto tokens = [&](Index n) { return TensorView<const TypeParam>(ones.data(), n, 2, 16); };
  KVCache<TypeParam> cache(
      {.max_tokens = 10000, .num_kv_heads = 2, .head_dim = 16, .memory_limit = 2 * slab + 1});
  cache.append(tokens(500), tokens(500));
  const auto unchanged = [&] {
    EXPECT_EQ(cache.size(), 500);
    EXPECT_EQ(cache.allocated_bytes(), slab);
    EXPECT_EQ(cache.layer(0).retained(0), (Range{0, 500}));
  };
  EXPECT_EQ(test::message_of<std::length_error>([&] { cache.extend(525); }),
            "extend: the cache would take " + std::to_string(3 * slab) +
                " bytes, more than the memory_limit of " + std::to_string(2 * slab + 1));
  EXPECT_THROW(cache.append(tokens(525), tokens(525)), std::length_error);
  unchanged();
  cache.append(tokens(524), tokens(524));
  EXPECT_EQ(cache.allocated_bytes(), 2 * slab);
  EXPECT_THROW(cache.append(tokens(1), tokens(1)), std::length_error);
  cache.truncate(3);
  cache.append(tokens(600), tokens(600));
  KVCache<TypeParam> copy = cache.clone(), moved = std::move(cache);
  EXPECT_THROW(copy.extend(1000), std::length_error);
  EXPECT_THROW(moved.extend(1000), std::length_error);
  KVCache<TypeParam> assigned({.max_tokens = 1, .num_kv_heads = 2, .head_dim = 16});
  assigned = std::move(moved);
  EXPECT_THROW(assigned.extend(1000), std::length_error);
  assigned.clear();
  assigned.extend(1024);
  EXPECT_EQ(test::message_of<std::invalid_argument>([] {
              KVCache<TypeParam>({.max_tokens = 1, .num_kv_heads = 2, .head_dim = 16, .memory_limit = -1});
            }),
            "memory_limit is -1, expected at least 0");
}

TYPED_TEST(CacheMemory, RunningOutOfMemoryChangesNothing) {
  const std::vector<TypeParam> ones(4000 * 16, TypeParam(1));
  const auto tokens = [&](Index n) { return TensorView<const TypeParam>(ones.data(), n, 2, 8); };
  KVCache<TypeParam> cache({.max_tokens = 10000, .num_kv_heads = 2, .head_dim = 8});
  cache.append(tokens(500), tokens(500));
  const auto unchanged = [&, allocated = cache.allocated_bytes(), other = cache.bookkeeping_bytes()] {
    EXPECT_EQ(cache.size(), 500);
    EXPECT_EQ(cache.layer(0).retained(0), (Range{0, 500}));
    EXPECT_EQ(cache.allocated_bytes(), allocated);
    EXPECT_EQ(cache.bookkeeping_bytes(), other);
  };
  fail_each_allocation([&] { cache.clone(); }, unchanged);
  fail_each_allocation([&] { cache.append(tokens(4000), tokens(4000)); }, unchanged);
  EXPECT_EQ(cache.size(), 4500);
  cache.truncate(500);
  Span span;
  allocations_left = 0;  // these need no memory
  span = cache.extend(4000);
  cache.write(0, span, tokens(4000), tokens(4000));
  cache.truncate(77);
  KVCache<TypeParam> moved = std::move(cache);
  moved.clear();
  allocations_left = -1;
  EXPECT_EQ(span.positions, (Range{500, 4500}));
  EXPECT_EQ(moved.size(), 0);
}

TYPED_TEST(CacheMemory, ExtendThatRunsOutOfMemoryChangesNothing) {
  KVCache<TypeParam> cache({.max_tokens = 5000, .num_kv_heads = 2, .head_dim = 8});
  cache.extend(500);
  const Index allocated = cache.allocated_bytes(), other = cache.bookkeeping_bytes();
  Span span;
  fail_each_allocation([&] { span = cache.extend(4000); },
                       [&] {
                         EXPECT_EQ(cache.size(), 500);
                         EXPECT_EQ(cache.allocated_bytes(), allocated);
                         EXPECT_EQ(cache.bookkeeping_bytes(), other);
                       });
  EXPECT_EQ(span.positions, (Range{500, 4500}));
}

}  // namespace
}  // namespace gqa
