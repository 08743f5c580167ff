// SPDX-License-Identifier: Apache-2.0
// What a cache refuses, in which words, and that a refusal changes nothing.
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "gqa/kv/cache.hpp"
#include "kv/cache_reader.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

using test::message_of;

constexpr Index huge = std::numeric_limits<Index>::max();

template <class F>
std::string invalid(F&& f) {
  return message_of<std::invalid_argument>(f);
}

/// A cache of 2 layers, 2 heads, 3 key and 4 value dims with 5 of at most 8 tokens, and what it looked like.
class BadInput : public ::testing::Test {
 protected:
  using Cache = KVCache<bfloat16>;
  Cache cache{{.max_tokens = 8, .num_layers = 2, .num_kv_heads = 2, .head_dim = 3, .value_dim = 4}};
  std::vector<float> memory = test::random_values<float>(1, 1000);
  Span five = cache.extend(5);

  TensorView<const float> k(Index tokens, Index heads = 2, Index dim = 3) const {
    return {memory.data(), tokens, heads, dim};
  }
  TensorView<const float> v(Index tokens, Index heads = 2, Index dim = 4) const {
    return {memory.data() + 500, tokens, heads, dim};
  }

  BadInput() {
    for (Index layer : {0, 1}) cache.write(layer, five, k(5), v(5));
    before = contents();
  }

  std::vector<float> contents() const {
    std::vector<float> all = {static_cast<float>(cache.size()), static_cast<float>(cache.allocated_bytes())};
    for (Index layer : {0, 1}) {
      const auto view = cache.layer(layer);
      all.push_back(static_cast<float>(view.retained(0).end));
      for (Index head : {0, 1}) {
        for (Index t = 0; t < view.retained(0).end; ++t) {
          const test::Token token(view, 0, head, t);
          for (Index d = 0; d < 3; ++d) all.push_back(static_cast<float>(token.k(d)));
          for (Index d = 0; d < 4; ++d) all.push_back(static_cast<float>(token.v(d)));
        }
      }
    }
    return all;
  }

  std::vector<float> before;
};

TEST_F(BadInput, ExtendPastTheCapacity) {
  EXPECT_EQ(message_of<std::length_error>([&] { cache.extend(4); }),
            "extend: the cache holds 5 of at most 8 tokens, no room for 4");
  EXPECT_THROW(cache.extend(huge), std::length_error);
  EXPECT_EQ(contents(), before);
  EXPECT_EQ(cache.extend(3).positions, (Range{5, 8}));
  EXPECT_THROW(cache.extend(1), std::length_error);
  EXPECT_EQ(cache.extend(0).positions, (Range{8, 8}));
}

TEST_F(BadInput, ExtendByANegativeNumber) {
  EXPECT_EQ(invalid([&] { cache.extend(-1); }), "extend: n is -1, expected at least 0");
  EXPECT_THROW(cache.extend(std::numeric_limits<Index>::min()), std::invalid_argument);
  EXPECT_EQ(contents(), before);
}

TEST_F(BadInput, WriteOfOtherSizes) {
  const Span span = cache.extend(2);
  before = contents();
  EXPECT_EQ(invalid([&] { cache.write(0, span, k(3), v(2)); }), "k: tokens is 3, expected 2");
  EXPECT_EQ(invalid([&] { cache.write(0, span, k(2), v(1)); }), "v: tokens is 1, expected 2");
  EXPECT_EQ(invalid([&] { cache.write(0, span, k(2, 1), v(2)); }), "k: heads is 1, expected 2");
  EXPECT_EQ(invalid([&] { cache.write(0, span, k(2), v(2, 4)); }), "v: heads is 4, expected 2");
  EXPECT_EQ(invalid([&] { cache.write(0, span, k(2, 2, 4), v(2)); }), "k: dim is 4, expected 3");
  EXPECT_EQ(invalid([&] { cache.write(0, span, k(2), v(2, 2, 3)); }), "v: dim is 3, expected 4");
  EXPECT_EQ(invalid([&] { cache.write(0, span, TensorView<const float>(memory.data(), 2, 2, 2, 3), v(2)); }),
            "k: batch is 2, expected 1");
  EXPECT_EQ(contents(), before);
}

TEST_F(BadInput, WriteToAnAbsentLayer) {
  EXPECT_EQ(message_of<std::out_of_range>([&] { cache.write(2, five, k(5), v(5)); }),
            "layer is 2, expected less than 2");
  EXPECT_THROW(cache.write(-1, five, k(5), v(5)), std::out_of_range);
  EXPECT_THROW(cache.layer(2), std::out_of_range);
  EXPECT_THROW(cache.layer(-1), std::out_of_range);
  EXPECT_EQ(contents(), before);
}

