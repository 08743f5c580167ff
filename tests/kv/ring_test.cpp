// SPDX-License-Identifier: Apache-2.0
// What a ring keeps, drops, takes back and refuses.
#include "gqa/kv/ring.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "gqa/kv/cache.hpp"
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

static_assert(Cache<RingCache<float>> && Cache<RingCache<bfloat16, 8, 128>>);
static_assert(std::is_nothrow_move_constructible_v<RingCache<half>> &&
              !std::is_copy_constructible_v<RingCache<half>>);

template <class T>
class Ring : public ::testing::Test {
 protected:
  using Config = typename RingCache<T>::Config;

  static TokenModel<T> model_of(const Config& c) {
    return TokenModel<T>(std::vector<CacheLayer>(
        static_cast<std::size_t>(c.num_layers),
        {c.num_kv_heads, c.head_dim, c.value_dim == Dynamic ? c.head_dim : c.value_dim}));
  }
  static Config small() {
    return {.window = 100,
            .sinks = 5,
            .max_span = 30,
            .rollback = 20,
            .num_layers = 2,
            .num_kv_heads = 2,
            .head_dim = 7,
            .value_dim = 5};
  }
};
using Scalars = test::AllScalars;
TYPED_TEST_SUITE(Ring, Scalars);

TEST(RingTokens, AreWhatSpansAndRollbacksNeedAndOneTile) {
  static_assert(ring_tokens(64) == 128);
  static_assert(ring_tokens(65) == 192);
  static_assert(ring_tokens(1) == 128);
  static_assert(ring_tokens(1, 64) == 128);
  static_assert(ring_tokens(1, 65) == 192);
  static_assert(ring_tokens(4096, 512, 7) == 4096 + 512 + 64 + 64);
  for (Index window : {1, 63, 64, 65, 200})
    for (Index span : {1, 2, 64, 100})
      for (Index rollback : {0, 1, 130}) {
        const Index needed = window + span - 1 + rollback, tokens = ring_tokens(window, span, rollback);
        EXPECT_EQ(tokens % 64, 0);
        EXPECT_TRUE(needed + 64 <= tokens && tokens < needed + 128);
      }
  EXPECT_EQ(invalid([] { ring_tokens(0); }), "window is 0, expected at least 1");
  EXPECT_EQ(invalid([] { ring_tokens(1, 0); }), "max_span is 0, expected at least 1");
  EXPECT_EQ(invalid([] { ring_tokens(1, 1, -1); }), "rollback is -1, expected at least 0");
  EXPECT_THROW(ring_tokens(huge), std::length_error);
  EXPECT_THROW(ring_tokens(huge - 5, 7), std::length_error);
  EXPECT_THROW(ring_tokens(1, 1, huge), std::length_error);
}

TYPED_TEST(Ring, KeepsEveryTokenOfAWindowAndTheSinks) {
  // Spans, rollbacks to each length that may be, and after each the tokens, against a list of them.
  for (std::uint64_t seed : test::seeds(25)) {
    test::Random random(seed);
    typename RingCache<TypeParam>::Config config{
        .window = random.integer(1, 150),
        .sinks = random.pick(std::vector<Index>{0, 1, 4, 63, 64, 65}),
        .max_span = random.integer(1, 150),
        .rollback = random.integer(0, 80),
        .num_layers = 2,
        .num_kv_heads = 2,
        .head_dim = random.integer(1, 5),
        .value_dim = random.integer(1, 5)};
    RingCache<TypeParam> cache(config);
    auto model = this->model_of(config);
    Index highest = 0, allocated = 0;
    for (int step = 0; step < 60; ++step) {
      if (random.flip(0.3)) {
        const Index oldest = cache.oldest_truncation();
        ASSERT_LE(oldest, std::max<Index>(0, highest - config.rollback));
        const Index n = random.flip(0.1) ? random.integer(0, std::min(model.size(), config.sinks))
                                         : random.integer(oldest, model.size());
        model.truncate(cache, n);
        if (n <= config.sinks) highest = n;
        ASSERT_TRUE(has(cache.layer(0), {std::max<Index>(0, n - config.window + 1), n}));
      } else {
        const Index before = model.size(), n = random.integer(0, config.max_span);
        model.add(cache, n);
        highest = std::max(highest, model.size());
        for (Index layer : {0, 1}) {
          ASSERT_TRUE(has(cache.layer(layer), {0, std::min(config.sinks, model.size())}));
          ASSERT_TRUE(has(cache.layer(layer), {std::max<Index>(0, before - config.window + 1), model.size()}))
              << "the windows of the span's queries";
        }
      }
      ASSERT_NO_FATAL_FAILURE(model.expect_in(cache)) << "seed " << seed << ", step " << step;
      if (allocated == 0) allocated = cache.allocated_bytes();
      ASSERT_EQ(cache.allocated_bytes(), allocated);
      const Ranges there = cache.layer(1).retained(0);
      ASSERT_LE(there.positions(),
                round_up(config.sinks, 64) + ring_tokens(config.window, config.max_span, config.rollback));
      ASSERT_EQ(cache.bytes(), there.positions() * cache.bytes_per_token());
      ASSERT_EQ(cache.padding_bytes(), allocated - cache.bytes());
    }
  }
}

