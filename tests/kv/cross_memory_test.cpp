// SPDX-License-Identifier: Apache-2.0
// A cross cache that runs out of memory is as it was, and one that could not be made leaves nothing behind.
#include <gtest/gtest.h>

#include <vector>

#include "gqa/kv/cross.hpp"
#include "kv/counted_memory.hpp"
#include "support/random.hpp"
#include "support/scalars.hpp"

namespace gqa {
namespace {

using test::aligned_bytes;
using test::fail_each_allocation;
using test::other_bytes;
using test::random_values;

template <class T>
class CrossMemory : public ::testing::Test {};
using Scalars = test::AllScalars;
TYPED_TEST_SUITE(CrossMemory, Scalars);

TYPED_TEST(CrossMemory, RunningOutOfMemoryChangesNothing) {
  using T = TypeParam;
  const typename CrossCache<T>::Config config{
      .tokens = {70, 0, 3}, .num_layers = 2, .num_kv_heads = 1, .head_dim = 4};
  fail_each_allocation([&] { CrossCache<T> made(config); }, [] {});
  CrossCache<T> cache(config);
  const auto x = random_values<T>(1, 3 * 70 * 4);
  const TensorView<const T> rows(x.data(), 3, 70, 1, 4);
  cache.write(1, rows, rows);
  const auto view = cache.layer(1);
  const auto unchanged = [&, allocated = cache.allocated_bytes(), other = cache.bookkeeping_bytes()] {
    EXPECT_EQ(cache.allocated_bytes(), allocated);
    EXPECT_EQ(cache.bookkeeping_bytes(), other);
    EXPECT_EQ(cache.size(0), 70);
    EXPECT_EQ(view.retained(0), (Range{0, 70}));
    std::vector<T> k(70 * 4), v(70 * 4);
    cache.read(1, 0, {0, 70}, TensorView<T>(k.data(), 70, 1, 4), TensorView<T>(v.data(), 70, 1, 4));
    EXPECT_TRUE(std::equal(k.begin(), k.end(), x.begin()));
    EXPECT_TRUE(std::equal(v.begin(), v.end(), x.begin()));
  };
  fail_each_allocation([&] { cache.clone(); }, unchanged);
  test::allocations_left = 0;
  EXPECT_THROW(cache.reset(0, 129), std::bad_alloc);
  test::allocations_left = -1;
  unchanged();
  test::allocations_left = 0;  // these need no memory
  const std::int64_t taken = aligned_bytes;
  cache.write(0, rows, rows);
  cache.reset(0, 65);
  cache.reset(2, 0);
  test::allocations_left = -1;
  EXPECT_EQ(aligned_bytes, taken);
  cache.reset(0, 3);  // a smaller one gives back what it does not need
  EXPECT_EQ(aligned_bytes - taken, cache.allocated_bytes());
}

TYPED_TEST(CrossMemory, BookkeepingIsWhatIsNotForTokens) {
  using T = TypeParam;
  const typename CrossCache<T>::Config config{
      .tokens = std::vector<Index>(64, 3), .num_layers = 20, .num_kv_heads = 1, .head_dim = 4};
  aligned_bytes = other_bytes = 0;
  const CrossCache<T> cache(config);
  EXPECT_EQ(aligned_bytes, cache.allocated_bytes());
  const Index taken = static_cast<Index>(other_bytes) + Index{sizeof cache};
  constexpr Index counts_of_views = 4 * sizeof(void*);
  EXPECT_GE(taken, cache.bookkeeping_bytes());
  EXPECT_LE(taken, cache.bookkeeping_bytes() + counts_of_views);
}

}  // namespace
}  // namespace gqa
