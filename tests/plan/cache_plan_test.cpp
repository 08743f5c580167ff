// SPDX-License-Identifier: Apache-2.0
// CachePlan against what every cache has allocated, and what fits against trying every number.
#include "gqa/plan/cache_plan.hpp"

#include <gtest/gtest.h>

#include "gqa/cache.hpp"
#include "gqa/plan/capacity.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"
#include "support/scalars.hpp"

namespace gqa {
namespace {

using test::message_of;

constexpr Index lengths[] = {1, 63, 64, 65, 511, 512, 513, 1300};

CachePlan plan_of(CachePlacement placement,
                  CacheLayer layer = {.num_kv_heads = 3, .head_dim = 40, .value_dim = 24}) {
  return CachePlan({.layers = uniform_layers(2, layer), .placement = placement});
}

template <class T>
class CachePlanOf : public ::testing::Test {};
TYPED_TEST_SUITE(CachePlanOf, test::AllScalars);

TYPED_TEST(CachePlanOf, ContiguousCaches) {
  const CachePlan plan = plan_of(CachePlacement::contiguous);
  for (const Index n : lengths) {
    KVCache<TypeParam> cache(
        {.max_tokens = n, .num_layers = 2, .num_kv_heads = 3, .head_dim = 40, .value_dim = 24});
    cache.extend(n);
    EXPECT_EQ(plan.bytes<TypeParam>(n), cache.allocated_bytes()) << n;
    BatchCache<TypeParam> batch({.num_seqs = 5,
                                 .max_tokens = n,
                                 .num_layers = 2,
                                 .num_kv_heads = 3,
                                 .head_dim = 40,
                                 .value_dim = 24});
    batch.extend(n);
    EXPECT_EQ(plan.bytes<TypeParam>(n, 5), batch.allocated_bytes()) << n;
  }
  EXPECT_EQ(plan.elements_per_token(), 2 * 3 * (40 + 24));
}

TYPED_TEST(CachePlanOf, CrossCaches) {
  const CachePlan plan = plan_of(CachePlacement::cross);
  for (const Index n : lengths) {
    const CrossCache<TypeParam> cache(
        {.tokens = {n, n, n}, .num_layers = 2, .num_kv_heads = 3, .head_dim = 40, .value_dim = 24});
    EXPECT_EQ(plan.bytes<TypeParam>(n, 3), cache.allocated_bytes()) << n;
  }
}

TYPED_TEST(CachePlanOf, LatentCaches) {
  const CachePlan plan =
      plan_of(CachePlacement::latent, {.num_kv_heads = 1, .head_dim = 26, .value_dim = 20});
  for (const Index n : lengths) {
    LatentCache<TypeParam> cache({.max_tokens = n, .num_layers = 2, .latent_dim = 20, .rope_dim = 6});
    cache.extend(n);
    EXPECT_EQ(plan.bytes<TypeParam>(n), cache.allocated_bytes()) << n;
  }
  EXPECT_EQ(plan.elements_per_token(), 2 * 26);
  // DeepSeek-V3 against the MHA of its heads, and MQA: 128 heads with keys and values of 128.
  const CachePlan v3 =
                      plan_of(CachePlacement::latent, {.num_kv_heads = 1, .head_dim = 576, .value_dim = 512}),
                  mha = plan_of(CachePlacement::contiguous, {.num_kv_heads = 128, .head_dim = 128}),
                  mqa = plan_of(CachePlacement::contiguous, {.num_kv_heads = 1, .head_dim = 128});
  const auto ratio = [](const CachePlan& a, const CachePlan& b) {
    return static_cast<double>(a.bytes<TypeParam>(131072)) / static_cast<double>(b.bytes<TypeParam>(131072));
  };
  EXPECT_NEAR(ratio(mha, v3), 56.9, 0.05);
  EXPECT_DOUBLE_EQ(ratio(v3, mqa), 2.25);
}

TYPED_TEST(CachePlanOf, PagedCaches) {
  for (const Index page : {64, 192}) {
    CachePlanConfig config{.layers = uniform_layers(2, {.num_kv_heads = 3, .head_dim = 40, .value_dim = 24}),
                           .placement = CachePlacement::paged,
                           .page_tokens = page};
    const CachePlan plan(config);
    config.shared_tokens = 500;
    const CachePlan sharing(config);
    for (const Index n : {500, 511, 512, 513, 1300}) {
      PagedCache<TypeParam> cache({.num_pages = 200,
                                   .page_tokens = page,
                                   .num_layers = 2,
                                   .num_kv_heads = 3,
                                   .head_dim = 40,
                                   .value_dim = 24});
      const Index page_bytes = cache.allocated_bytes() / 200;
      const auto first = cache.create();
      const Span span = cache.extend(first, n);
      const std::vector<TypeParam> zeros(static_cast<std::size_t>(n * 3 * 40));
      for (Index i = 0; i < 2; ++i)
        cache.write(i, first, span, TensorView<const TypeParam>(zeros.data(), n, 3, 40),
                    TensorView<const TypeParam>(zeros.data(), n, 3, 24));
      EXPECT_EQ(plan.bytes<TypeParam>(n), cache.statistics().used * page_bytes) << n;
      // Others that fork from the first after what all have alike.
      cache.truncate(first, 500);
      for (int others = 0; others < 3; ++others) cache.extend(cache.fork(first), n - 500);
      cache.extend(first, n - 500);
      if (n > 500) {
        EXPECT_EQ(sharing.bytes<TypeParam>(n, 4), cache.statistics().used * page_bytes)
            << n << ", page " << page;
      }
    }
  }
}

TYPED_TEST(CachePlanOf, CachesOfLayersThatDiffer) {
  const std::vector<CacheLayer> layers = {{.num_kv_heads = 3, .head_dim = 40, .window = 100, .sinks = 4},
                                          {.num_kv_heads = 1, .head_dim = 24, .value_dim = 56},
                                          {.num_kv_heads = 3, .head_dim = 40, .window = 100, .sinks = 4},
                                          {.num_kv_heads = 2, .head_dim = 8, .window = 700}};
  for (const Index max_span : {64, 200}) {
    const CachePlan plan(
        {.layers = layers, .placement = CachePlacement::hybrid, .max_span = max_span, .rollback = 30});
    for (const Index n : lengths) {
      HybridCache<TypeParam> cache({.max_tokens = n, .max_span = max_span, .rollback = 30, .layers = layers});
      for (Index done = 0; done < n;) {
        const Span span = cache.extend(std::min(max_span, n - done));
        for (Index i = 0; i < 4; ++i) {
          const CacheLayer& layer = layers[static_cast<std::size_t>(i)];
          const Index dv = layer.value_dim == Dynamic ? layer.head_dim : layer.value_dim;
          const std::vector<TypeParam> zeros(static_cast<std::size_t>(span.size() * layer.num_kv_heads * 64));
          cache.write(
              i, span,
              TensorView<const TypeParam>(zeros.data(), span.size(), layer.num_kv_heads, layer.head_dim),
              TensorView<const TypeParam>(zeros.data(), span.size(), layer.num_kv_heads, dv));
        }
        done += span.size();
      }
      EXPECT_EQ(plan.bytes<TypeParam>(n), cache.allocated_bytes()) << n << ", " << max_span;
    }
  }
  const CachePlan ring(
      {.layers = uniform_layers(2, {.num_kv_heads = 3, .head_dim = 40, .window = 100, .sinks = 4}),
       .placement = CachePlacement::hybrid,
       .max_span = 16});
  RingCache<TypeParam> cache(
      {.window = 100, .sinks = 4, .max_span = 16, .num_layers = 2, .num_kv_heads = 3, .head_dim = 40});
  cache.extend(1);
  EXPECT_EQ(ring.bytes<TypeParam>(1'000'000), cache.allocated_bytes());
}

TEST(Capacity, IsTheLastThatFits) {
  using T = bfloat16;
  const CacheLayer layer{.num_kv_heads = 2, .head_dim = 16},
      windowed{.num_kv_heads = 2, .head_dim = 16, .window = 64};
  const CachePlan plans[] = {
      plan_of(CachePlacement::contiguous, layer), plan_of(CachePlacement::cross, layer),
      plan_of(CachePlacement::paged, layer),
      CachePlan({.layers = {windowed, layer}, .placement = CachePlacement::hybrid}),
      CachePlan(
          {.layers = uniform_layers(2, layer), .placement = CachePlacement::paged, .shared_tokens = 130})};
  for (const CachePlan& plan : plans) {
    const Index least = std::max<Index>(plan.config().shared_tokens, 1);
    for (const Index budget : {0, 1000, 100'000, 400'000}) {
      for (const Index users : {1, 3}) {
        Index longest = 0;
        for (Index n = least; n < 3000; ++n)
          if (plan.bytes<T>(n, users) <= budget) longest = n;
        EXPECT_EQ(longest_context<T>(plan, budget, users, 2999), longest) << budget << " bytes, " << users;
      }
      Index most = 0;
      while (plan.bytes<T>(200, most + 1) <= budget) ++most;
      EXPECT_EQ(most_users<T>(plan, budget, 200), most) << budget << " bytes";
    }
  }
}

TEST(Capacity, OfAWindowHasNoEnd) {
  const CachePlan plan({.layers = uniform_layers(2, {.num_kv_heads = 1, .head_dim = 64, .window = 128}),
                        .placement = CachePlacement::hybrid});
  EXPECT_EQ(longest_context<float>(plan, 1'000'000), max_position);
  EXPECT_EQ(longest_context<float>(plan, 1'000'000, 1, 4096), 4096);
  EXPECT_EQ(longest_context<float>(plan, 1'000), 0);
}

TEST(Capacity, WhatOverflowsDoesNotFit) {
  const CachePlan plan = plan_of(CachePlacement::contiguous);
  const Index all = std::numeric_limits<Index>::max();
  const Index longest = longest_context<double>(plan, all);
  EXPECT_GT(plan.bytes<double>(longest), all / 2);
  EXPECT_THROW(plan.bytes<double>(longest + 1), std::length_error);
  EXPECT_EQ(most_users<double>(plan, all, 512), all / plan.bytes<double>(512));
}

TEST(CachePlan, RefusesWhatNoCacheCanBe) {
  const CacheLayer layer{.num_kv_heads = 2, .head_dim = 16};
  const auto said = [](CachePlanConfig config) { return message_of([&] { CachePlan plan(config); }); };
  EXPECT_EQ(said({}), "layers: there are none, expected at least 1");
  EXPECT_EQ(said({.layers = {{.num_kv_heads = 2}}}), "layer 0: head_dim is -1, expected at least 1");
  EXPECT_EQ(said({.layers = {layer, {.num_kv_heads = 1, .head_dim = 16}}}),
            "layer 1: sizes differ from those of layer 0, expected CachePlacement::hybrid");
  EXPECT_EQ(said({.layers = {layer}, .placement = CachePlacement::paged, .page_tokens = 16}),
            "page_tokens is 16, expected a multiple of 64");
  EXPECT_EQ(said({.layers = {layer}, .placement = CachePlacement::latent}),
            "layer 0: sizes are 2 x 16 and x 16, expected 1 KV head whose values are part of its keys");
  EXPECT_EQ(said({.layers = {layer}, .shared_tokens = 5}),
            "shared_tokens is 5, expected 0: only pages are shared");
  EXPECT_EQ(said({.layers = {layer}, .placement = CachePlacement::hybrid, .max_span = 0}),
            "max_span is 0, expected at least 1");
  EXPECT_EQ(message_of([] { uniform_layers(0, {}); }), "num_layers is 0, expected at least 1");

  const CachePlan plan = plan_of(CachePlacement::contiguous),
                  sharing({.layers = {layer}, .placement = CachePlacement::paged, .shared_tokens = 128});
  EXPECT_EQ(message_of([&] { plan.bytes<float>(-1); }).substr(0, 12), "tokens is -1");
  EXPECT_EQ(message_of([&] { plan.bytes<float>(5, -1); }), "users is -1, expected at least 0");
  EXPECT_EQ(message_of([&] { sharing.bytes<float>(127); }),
            "tokens is 127, expected at least the 128 shared");
  EXPECT_THROW(plan.bytes<float>(max_position, 100), std::length_error);
  EXPECT_EQ(message_of([&] { longest_context<float>(plan, -1); }), "budget is -1 bytes, expected at least 0");
  EXPECT_EQ(message_of([&] { longest_context<float>(plan, 1, 0); }), "users is 0, expected at least 1");
  EXPECT_EQ(message_of([&] { most_users<float>(plan, 1, 0); }), "tokens is 0, expected at least 1");
  EXPECT_EQ(message_of([&] { most_users<float>(sharing, 1, 128); }),
            "tokens is 128, expected more than the 128 shared: every sequence has pages of its own");
}

}  // namespace
}  // namespace gqa