TYPED_TEST(Ring, DropsWholeTilesWhenTheirSlotsAreNeeded) {
  auto config = this->small();
  ASSERT_EQ(ring_tokens(100, 30, 20), 256);
  RingCache<TypeParam> cache(config);
  auto model = this->model_of(config);
  const auto view = cache.layer(1);
  while (model.size() + 30 <= 64 + 256) model.add(cache, 30);
  model.add(cache, 64 + 256 - model.size());
  EXPECT_EQ(view.retained(0), Ranges(Range{0, 320})) << "nothing is dropped as long as there is room";
  EXPECT_EQ(cache.oldest_truncation(), 0);
  const Span span = model.extend(cache, 1);
  const Ranges dropped = {{0, 5}, {128, 320}};
  EXPECT_EQ(cache.layer(0).retained(0), dropped) << "all layers at once";
  EXPECT_EQ(view.retained(0), dropped);
  model.write(cache, 0, span);
  model.write(cache, 1, span);
  EXPECT_EQ(view.retained(0), (Ranges{{0, 5}, {128, 321}}));
  EXPECT_EQ(cache.sinks(1).retained(0), Ranges(Range{0, 5}));
  EXPECT_EQ(cache.recent(1).retained(0), Ranges(Range{128, 321}));
  EXPECT_EQ(cache.oldest_truncation(), 128 + 99);
  model.expect_in(cache);
}

TYPED_TEST(Ring, PartsShowEveryTokenOnce) {
  auto config = this->small();
  RingCache<TypeParam> cache(config);
  auto model = this->model_of(config);
  for (Index n : {0, 1, 3, 1, 1, 30, 30}) {
    model.add(cache, n);
    const Index size = model.size(), sinks = std::min<Index>(5, size);
    EXPECT_EQ(cache.sinks(0).retained(0), Ranges(Range{0, sinks}));
    EXPECT_EQ(cache.recent(0).retained(0), Ranges(Range{sinks, size}));
    EXPECT_EQ(cache.layer(0).retained(0), Ranges(Range{0, size}));
  }
}

TYPED_TEST(Ring, RecentTokensBeginWhereTheSinksEnd) {
  // Not where a packed tile may begin.
  for (Index sinks : {1, 15, 16, 17, 63, 66}) {
    auto config = this->small();
    config.sinks = sinks;
    RingCache<TypeParam> cache(config);
    auto model = this->model_of(config);
    while (model.size() < sinks + 2) model.add(cache, 2);
    for (int round = 0; round < 2; ++round) {
      const auto recent = cache.recent(1), first = cache.sinks(1);
      std::vector<TypeParam> scratch(static_cast<std::size_t>(recent.scratch_bytes()) / sizeof(TypeParam));
      EXPECT_EQ(first.scratch_bytes(), 0);
      for (const auto* view : {&first, &recent}) {
        const Range there = view->retained(0).hull();
        for (Index p = there.begin; p < there.end; ++p)
          for (Index head : {0, 1}) {
            const test::Token token(*view, 0, head, p, scratch.data());
            const Index id = model.tokens[static_cast<std::size_t>(p)];
            for (Index d = 0; d < 7; ++d) ASSERT_EQ(token.k(d), model.value(id, 1, head, d, true)) << p;
            for (Index d = 0; d < 5; ++d) ASSERT_EQ(token.v(d), model.value(id, 1, head, d, false)) << p;
          }
      }
      model.add(cache, 30);
    }
  }
}