TEST_F(BadInput, WritePastWhatWasExtended) {
  const Span invented{{5, 7}, five.epoch};
  EXPECT_EQ(invalid([&] { cache.write(0, invented, k(2), v(2)); }),
            "span: tokens 5 to 7 are not, or no longer, among the 5 of the cache");
  EXPECT_THROW(cache.write(0, {{-1, 1}, five.epoch}, k(2), v(2)), std::invalid_argument);
  EXPECT_THROW(cache.write(0, {{4, 2}, five.epoch}, k(0), v(0)), std::invalid_argument);
  EXPECT_EQ(contents(), before);
}

TEST_F(BadInput, WriteThatLeavesAGap) {
  cache.extend(1);
  const Span second = cache.extend(2);
  EXPECT_EQ(invalid([&] { cache.write(1, second, k(2), v(2)); }),
            "span: begins at token 6, but layer 1 is written up to 5");
  EXPECT_EQ(cache.layer(1).retained(0), (Range{0, 5}));
}

TEST_F(BadInput, SpansOfBeforeATruncation) {
  cache.truncate(4);
  before = contents();
  EXPECT_EQ(invalid([&] { cache.write(0, five, k(5), v(5)); }),
            "span: tokens 0 to 5 are not, or no longer, among the 4 of the cache");
  cache.extend(3);  // the positions are there again, but they are other tokens
  EXPECT_THROW(cache.write(0, five, k(5), v(5)), std::invalid_argument);
  cache.truncate(4);
  EXPECT_EQ(contents(), before);
}

TEST_F(BadInput, SpansOfBeforeAClear) {
  cache.clear();
  cache.extend(5);
  EXPECT_THROW(cache.write(0, five, k(5), v(5)), std::invalid_argument);
}

TEST_F(BadInput, TruncateToMoreThanThereIs) {
  EXPECT_EQ(invalid([&] { cache.truncate(6); }), "truncate: n is 6, expected 0 to the 5 tokens there are");
  EXPECT_THROW(cache.truncate(-1), std::invalid_argument);
  EXPECT_THROW(cache.truncate(huge), std::invalid_argument);
  EXPECT_EQ(contents(), before);
  cache.truncate(5);  // nothing to forget: spans stay good
  cache.write(0, five, k(5), v(5));
  EXPECT_EQ(contents(), before);
}

TEST_F(BadInput, ViewsOfBeforeAClear) {
  const auto view = cache.layer(1);
  cache.clear();
  EXPECT_EQ(invalid([&] { view.retained(0); }),
            "view: the cache was cleared after the view of layer 1 was taken");
  EXPECT_EQ(cache.layer(1).retained(0), (Range{0, 0}));
  cache.extend(2);
  EXPECT_THROW(view.retained(0), std::invalid_argument);
}

TEST_F(BadInput, AppendNeedsOneLayer) {
  EXPECT_EQ(invalid([&] { cache.append(k(1), v(1)); }),
            "append: num_layers is 2, expected 1; use extend and write");
  EXPECT_EQ(invalid([&] { as_kv_view(cache); }), "cache: num_layers is 2, expected 1; use cache.layer(i)");
  EXPECT_EQ(contents(), before);
}

TEST(BadAppend, ChangesNothing) {
  KVCache<half> cache({.max_tokens = 3, .num_kv_heads = 2, .head_dim = 3});
  const std::vector<half> memory(100);
  const auto tensor = [&](Index tokens, Index heads, Index dim) {
    return TensorView<const half>(memory.data(), tokens, heads, dim);
  };
  cache.append(tensor(2, 2, 3), tensor(2, 2, 3));
  EXPECT_THROW(cache.append(tensor(2, 2, 3), tensor(2, 2, 3)), std::length_error);
  EXPECT_THROW(cache.append(tensor(1, 2, 3), tensor(2, 2, 3)), std::invalid_argument);
  EXPECT_THROW(cache.append(tensor(1, 2, 3), tensor(1, 1, 3)), std::invalid_argument);
  EXPECT_THROW(cache.append(tensor(1, 2, 4), tensor(1, 2, 3)), std::invalid_argument);
  EXPECT_THROW(cache.append(TensorView<const half>(memory.data(), 2, 1, 2, 3), tensor(1, 2, 3)),
               std::invalid_argument);
  EXPECT_EQ(cache.size(), 2);
  EXPECT_EQ(cache.layer(0).retained(0), (Range{0, 2}));
  EXPECT_NO_THROW(cache.append(tensor(1, 2, 3), tensor(1, 2, 3)));
}

