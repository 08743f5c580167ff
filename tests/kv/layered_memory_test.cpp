// SPDX-License-Identifier: Apache-2.0
// Memory of the ring and the hybrid cache: taken once, counted to the byte, and where it runs out at any
// allocation of any operation, nothing has changed.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "gqa/kv/hybrid.hpp"
#include "gqa/kv/ring.hpp"
#include "kv/token_model.hpp"
#include "support/message_of.hpp"
#include "support/scalars.hpp"

namespace {

std::int64_t live = 0;               // allocations
std::int64_t allocations_left = -1;  // until one fails; -1: none does

void* allocate(std::size_t size, std::size_t align) {
  if (allocations_left == 0) throw std::bad_alloc();
  if (allocations_left > 0) --allocations_left;
  void* p = std::aligned_alloc(align, (size + 2 * align - 1) / align * align);
  if (p == nullptr) throw std::bad_alloc();
  ++live;
  return p;
}
void release(void* p) {
  if (p != nullptr) --live;
  std::free(p);
}

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void* operator new(std::size_t size) { return allocate(size, 16); }
[[gnu::noinline]] void operator delete(void* p) noexcept { release(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { release(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { release(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { release(p); }

namespace gqa {
namespace {

using test::TokenModel;

/// Fails each allocation that `f` makes, one after the other, until it gets by with none failing. Returns how
/// many there are.
template <class F, class Check>
std::int64_t fail_each_allocation(F&& f, Check&& expect_unchanged) {
  for (std::int64_t left = 0;; ++left) {
    const std::int64_t before = live;
    bool thrown = false;
    allocations_left = left;
    try {
      f();
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    allocations_left = -1;
    if (!thrown) return left;
    EXPECT_EQ(live, before) << "leaked or lost";
    expect_unchanged();
  }
}

const std::vector<CacheLayer> layers = {
    {2, 8, 8, 100, 5}, {1, 9, 5}, {1, 4, 4}, {2, 8, 8, 100, 5}, {3, 3, 3, 9, 0}};

/// What can be seen of a cache.
template <class Cache>
std::vector<Index> seen(const Cache& cache) {
  std::vector<Index> all = {cache.size(), cache.bytes(), cache.allocated_bytes(), cache.bookkeeping_bytes(),
                            cache.oldest_truncation()};
  for (Index i = 0; i < cache.num_layers(); ++i)
    for (const Range r : Ranges(cache.layer(i).retained(0))) {
      all.push_back(r.begin);
      all.push_back(r.end);
    }
  return all;
}

template <class Cache, class Model>
void expect_strong_guarantees(Cache& cache, Model& model) {
  const auto check = [&](const auto& before) {
    return [&, before] {
      EXPECT_EQ(seen(cache), before);
      model.expect_in(cache);
    };
  };
  // The first tokens take memory of every group.
  Span span;
  EXPECT_GE(fail_each_allocation([&] { span = cache.extend(40); }, check(seen(cache))), 1);
  for (Index i = 0; i < 40; ++i) model.tokens.push_back(1000000 + i);
  for (Index i = 0; i < cache.num_layers(); ++i) model.write(cache, i, span);
  model.expect_in(cache);
  // Over every slab's end, and tiles dropped.
  std::int64_t allocations = 0;
  while (model.size() < 1500) {
    const auto before = seen(cache);
    allocations += fail_each_allocation([&] { span = cache.extend(40); }, check(before));
    for (Index i = 0; i < 40; ++i) model.tokens.push_back(2000000 + model.size());
    for (Index i = 0; i < cache.num_layers(); ++i) model.write(cache, i, span);
  }
  model.expect_in(cache);
  if constexpr (requires { cache.num_sinks(); })
    EXPECT_EQ(allocations, 0) << "a ring takes all it will have at once";
  else
    EXPECT_EQ(allocations, 2 * (1 + 2 * 2)) << "twice a list and a slab in each of two groups";
}

template <class T>
class LayeredMemory : public ::testing::Test {};
using Scalars = test::AllScalars;
TYPED_TEST_SUITE(LayeredMemory, Scalars);

template <class T>
auto ring_config() {
  return typename RingCache<T>::Config{.window = 100,
                                       .sinks = 5,
                                       .max_span = 40,
                                       .rollback = 3,
                                       .num_layers = 2,
                                       .num_kv_heads = 2,
                                       .head_dim = 8};
}
template <class T>
auto hybrid_config() {
  return typename HybridCache<T>::Config{.max_tokens = 3000, .max_span = 40, .rollback = 3, .layers = layers};
}

TYPED_TEST(LayeredMemory, ConstructorsThatRunOutLeakNothing) {
  const std::int64_t before = live;
  const auto config = hybrid_config<TypeParam>();
  EXPECT_GE(fail_each_allocation([] { RingCache<TypeParam> cache(ring_config<TypeParam>()); }, [] {}), 4);
  EXPECT_GE(fail_each_allocation([&] { HybridCache<TypeParam> cache(config); }, [] {}), 5);
  EXPECT_EQ(live, before + 1) << "the config's list";
}

TYPED_TEST(LayeredMemory, ARingThatRunsOutIsAsItWas) {
  RingCache<TypeParam> cache(ring_config<TypeParam>());
  TokenModel<TypeParam> model({{2, 8}, {2, 8}});
  expect_strong_guarantees(cache, model);
}

TYPED_TEST(LayeredMemory, AHybridThatRunsOutInAnyGroupIsAsItWas) {
  HybridCache<TypeParam> cache(hybrid_config<TypeParam>());
  TokenModel<TypeParam> model(layers);
  expect_strong_guarantees(cache, model);
}

template <class Cache, class Model>
void expect_copies_that_run_out(Cache& cache, Model& model) {
  for (int i = 0; i < 20; ++i) model.add(cache, 40);
  const auto unchanged = [&, before = seen(cache)] {
    EXPECT_EQ(seen(cache), before);
    model.expect_in(cache);
  };
  EXPECT_GE(fail_each_allocation([&] { cache.clone(); }, unchanged), 5);
  std::optional<typename Cache::Checkpoint> checkpoint;
  EXPECT_GE(fail_each_allocation([&] { checkpoint.emplace(cache.checkpoint()); }, unchanged), 3);
  const auto tokens = model.tokens;
  for (int i = 0; i < 10; ++i) model.add(cache, 40);
  allocations_left = 0;  // these need no memory
  cache.restore(*checkpoint);
  Span span = cache.extend(7);
  const auto view = cache.layer(0);
  cache.truncate(799);
  Cache moved = std::move(cache);
  allocations_left = -1;
  EXPECT_EQ(span.positions, (Range{800, 807}));
  EXPECT_EQ(view.retained(0).hull().end, 799);
  model.tokens = tokens;
  model.tokens.resize(799);
  model.expect_in(moved);
}

TYPED_TEST(LayeredMemory, CopiesOfARingThatRunOutChangeNothing) {
  RingCache<TypeParam> cache(ring_config<TypeParam>());
  TokenModel<TypeParam> model({{2, 8}, {2, 8}});
  expect_copies_that_run_out(cache, model);
}

TYPED_TEST(LayeredMemory, CopiesOfAHybridThatRunOutChangeNothing) {
  HybridCache<TypeParam> cache(hybrid_config<TypeParam>());
  TokenModel<TypeParam> model(layers);
  expect_copies_that_run_out(cache, model);
}

TYPED_TEST(LayeredMemory, RestoringAClearedRingThatRunsOutChangesNothing) {
  RingCache<TypeParam> cache(ring_config<TypeParam>());
  TokenModel<TypeParam> model({{2, 8}, {2, 8}});
  for (int i = 0; i < 20; ++i) model.add(cache, 40);
  const auto checkpoint = cache.checkpoint();
  cache.clear();
  const auto unchanged = [&, before = seen(cache)] { EXPECT_EQ(seen(cache), before); };
  EXPECT_EQ(fail_each_allocation([&] { cache.restore(checkpoint); }, unchanged), 2);
  model.expect_in(cache);
}

template <class F>
std::string too_long(F&& f) {
  return test::message_of<std::length_error>(f);
}
std::string beyond(const char* what, Index bytes, Index limit) {
  return std::string(what) + ": the cache would take " + std::to_string(bytes) +
         " bytes, more than the memory_limit of " + std::to_string(limit);
}

TYPED_TEST(LayeredMemory, OfARingIsNotTakenBeyondTheLimit) {
  using T = TypeParam;
  auto config = ring_config<T>();
  RingCache<T> unlimited(config);
  TokenModel<T> model({{2, 8}, {2, 8}}), other({{2, 8}, {2, 8}});
  for (int i = 0; i < 20; ++i) model.add(unlimited, 40);
  const auto checkpoint = unlimited.checkpoint();
  const Index bytes = unlimited.allocated_bytes();
  config.memory_limit = bytes - 1;
  RingCache<T> small(config);
  EXPECT_EQ(too_long([&] { small.extend(1); }), beyond("extend", bytes, bytes - 1));
  EXPECT_EQ(too_long([&] { small.clone().extend(1); }), beyond("extend", bytes, bytes - 1));
  EXPECT_EQ(too_long([&] { small.restore(checkpoint); }), beyond("restore", bytes, bytes - 1));
  EXPECT_EQ(small.size() + small.allocated_bytes(), 0);
  small.extend(0);
  config.memory_limit = bytes;
  RingCache<T> exact(config);
  other.add(exact, 40);
  exact.restore(checkpoint);
  model.expect_in(exact);
  exact = std::move(small);
  EXPECT_THROW(exact.extend(1), std::length_error) << "limits move with a cache";
  config.num_layers = 1;
  RingCache<T> single(config);  // half of it
  config.memory_limit = bytes / 2 - 1;
  RingCache<T> none(config);
  const std::vector<T> ones(2 * 8, T(1));
  const TensorView<const T> x(ones.data(), 1, 2, 8);
  single.append(x, x);
  EXPECT_EQ(single.allocated_bytes(), bytes / 2);
  EXPECT_EQ(too_long([&] { none.append(x, x); }), beyond("append", bytes / 2, bytes / 2 - 1));
  EXPECT_EQ(none.size(), 0);
  config.memory_limit = -1;
  EXPECT_EQ(test::message_of<std::invalid_argument>([&] { RingCache<T> cache(config); }),
            "memory_limit is -1, expected at least 0");
}

TYPED_TEST(LayeredMemory, OfAHybridIsNotTakenBeyondTheLimitInAnyGroup) {
  using T = TypeParam;
  auto config = hybrid_config<T>();
  HybridCache<T> unlimited(config);
  const Index none = unlimited.allocated_bytes();
  std::vector<Index> steps = {none};  // what is taken for the first token, and in the end
  TokenModel<T> model(layers), other(layers);
  for (int i = 0; i < 15; ++i) {
    model.add(unlimited, 40);
    if (unlimited.allocated_bytes() != steps.back()) steps.push_back(unlimited.allocated_bytes());
  }
  ASSERT_EQ(steps.size(), 3u);
  config.memory_limit = steps[2] - 1;
  HybridCache<T> cache(config);
  while (cache.size() < 480) other.add(cache, 40);
  const auto before = seen(cache);
  EXPECT_EQ(too_long([&] { cache.extend(33); }), beyond("extend", steps[2], steps[2] - 1));
  EXPECT_EQ(seen(cache), before);
  other.add(cache, 32);
  other.expect_in(cache);
  EXPECT_EQ(cache.allocated_bytes(), steps[1]);
  config.memory_limit = steps[1] - 1;
  HybridCache<T> small(config);
  EXPECT_EQ(too_long([&] { small.extend(1); }), beyond("extend", steps[1], steps[1] - 1));
  config.memory_limit = -1;
  EXPECT_THROW(HybridCache<T> negative(config), std::invalid_argument);
}

TYPED_TEST(LayeredMemory, CheckpointsThatAreGoneAreForgotten) {
  HybridCache<TypeParam> cache(hybrid_config<TypeParam>());
  TokenModel<TypeParam> model(layers);
  model.add(cache, 40);
  const auto kept = cache.checkpoint();
  for (int i = 0; i < 10; ++i) cache.checkpoint();
  const Index bookkeeping = cache.bookkeeping_bytes();
  for (int i = 0; i < 1000; ++i) cache.checkpoint();
  EXPECT_EQ(cache.bookkeeping_bytes(), bookkeeping);
  model.add(cache, 40);
  cache.restore(kept);
  model.tokens.resize(40);
  model.expect_in(cache);
}

}  // namespace
}  // namespace gqa