TYPED_TEST(Ring, TruncatesAsFarAsWindowsAreThere) {
  auto config = this->small();
  RingCache<TypeParam> cache(config);
  auto model = this->model_of(config);
  for (int i = 0; i < 40; ++i) model.add(cache, 30);
  const Index oldest = cache.oldest_truncation();
  EXPECT_LE(oldest, 1200 - 20);
  EXPECT_GT(oldest, 1200 - 150);
  const Span stale = model.add(cache, 0);
  EXPECT_EQ(invalid([&] { cache.truncate(oldest - 1); }),
            "truncate: n is " + std::to_string(oldest - 1) + ", expected at least " + std::to_string(oldest) +
                ", from where on windows are still there");
  EXPECT_THROW(cache.truncate(6), std::invalid_argument);
  EXPECT_THROW(cache.truncate(-1), std::invalid_argument);
  EXPECT_THROW(cache.truncate(1201), std::invalid_argument);
  cache.write(0, stale, TensorView<const float>(nullptr, 0, 2, 7), TensorView<const float>(nullptr, 0, 2, 5));
  model.expect_in(cache);
  model.truncate(cache, oldest);
  EXPECT_EQ(cache.oldest_truncation(), oldest) << "what was dropped stays so";
  EXPECT_THROW(model.write(cache, 0, stale), std::invalid_argument);
  EXPECT_EQ(cache.layer(0).retained(0).hull().end, oldest);
  model.expect_in(cache);
  model.truncate(cache, 4);
  EXPECT_EQ(cache.layer(0).retained(0), Ranges(Range{0, 4}));
  EXPECT_EQ(cache.oldest_truncation(), 0) << "no more than the sinks: nothing is missing";
  for (int i = 0; i < 20; ++i) model.add(cache, 29);
  model.expect_in(cache);
  model.truncate(cache, 0);
  model.expect_in(cache);
  EXPECT_EQ(cache.bytes(), 0);
  model.add(cache, 30);
  model.expect_in(cache);
}

TYPED_TEST(Ring, CheckpointsBringBackWhatWasDropped) {
  auto config = this->small();
  RingCache<TypeParam> cache(config);
  auto model = this->model_of(config);
  const auto empty = cache.checkpoint();
  for (int i = 0; i < 17; ++i) model.add(cache, 29);
  const auto view = cache.layer(1);
  const auto checkpoint = cache.checkpoint();
  const auto tokens = model.tokens;
  const Ranges there = view.retained(0);
  EXPECT_EQ(checkpoint.size(), 17 * 29);
  EXPECT_EQ(checkpoint.allocated_bytes(), cache.allocated_bytes());
  for (int round = 0; round < 2; ++round) {
    cache.restore(checkpoint);
    model.tokens = tokens;
    const Span stale = model.add(cache, 30);
    for (int i = 0; i < 20 + 100 * round; ++i) model.add(cache, 30);
    cache.restore(checkpoint);
    model.tokens = tokens;
    EXPECT_EQ(view.retained(0), there);
    model.expect_in(cache);
    ASSERT_EQ(model.add(cache, 30).positions, stale.positions);
    EXPECT_THROW(model.write(cache, 0, stale), std::invalid_argument) << "they are other tokens";
    model.expect_in(cache);
    model.add(cache, 1);
    model.truncate(cache, cache.oldest_truncation());
    model.expect_in(cache);
  }
  cache.clear();
  cache.restore(checkpoint);
  model.tokens = tokens;
  model.expect_in(cache);
  cache.restore(empty);
  model.tokens.clear();
  model.expect_in(cache);
  for (int i = 0; i < 30; ++i) model.add(cache, 30);
  model.expect_in(cache);
  cache.truncate(0);
  const auto with_memory = cache.checkpoint();
  model.tokens.clear();
  cache.clear();
  cache.restore(with_memory);
  EXPECT_EQ(cache.allocated_bytes(), 0);
  model.add(cache, 30);
  model.expect_in(cache);
}