TEST(BadAppend, AfterTokensThatAreNotWrittenChangesNothing) {
  KVCache<float> cache({.max_tokens = 2000, .num_kv_heads = 1, .head_dim = 1});
  cache.extend(3);
  const std::vector<float> memory(1000);
  const TensorView<const float> many(memory.data(), 1000, 1, 1);
  const Index allocated = cache.allocated_bytes();
  EXPECT_EQ(invalid([&] { cache.append(many, many); }),
            "span: begins at token 3, but layer 0 is written up to 0");
  EXPECT_EQ(cache.size(), 3);
  EXPECT_EQ(cache.allocated_bytes(), allocated);
}

TEST(BadConfig, MissingZeroAndNegativeSizes) {
  using Cache = KVCache<float>;
  EXPECT_EQ(invalid([] { Cache({.max_tokens = 1, .head_dim = 4}); }),
            "num_kv_heads is -1, expected at least 1");
  EXPECT_EQ(invalid([] { Cache({.max_tokens = 1, .num_kv_heads = 4}); }),
            "head_dim is -1, expected at least 1");
  EXPECT_EQ(invalid([] { Cache({.max_tokens = 1, .num_kv_heads = 0, .head_dim = 4}); }),
            "num_kv_heads is 0, expected at least 1");
  EXPECT_EQ(invalid([] { Cache({.max_tokens = 1, .num_kv_heads = 1, .head_dim = 4, .value_dim = 0}); }),
            "value_dim is 0, expected at least 1");
  EXPECT_EQ(invalid([] { Cache({.max_tokens = 1, .num_layers = 0, .num_kv_heads = 1, .head_dim = 4}); }),
            "num_layers is 0, expected at least 1");
  EXPECT_EQ(invalid([] { Cache({.max_tokens = -1, .num_kv_heads = 1, .head_dim = 4}); }),
            "max_tokens is -1, expected at least 0");
}

TEST(BadConfig, SizesThatContradictTheStaticOnes) {
  using Cache = KVCache<float, 8, 128>;
  EXPECT_EQ(invalid([] { Cache({.max_tokens = 1, .num_kv_heads = 4}); }), "num_kv_heads is 4, expected 8");
  EXPECT_EQ(invalid([] { Cache({.max_tokens = 1, .head_dim = 64}); }), "head_dim is 64, expected 128");
  EXPECT_EQ(invalid([] { Cache({.max_tokens = 1, .value_dim = 64}); }), "value_dim is 64, expected 128");
}

TEST(BadConfig, SizesThatOverflow) {
  using Cache = KVCache<half>;
  const Index large = Index{1} << 31;
  for (const Cache::Config& config : std::vector<Cache::Config>{
           {.max_tokens = huge, .num_kv_heads = 1, .head_dim = 1},
           {.max_tokens = huge / 4 + 1, .num_kv_heads = 1, .head_dim = 1},
           {.max_tokens = 1, .num_layers = huge, .num_kv_heads = 2, .head_dim = 1},
           {.max_tokens = 1, .num_layers = large, .num_kv_heads = large, .head_dim = 1},
           {.max_tokens = large, .num_layers = large, .num_kv_heads = 1, .head_dim = 1},
           {.max_tokens = 1, .num_kv_heads = huge, .head_dim = 1},
           {.max_tokens = 1, .num_kv_heads = 1, .head_dim = huge},
           {.max_tokens = 1, .num_kv_heads = 1, .head_dim = 1, .value_dim = huge},
           {.max_tokens = 0, .num_kv_heads = 1, .head_dim = huge - 1, .value_dim = 1},
           // One token fits, a tile of 64 does not.
           {.max_tokens = 1, .num_kv_heads = 1, .head_dim = Index{1} << 61, .value_dim = 1},
           {.max_tokens = 1, .num_kv_heads = 1, .head_dim = 1, .value_dim = Index{1} << 61},
           {.max_tokens = 1, .num_kv_heads = 1, .head_dim = Index{1} << 53, .value_dim = 1},
       }) {
    EXPECT_THROW(Cache{config}, std::length_error)
        << config.max_tokens << " x " << config.num_layers << " x " << config.num_kv_heads << " x ("
        << config.head_dim << " + " << config.value_dim << ")";
  }
}

}  // namespace
}  // namespace gqa
