// SPDX-License-Identifier: Apache-2.0
// Layers that differ in one object over one sequence.
#include "gqa/kv/hybrid.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "kv/token_model.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"
#include "support/scalars.hpp"

namespace gqa {
namespace {

using test::has;
using test::message_of;
using test::TokenModel;

constexpr Index huge = std::numeric_limits<Index>::max();

template <class F>
std::string invalid(F&& f) {
  return message_of<std::invalid_argument>(f);
}

static_assert(Cache<HybridCache<float>>);

const CacheLayer local{2, 7, 5, 100, 5}, global{1, 9, 9}, other{3, 4, 6, 10, 0};
const std::vector<CacheLayer> layers = {local, local, global, other, local, global};

template <class T>
class Hybrid : public ::testing::Test {
 protected:
  HybridCache<T> cache_{{.max_tokens = 5000, .max_span = 30, .rollback = 20, .layers = layers}};
  TokenModel<T> model_{layers};

  void add(int spans) {
    for (int i = 0; i < spans; ++i) model_.add(cache_, 30);
  }
};
using Scalars = test::AllScalars;
TYPED_TEST_SUITE(Hybrid, Scalars);

TYPED_TEST(Hybrid, KeepsWhatEachLayerNeeds) {
  for (std::uint64_t seed : test::seeds(5)) {
    test::Random random(seed);
    this->cache_.clear();
    this->model_.tokens.clear();
    Index highest = 0;
    for (int step = 0; step < 60; ++step) {
      if (random.flip(0.3)) {
        const Index oldest = this->cache_.oldest_truncation();
        ASSERT_LE(oldest, std::max<Index>(0, highest - 20));
        this->model_.truncate(this->cache_, random.integer(oldest, this->model_.size()));
      } else {
        const Index before = this->model_.size(), n = random.integer(0, 30);
        this->model_.add(this->cache_, n);
        highest = std::max(highest, this->model_.size());
        for (Index i = 0; i < 6; ++i) {
          const CacheLayer& l = this->model_.layer(i);
          const Index window = l.window == 0 ? huge : l.window;
          ASSERT_TRUE(has(this->cache_.layer(i), {0, std::min(l.sinks, this->model_.size())}));
          ASSERT_TRUE(
              has(this->cache_.layer(i), {std::max<Index>(0, before - window + 1), this->model_.size()}));
        }
      }
      ASSERT_NO_FATAL_FAILURE(this->model_.expect_in(this->cache_)) << "seed " << seed << ", step " << step;
    }
  }
}

TYPED_TEST(Hybrid, SaysTheSizesOfEachLayer) {
  const auto& cache = this->cache_;
  EXPECT_EQ(cache.num_layers(), 6);
  EXPECT_EQ(cache.num_kv_heads(), 2);
  EXPECT_EQ(cache.head_dim(), 7);
  EXPECT_EQ(cache.value_dim(), 5);
  for (Index i = 0; i < 6; ++i) {
    const CacheLayer& l = layers[static_cast<std::size_t>(i)];
    EXPECT_EQ(cache.num_kv_heads(i), l.num_kv_heads);
    EXPECT_EQ(cache.head_dim(i), l.head_dim);
    EXPECT_EQ(cache.value_dim(i), l.value_dim == Dynamic ? l.head_dim : l.value_dim);
    EXPECT_EQ(cache.window(i), l.window);
    EXPECT_EQ(cache.num_sinks(i), l.sinks);
  }
  EXPECT_THROW(cache.head_dim(6), std::out_of_range);
  EXPECT_THROW(cache.window(-1), std::out_of_range);
  EXPECT_EQ(cache.max_span(), 30);
  EXPECT_EQ(cache.capacity(), 5000);
}

TYPED_TEST(Hybrid, CountsItsBytes) {
  const Index scalar = sizeof(TypeParam);
  EXPECT_EQ(this->cache_.allocated_bytes(), 0);
  this->model_.add(this->cache_, 1);
  const Index each_local = 3 * 2 * (7 + 5) * scalar, each_global = 2 * (9 + 9) * scalar,
              each_other = 3 * (4 + 6) * scalar;
  EXPECT_EQ(this->cache_.bytes(), each_local + each_global + each_other);
  const Index before = this->cache_.allocated_bytes();
  this->add(33);
  const Index size = 991;
  EXPECT_EQ(this->cache_.bytes(), Ranges(this->cache_.layer(0).retained(0)).positions() * each_local +
                                      size * each_global +
                                      Ranges(this->cache_.layer(3).retained(0)).positions() * each_other);
  EXPECT_LT(Ranges(this->cache_.layer(3).retained(0)).positions(), 130);
  const Index slab = this->cache_.allocated_bytes() - before;
  EXPECT_EQ(slab % (2 * 512 * scalar), 0) << "only what keeps everything grows";
  EXPECT_EQ(this->cache_.padding_bytes(), this->cache_.allocated_bytes() - this->cache_.bytes());
  EXPECT_GT(this->cache_.bookkeeping_bytes(), 0);
  EXPECT_LT(this->cache_.bookkeeping_bytes(), 4096);
}

TYPED_TEST(Hybrid, TruncatesEveryLayerOrNone) {
  this->add(30);
  const Index oldest = this->cache_.oldest_truncation();
  EXPECT_LE(oldest, 900 - 20);
  const Ranges there = this->cache_.layer(0).retained(0);
  EXPECT_EQ(invalid([&] { this->cache_.truncate(oldest - 1); }),
            "truncate: n is " + std::to_string(oldest - 1) + ", expected at least " + std::to_string(oldest) +
                ", from where on windows are still there");
  EXPECT_THROW(this->cache_.truncate(5), std::invalid_argument) << "sinks of one layer, lost in another";
  EXPECT_EQ(this->cache_.size(), 900);
  EXPECT_EQ(this->cache_.layer(0).retained(0), there);
  this->model_.expect_in(this->cache_);
  this->model_.truncate(this->cache_, oldest);
  this->model_.expect_in(this->cache_);
  this->add(3);
  this->model_.expect_in(this->cache_);
  this->model_.truncate(this->cache_, 0);
  this->add(10);
  this->model_.expect_in(this->cache_);
}

TYPED_TEST(Hybrid, CheckpointsCopyWindowsAlone) {
  this->add(30);
  this->model_.add(this->cache_, 1);  // an odd number: pairs lie on both sides
  auto& cache = this->cache_;
  auto& model = this->model_;
  const auto checkpoint = cache.checkpoint();
  const auto tokens = model.tokens;
  EXPECT_EQ(checkpoint.size(), 901);
  HybridCache<TypeParam> windowed(
      {.max_tokens = 5000, .max_span = 30, .rollback = 20, .layers = {local, local, other, local}});
  windowed.extend(1);
  EXPECT_EQ(checkpoint.allocated_bytes(), windowed.allocated_bytes());
  for (int round = 0; round < 2; ++round) {
    this->add(20);
    const auto later = cache.checkpoint();
    cache.restore(checkpoint);
    model.tokens = tokens;
    ASSERT_NO_FATAL_FAILURE(model.expect_in(cache));
    EXPECT_EQ(
        invalid([&] { cache.restore(later); }),
        "restore: the first 1501 tokens are wanted as they were, but where layers keep all, only 901 of "
        "them are unchanged");
    model.expect_in(cache);
    model.add(cache, 1);
    model.expect_in(cache);
    model.truncate(cache, 901);
    model.expect_in(cache);
  }
  // What is changed before its end cannot come back.
  const Span span = model.add(cache, 30);
  const auto whole = cache.checkpoint();
  model.write(cache, 0, span);
  cache.restore(whole);  // a window was copied
  model.write(cache, 2, Span{span.positions, model.add(cache, 0).epoch});
  EXPECT_THROW(cache.restore(whole), std::invalid_argument);
  cache.restore(checkpoint);
  model.tokens = tokens;
  model.expect_in(cache);
  model.truncate(cache, 900);  // and write nothing
  EXPECT_THROW(cache.restore(checkpoint), std::invalid_argument);
  EXPECT_EQ(cache.size(), 900);
  const auto shorter = cache.checkpoint();
  cache.clear();
  EXPECT_THROW(cache.restore(shorter), std::invalid_argument);
}

TYPED_TEST(Hybrid, RefusesCheckpointsThatItCannotRestore) {
  auto& cache = this->cache_;
  this->add(10);
  const Span open = this->model_.extend(cache, 3);
  EXPECT_EQ(invalid([&] { cache.checkpoint(); }),
            "checkpoint: 300 of 303 tokens are written in all layers, expected all");
  for (Index i = 0; i < 6; ++i) this->model_.write(cache, i, open);
  auto clone = cache.clone();
  const auto of_clone = clone.checkpoint();
  EXPECT_EQ(
      invalid([&] { cache.restore(of_clone); }),
      "restore: the checkpoint is of another cache, and layers keep all tokens, which it does not copy");
  auto swapped = layers;
  std::swap(swapped[0], swapped[2]);
  HybridCache<TypeParam> differs({.max_tokens = 5000, .max_span = 30, .rollback = 20, .layers = swapped});
  EXPECT_EQ(invalid([&] { cache.restore(differs.checkpoint()); }),
            "restore: the checkpoint is of a cache of other sizes");
  this->model_.expect_in(cache);
  // Where all layers are windowed it may be another cache's.
  const std::vector<CacheLayer> both = {local, other};
  HybridCache<TypeParam> a({.max_tokens = 900, .max_span = 9, .layers = both}),
      b({.max_tokens = 900, .max_span = 9, .layers = both});
  TokenModel<TypeParam> model(both);
  for (int i = 0; i < 60; ++i) model.add(a, 9);
  b.restore(a.checkpoint());
  model.expect_in(b);
}

TYPED_TEST(Hybrid, ClonesGoTheirOwnWay) {
  this->add(25);
  auto clone = this->cache_.clone();
  auto model = this->model_;
  EXPECT_EQ(clone.bytes(), this->cache_.bytes());
  this->add(20);
  model.expect_in(clone);
  model.add(clone, 17);
  model.expect_in(clone);
  this->model_.expect_in(this->cache_);
  EXPECT_THROW(this->model_.write(clone, 0, this->model_.add(this->cache_, 1)), std::invalid_argument);
}

TYPED_TEST(Hybrid, RefusesChangeNothing) {
  this->add(25);
  auto& cache = this->cache_;
  EXPECT_THROW(cache.extend(31), std::length_error);
  EXPECT_THROW(cache.extend(5000), std::length_error);
  EXPECT_THROW(cache.extend(-1), std::invalid_argument);
  EXPECT_THROW(cache.layer(6), std::out_of_range);
  const std::vector<float> x(1000);
  const Span span = cache.extend(2);
  const auto tensor = [&](Index heads, Index dim) {
    return TensorView<const float>(x.data(), 2, heads, dim);
  };
  EXPECT_EQ(invalid([&] { cache.write(2, span, tensor(2, 7), tensor(2, 5)); }), "k: heads is 2, expected 1")
      << "each layer has its own shape";
  EXPECT_THROW(cache.write(0, span, tensor(1, 9), tensor(1, 9)), std::invalid_argument);
  EXPECT_THROW(cache.write(3, span, tensor(3, 4), tensor(3, 5)), std::invalid_argument);
  EXPECT_THROW(cache.append(tensor(2, 7), tensor(2, 5)), std::invalid_argument);
  cache.truncate(750);
  this->model_.expect_in(cache);
}

TEST(HybridViews, SaySoWhenTheCacheIsGone) {
  std::optional<HybridCache<half>> cache;
  cache.emplace(HybridCache<half>::Config{.max_tokens = 9, .layers = {{1, 2}, {1, 2, Dynamic, 3}}});
  const auto view = cache->layer(1);
  cache->extend(1);
  HybridCache<half> moved = std::move(*cache);
  EXPECT_EQ(view.retained(0), Ranges(Range{0, 0}));
  EXPECT_EQ(cache->num_layers(), 0);
  EXPECT_EQ(cache->num_kv_heads(), 0);
  EXPECT_THROW(cache->window(0), std::invalid_argument);
  moved.clear();
  EXPECT_EQ(invalid([&] { view.retained(0); }),
            "view: the cache was cleared after the view of layer 1 was taken");
}

TEST(HybridParts, OfALayerThatKeepsEverything) {
  HybridCache<float> cache({.max_tokens = 900, .max_span = 9, .layers = {global, local}});
  TokenModel<float> model({global, local});
  for (int i = 0; i < 60; ++i) model.add(cache, 9);
  EXPECT_EQ(cache.sinks(0).retained(0), Ranges(Range{0, 0}));
  EXPECT_EQ(cache.recent(0).retained(0), Ranges(Range{0, 540}));
  EXPECT_EQ(cache.sinks(1).retained(0), Ranges(Range{0, 5}));
  EXPECT_EQ(cache.recent(1).retained(0).hull().end, 540);
}

TEST(HybridConfig, RefusesWhatCannotBe) {
  using Hybrid = HybridCache<float>;
  const auto refusal = [](const CacheLayer& layer) {
    return invalid([&] { Hybrid({.max_tokens = 1, .layers = {global, layer}}); });
  };
  EXPECT_EQ(invalid([] { Hybrid({.max_tokens = 1}); }), "layers: there are none, expected at least 1");
  EXPECT_EQ(refusal({Dynamic, 1}), "layer 1: num_kv_heads is -1, expected at least 1");
  EXPECT_EQ(refusal({1, 0}), "layer 1: head_dim is 0, expected at least 1");
  EXPECT_EQ(refusal({1, 1, 0}), "layer 1: value_dim is 0, expected at least 1");
  EXPECT_EQ(refusal({1, 1, 1, -1}), "layer 1: window is -1, expected at least 0");
  EXPECT_EQ(refusal({1, 1, 1, 1, -1}), "layer 1: sinks is -1, expected at least 0");
  EXPECT_EQ(refusal({1, 1, 1, 0, 1}),
            "layer 1: sinks is 1, expected 0 where window is 0 and all tokens are kept");
  EXPECT_THROW(Hybrid({.max_tokens = 1, .max_span = 0, .layers = {global}}), std::invalid_argument);
  EXPECT_THROW(Hybrid({.max_tokens = 1, .rollback = -1, .layers = {global}}), std::invalid_argument);
  EXPECT_THROW(Hybrid({.max_tokens = -1, .layers = {global}}), std::invalid_argument);
  EXPECT_THROW(Hybrid({.max_tokens = huge, .layers = {global}}), std::invalid_argument);
  EXPECT_THROW(Hybrid({.max_tokens = max_position, .layers = {global}}), std::length_error);
  EXPECT_NO_THROW(Hybrid({.max_tokens = max_position, .layers = {local}}));
  EXPECT_THROW(Hybrid({.max_tokens = 1, .layers = {{1, 1, 1, huge}}}), std::length_error);
  // Each group fits, both together do not.
  const Index half_of_it = Index{1} << 54;
  EXPECT_THROW(Hybrid({.max_tokens = 1, .layers = {{1, half_of_it - 16, 16}, {1, half_of_it - 32, 16}}}),
               std::length_error);
}

}  // namespace
}  // namespace gqa