TYPED_TEST(Ring, CheckpointsBetweenTheLayersOfAPass) {
  auto config = this->small();
  RingCache<TypeParam> cache(config);
  auto model = this->model_of(config);
  for (int i = 0; i < 20; ++i) model.add(cache, 30);
  const Span open = model.extend(cache, 7);
  model.write(cache, 0, open);
  const auto checkpoint = cache.checkpoint();
  const auto clone = cache.clone();
  EXPECT_EQ(clone.layer(1).retained(0).hull().end, 600);
  const auto tokens = model.tokens;
  model.write(cache, 1, open);
  model.add(cache, 30);
  cache.restore(checkpoint);
  model.tokens = tokens;
  EXPECT_EQ(cache.layer(0).retained(0).hull().end, 607);
  EXPECT_EQ(cache.layer(1).retained(0).hull().end, 600);
  model.truncate(cache, 600);
  model.add(cache, 3);
  model.expect_in(cache);
}

TYPED_TEST(Ring, RefusesCheckpointsOfOtherSizes) {
  auto config = this->small();
  RingCache<TypeParam> cache(config);
  auto model = this->model_of(config);
  for (int i = 0; i < 20; ++i) model.add(cache, 30);
  const auto refused = [&](auto change) {
    auto other = config;
    change(other);
    EXPECT_EQ(invalid([&] { cache.restore(RingCache<TypeParam>(other).checkpoint()); }),
              "restore: the checkpoint is of a cache of other sizes");
  };
  refused([](auto& c) { c.window = 99; });
  refused([](auto& c) { c.sinks = 4; });
  refused([](auto& c) { c.max_span = 31; });
  refused([](auto& c) { c.rollback = 19; });
  refused([](auto& c) { c.max_tokens = 1000; });
  refused([](auto& c) { c.num_layers = 3; });
  refused([](auto& c) { c.num_kv_heads = 1; });
  refused([](auto& c) { c.head_dim = 8; });
  refused([](auto& c) { c.value_dim = 6; });
  model.expect_in(cache);
  auto taken = cache.checkpoint();
  const auto moved = std::move(taken);
  EXPECT_EQ(invalid([&] { cache.restore(taken); }), "restore: the checkpoint was moved from");
  EXPECT_EQ(taken.size(), 0);
  RingCache<TypeParam> twin(config);  // of the same sizes
  twin.restore(moved);
  model.expect_in(twin);
}

TYPED_TEST(Ring, ClonesGoTheirOwnWay) {
  auto config = this->small();
  RingCache<TypeParam> cache(config);
  auto model = this->model_of(config);
  EXPECT_EQ(cache.clone().allocated_bytes(), 0);
  for (int i = 0; i < 33; ++i) model.add(cache, 29);
  auto clone = cache.clone();
  auto other = model;
  other.expect_in(clone);
  EXPECT_EQ(clone.oldest_truncation(), cache.oldest_truncation());
  EXPECT_EQ(clone.window(), 100);
  EXPECT_EQ(clone.num_sinks(), 5);
  const Span span = model.add(cache, 10);
  EXPECT_THROW(model.write(clone, 0, span), std::invalid_argument);
  for (int i = 0; i < 30; ++i) model.add(cache, 30);
  other.expect_in(clone);
  for (int i = 0; i < 7; ++i) other.add(clone, 3);
  other.expect_in(clone);
  model.expect_in(cache);
  cache.truncate(0);
  EXPECT_EQ(cache.clone().allocated_bytes(), 0) << "no tokens, no memory";
}

TYPED_TEST(Ring, ForgetsAndGivesBackOnClear) {
  auto config = this->small();
  RingCache<TypeParam> cache(config);
  auto model = this->model_of(config);
  EXPECT_EQ(cache.allocated_bytes(), 0);
  for (int i = 0; i < 20; ++i) model.add(cache, 30);
  const auto view = cache.layer(0), part = cache.recent(1);
  cache.clear();
  model.tokens.clear();
  EXPECT_EQ(invalid([&] { view.retained(0); }),
            "view: the cache was cleared after the view of layer 0 was taken");
  EXPECT_EQ(invalid([&] {
              part.tile(0, 0, {0, 1}, nullptr);
            }),
            "view: the cache was cleared after the view of layer 1 was taken");
  EXPECT_EQ(cache.allocated_bytes(), 0);
  EXPECT_EQ(cache.size(), 0);
  for (int i = 0; i < 5; ++i) model.add(cache, 30);
  EXPECT_EQ(cache.layer(0).retained(0), Ranges(Range{0, 150})) << "the ring begins anew";
  model.expect_in(cache);
}

TYPED_TEST(Ring, TakesNoMoreThanTheSequenceMayHave) {
  for (Index max_tokens : {0, 1, 63, 64, 65, 200}) {
    for (Index sinks : {0, 1, 64, 70, 300}) {
      typename RingCache<TypeParam>::Config config{.window = 100000,
                                                   .sinks = sinks,
                                                   .max_span = 50,
                                                   .max_tokens = max_tokens,
                                                   .num_kv_heads = 1,
                                                   .head_dim = 16};
      RingCache<TypeParam> cache(config);
      auto model = this->model_of(config);
      while (model.size() < max_tokens) model.add(cache, std::min<Index>(50, max_tokens - model.size()));
      EXPECT_EQ(message_of<std::length_error>([&] { cache.extend(1); }),
                "extend: the cache holds " + std::to_string(max_tokens) + " of at most " +
                    std::to_string(max_tokens) + " tokens, no room for 1");
      model.expect_in(cache);
      EXPECT_EQ(cache.layer(0).retained(0), Ranges(Range{0, max_tokens}));
      EXPECT_EQ(cache.allocated_bytes(), round_up(max_tokens, 64) * cache.bytes_per_token());
      for (Index n = max_tokens; n > 0; n /= 2) model.truncate(cache, n);
      model.expect_in(cache);
    }
  }
}

TYPED_TEST(Ring, SpansThatWaitCountTogether) {
  auto config = this->small();
  RingCache<TypeParam> cache(config);
  auto model = this->model_of(config);
  for (int i = 0; i < 20; ++i) model.add(cache, 30);
  EXPECT_EQ(message_of<std::length_error>([&] { cache.extend(31); }),
            "extend: n is 31 and 0 tokens are not yet written in all layers, expected at most max_span, 30, "
            "in all");
  const Span first = model.extend(cache, 20);
  const Ranges there = cache.layer(0).retained(0);
  EXPECT_EQ(message_of<std::length_error>([&] { cache.extend(11); }),
            "extend: n is 11 and 20 tokens are not yet written in all layers, expected at most max_span, 30, "
            "in all");
  EXPECT_THROW(cache.extend(huge), std::length_error);
  EXPECT_THROW(cache.extend(-1), std::invalid_argument);
  EXPECT_EQ(cache.size(), 620);
  EXPECT_EQ(cache.layer(0).retained(0), there);
  const Span second = model.extend(cache, 10);
  model.write(cache, 0, first);
  EXPECT_THROW(cache.extend(1), std::length_error) << "layer 1 waits";
  EXPECT_THROW(model.write(cache, 1, second), std::invalid_argument) << "a gap";
  model.write(cache, 1, first);
  model.write(cache, 0, second);
  model.write(cache, 1, second);
  model.expect_in(cache);
  model.add(cache, 30);
}

TYPED_TEST(Ring, SpansOfDroppedTokensAreRefused) {
  auto config = this->small();
  RingCache<TypeParam> cache(config);
  auto model = this->model_of(config);
  const Span first = model.add(cache, 30), second = model.add(cache, 30);
  for (int i = 0; i < 12; ++i) model.add(cache, 30);
  model.write(cache, 1, Span{{0, 5}, first.epoch});  // the sinks, written anew
  EXPECT_EQ(invalid([&] { model.write(cache, 0, first); }),
            "span: tokens 0 to 30 are not all kept: of those behind its 5 sinks, layer 0 has 192 to 420");
  EXPECT_THROW(model.write(cache, 0, second), std::invalid_argument);
  model.write(cache, 0, Span{{192, 200}, first.epoch});
  EXPECT_THROW(model.write(cache, 0, Span{{191, 200}, first.epoch}), std::invalid_argument);
  model.expect_in(cache);
}

TYPED_TEST(Ring, ReadsOnlyWhatIsThere) {
  auto config = this->small();
  RingCache<TypeParam> cache(config);
  auto model = this->model_of(config);
  for (int i = 0; i < 14; ++i) model.add(cache, 30);
  std::vector<float> memory(10000, 7);
  const auto read = [&](Index layer, Range r) {
    cache.read(layer, r, TensorView<float>(memory.data(), r.size(), 2, 7),
               TensorView<float>(memory.data() + 7000, r.size(), 2, 5));
  };
  EXPECT_EQ(invalid([&] {
              read(1, {0, 6});
            }),
            "read: tokens 0 to 6 are not all kept: of those behind its 5 sinks, layer 1 has 192 to 420");
  EXPECT_THROW(read(0, {191, 193}), std::invalid_argument);
  EXPECT_THROW(read(0, {3, 200}), std::invalid_argument) << "a hole between";
  EXPECT_THROW(read(0, {419, 421}), std::invalid_argument);
  EXPECT_THROW(read(0, {-1, 1}), std::invalid_argument);
  EXPECT_THROW(read(2, {0, 1}), std::out_of_range);
  EXPECT_THROW(read(-1, {0, 1}), std::out_of_range);
  EXPECT_EQ(memory, std::vector<float>(10000, 7));
  read(0, {0, 5});
  read(0, {192, 420});
  read(0, {100, 100});
  model.extend(cache, 3);
  EXPECT_THROW(read(0, {419, 421}), std::invalid_argument) << "not written yet";
}

TYPED_TEST(Ring, AppendsOneLayer) {
  RingCache<TypeParam> cache({.window = 3, .max_span = 4, .num_kv_heads = 1, .head_dim = 2});
  const std::vector<TypeParam> x(20, TypeParam(2));
  const auto tokens = [&](Index n, Index dim = 2) {
    return TensorView<const TypeParam>(x.data(), n, 1, dim);
  };
  for (int i = 0; i < 100; ++i) EXPECT_EQ(cache.append(tokens(4), tokens(4)).positions.begin, 4 * i);
  EXPECT_EQ(as_kv_view(cache).retained(0).hull().end, 400);
  EXPECT_THROW(cache.append(tokens(5), tokens(5)), std::length_error);
  EXPECT_THROW(cache.append(tokens(2), tokens(1)), std::invalid_argument);
  EXPECT_THROW(cache.append(tokens(2, 1), tokens(2)), std::invalid_argument);
  EXPECT_EQ(cache.size(), 400);
  cache.extend(1);
  EXPECT_THROW(cache.append(tokens(1), tokens(1)), std::invalid_argument) << "a gap";
  EXPECT_EQ(cache.size(), 401);
  RingCache<TypeParam> two({.window = 3, .num_layers = 2, .num_kv_heads = 1, .head_dim = 2});
  EXPECT_EQ(invalid([&] { two.append(tokens(1), tokens(1)); }),
            "append: num_layers is 2, expected 1; use extend and write");
  EXPECT_THROW(as_kv_view(two), std::invalid_argument);
}

TEST(RingMove, TakesTokensSpansAndViewsAlong) {
  RingCache<float, 1, 2> cache({.window = 5, .sinks = 1, .max_span = 3, .num_layers = 2});
  TokenModel<float> model({{1, 2}, {1, 2}});
  for (int i = 0; i < 100; ++i) model.add(cache, 3);
  const auto view = cache.layer(0);
  const Span span = model.extend(cache, 1);
  RingCache<float, 1, 2> moved = std::move(cache);
  model.write(moved, 0, span);
  model.write(moved, 1, span);
  model.expect_in(moved);
  EXPECT_EQ(view.retained(0).hull().end, 301);
  EXPECT_EQ(cache.size() + cache.capacity() + cache.num_layers() + cache.num_kv_heads() + cache.head_dim() +
                cache.value_dim() + cache.window() + cache.num_sinks() + cache.max_span() + cache.bytes() +
                cache.bytes_per_token() + cache.allocated_bytes() + cache.padding_bytes() +
                cache.oldest_truncation(),
            0);
  cache.clear();
  cache.truncate(0);
  EXPECT_EQ(invalid([&] { cache.extend(1); }), "extend: the cache was moved from");
  EXPECT_THROW(cache.layer(0), std::invalid_argument);
  EXPECT_THROW(cache.sinks(0), std::invalid_argument);
  EXPECT_THROW(cache.clone(), std::invalid_argument);
  EXPECT_THROW(cache.checkpoint(), std::invalid_argument);
  EXPECT_THROW(cache.restore(moved.checkpoint()), std::invalid_argument);
  cache = std::move(moved);
  model.expect_in(cache);
  EXPECT_EQ(view.retained(0).hull().end, 301);
  cache = RingCache<float, 1, 2>({.window = 5});
  EXPECT_EQ(invalid([&] { view.retained(0); }),
            "view: the cache was destroyed after the view of layer 0 was taken");
}

TEST(RingConfig, RefusesWhatCannotBe) {
  using Ring = RingCache<float>;
  EXPECT_EQ(invalid([] { Ring({.num_kv_heads = 1, .head_dim = 4}); }), "window is 0, expected at least 1");
  EXPECT_EQ(invalid([] { Ring({.window = 1, .head_dim = 4}); }), "num_kv_heads is -1, expected at least 1");
  EXPECT_EQ(invalid([] { Ring({.window = 1, .num_kv_heads = 4}); }), "head_dim is -1, expected at least 1");
  EXPECT_EQ(invalid([] { Ring({.window = 1, .sinks = -1, .num_kv_heads = 1, .head_dim = 4}); }),
            "sinks is -1, expected at least 0");
  EXPECT_EQ(invalid([] { Ring({.window = 1, .max_span = 0, .num_kv_heads = 1, .head_dim = 4}); }),
            "max_span is 0, expected at least 1");
  EXPECT_EQ(invalid([] { Ring({.window = 1, .rollback = -1, .num_kv_heads = 1, .head_dim = 4}); }),
            "rollback is -1, expected at least 0");
  EXPECT_THROW(Ring({.window = 1, .max_tokens = -1, .num_kv_heads = 1, .head_dim = 4}),
               std::invalid_argument);
  EXPECT_THROW(Ring({.window = 1, .max_tokens = huge, .num_kv_heads = 1, .head_dim = 4}),
               std::invalid_argument);
  EXPECT_THROW(Ring({.window = 1, .num_layers = 0, .num_kv_heads = 1, .head_dim = 4}), std::invalid_argument);
  EXPECT_EQ(invalid([] { RingCache<float, 8, 128>({.window = 1, .num_kv_heads = 4}); }),
            "num_kv_heads is 4, expected 8");
  for (const Ring::Config& config : std::vector<Ring::Config>{
           {.window = huge, .num_kv_heads = 1, .head_dim = 1},
           {.window = huge / 8, .num_kv_heads = 1, .head_dim = 1},
           {.window = 1, .sinks = huge, .num_kv_heads = 1, .head_dim = 1},
           {.window = 1, .num_layers = huge, .num_kv_heads = 2, .head_dim = 1},
           {.window = 1, .num_kv_heads = 1, .head_dim = huge},
           {.window = 1, .num_kv_heads = 1, .head_dim = Index{1} << 55, .value_dim = 1},
       })
    EXPECT_THROW(Ring{config}, std::length_error);
}

}  // namespace
}  // namespace gqa
