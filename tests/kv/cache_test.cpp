// SPDX-License-Identifier: Apache-2.0
// What is written to a cache is what its views show, in every dtype, however it was cut into spans.
#include "gqa/kv/cache.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "kv/cache_reader.hpp"
#include "support/random.hpp"
#include "support/scalars.hpp"

namespace gqa {
namespace {

using test::random_values;
using test::Token;

/// Random keys and values of tokens for every layer, written to a cache and compared with it.
template <class T, class Input = T>
class Model {
 public:
  Model(Index layers, Index heads, Index dim, Index value_dim, Index tokens)
      : layers_(layers), heads_(heads), dim_(dim), value_dim_(value_dim) {
    for (Index layer = 0; layer < layers; ++layer) {
      k_.push_back(random_values<Input>(static_cast<std::uint64_t>(2 * layer + 1), tokens * heads * dim));
      v_.push_back(
          random_values<Input>(static_cast<std::uint64_t>(2 * layer + 2), tokens * heads * value_dim));
    }
  }

  TensorView<const Input> k(Index layer, Index begin, Index tokens) const {
    return {k_[static_cast<std::size_t>(layer)].data() + begin * heads_ * dim_, tokens, heads_, dim_};
  }
  TensorView<const Input> v(Index layer, Index begin, Index tokens) const {
    return {v_[static_cast<std::size_t>(layer)].data() + begin * heads_ * value_dim_, tokens, heads_,
            value_dim_};
  }

  /// Extends by n tokens and writes them in every layer.
  template <class Cache>
  Span add(Cache& cache, Index n) const {
    const Span span = cache.extend(n);
    for (Index layer = 0; layer < layers_; ++layer)
      cache.write(layer, span, k(layer, span.positions.begin, n), v(layer, span.positions.begin, n));
    return span;
  }

  /// The first `tokens` of the cache are the model's, converted to T.
  template <class Cache>
  void expect_in(const Cache& cache, Index tokens) const {
    ASSERT_EQ(cache.size(), tokens);
    for (Index layer = 0; layer < layers_; ++layer) {
      const auto view = cache.layer(layer);
      ASSERT_EQ(view.retained(0), (Range{0, tokens}));
      for (Index head = 0; head < heads_; ++head) {
        for (Index t = 0; t < tokens; ++t) {
          const Token token(view, 0, head, t);
          ASSERT_EQ(token.tile().layout, TileLayout::packed);
          for (Index d = 0; d < dim_; ++d)
            ASSERT_EQ(token.k(d), rounded_to<T>(k(layer, t, 1).at(0, 0, head)[d]))
                << "k of layer " << layer << ", head " << head << ", token " << t << ", dim " << d;
          for (Index d = 0; d < value_dim_; ++d)
            ASSERT_EQ(token.v(d), rounded_to<T>(v(layer, t, 1).at(0, 0, head)[d]))
                << "v of layer " << layer << ", head " << head << ", token " << t << ", dim " << d;
        }
      }
    }
  }

 private:
  Index layers_, heads_, dim_, value_dim_;
  std::vector<std::vector<Input>> k_, v_;
};

template <class T>
class Cache : public ::testing::Test {};
using Scalars = test::AllScalars;
TYPED_TEST_SUITE(Cache, Scalars);

TYPED_TEST(Cache, HoldsWhatIsWritten) {
  const Model<TypeParam> model(3, 2, 7, 5, 200);
  KVCache<TypeParam> cache(
      {.max_tokens = 200, .num_layers = 3, .num_kv_heads = 2, .head_dim = 7, .value_dim = 5});
  Index tokens = 0;
  for (Index n : {1, 1, 2, 3, 0, 57, 1, 63, 64, 8}) {
    const Span span = model.add(cache, n);
    EXPECT_EQ(span.positions, (Range{tokens, tokens + n}));
    EXPECT_EQ(span.size(), n);
    tokens += n;
    model.expect_in(cache, tokens);
  }
  EXPECT_EQ(tokens, 200);
}

TYPED_TEST(Cache, HoldsItInEveryShape) {
  for (Index dim : {1, 2, 16, 65}) {
    for (Index value_dim : {1, 17, 64}) {
      const Model<TypeParam> model(1, 1, dim, value_dim, 600);
      KVCache<TypeParam> cache(
          {.max_tokens = 600, .num_layers = 1, .num_kv_heads = 1, .head_dim = dim, .value_dim = value_dim});
      model.add(cache, 511);  // into the second slab of 512
      model.add(cache, 89);
      model.expect_in(cache, 600);
    }
  }
}

TYPED_TEST(Cache, LayersAreWrittenApart) {
  const Model<TypeParam> model(2, 2, 3, 3, 20);
  KVCache<TypeParam> cache({.max_tokens = 64, .num_layers = 2, .num_kv_heads = 2, .head_dim = 3});
  model.add(cache, 10);
  const Span span = cache.extend(10);
  EXPECT_EQ(cache.size(), 20);
  cache.write(1, span, model.k(1, 10, 10), model.v(1, 10, 10));
  EXPECT_EQ(cache.layer(0).retained(0), (Range{0, 10})) << "tokens that are not written yet cannot be read";
  EXPECT_EQ(cache.layer(1).retained(0), (Range{0, 20}));
  cache.write(0, span, model.k(0, 10, 10), model.v(0, 10, 10));
  model.expect_in(cache, 20);
}

TYPED_TEST(Cache, SpansAreWrittenInPieces) {
  const Model<TypeParam> model(1, 2, 4, 6, 70);
  KVCache<TypeParam> cache({.max_tokens = 70, .num_kv_heads = 2, .head_dim = 4, .value_dim = 6});
  const Span all = cache.extend(70);
  for (Index begin = 0; begin < 70; begin += 7)
    cache.write(0, {{begin, begin + 7}, all.epoch}, model.k(0, begin, 7), model.v(0, begin, 7));
  model.expect_in(cache, 70);
}

TYPED_TEST(Cache, RewritingASpanKeepsTheTokensAfterIt) {
  const Model<TypeParam> model(1, 1, 4, 4, 12);
  KVCache<TypeParam> cache({.max_tokens = 12, .num_kv_heads = 1, .head_dim = 4});
  const Span first = model.add(cache, 3);
  model.add(cache, 9);
  cache.write(0, first, model.k(0, 0, 3), model.v(0, 0, 3));
  model.expect_in(cache, 12);
}

TYPED_TEST(Cache, TruncatedTokensAreReplaced) {
  const Model<TypeParam> model(2, 2, 5, 5, 700), other(2, 2, 6, 5, 1);
  KVCache<TypeParam> cache({.max_tokens = 700, .num_layers = 2, .num_kv_heads = 2, .head_dim = 5});
  model.add(cache, 700);
  for (Index keep : {699, 640, 513, 512, 511, 65, 64, 63, 2, 1, 0}) {
    cache.truncate(keep);
    model.expect_in(cache, keep);
    model.add(cache, 1);
    model.expect_in(cache, keep + 1);
  }
}

TYPED_TEST(Cache, AnOddLastTokenHasAZeroBesideIt) {
  // Kernels multiply the second half of its pair by 0.
  const Model<TypeParam> model(2, 2, 3, 20, 64);
  KVCache<TypeParam> cache(
      {.max_tokens = 64, .num_layers = 2, .num_kv_heads = 2, .head_dim = 3, .value_dim = 20});
  const auto expect_partner_zero = [&] {
    if constexpr (element_group<TypeParam> == 2) {
      for (Index layer = 0; layer < 2; ++layer) {
        for (Index head = 0; head < 2; ++head) {
          const Token last(cache.layer(layer), 0, head, cache.size() - 1);
          for (Index c = 0; c < 32; ++c) ASSERT_EQ((&last.v(c))[1], TypeParam{}) << cache.size() << ", " << c;
          for (Index c = 20; c < 32; ++c) ASSERT_EQ(last.v(c), TypeParam{});
        }
      }
    }
  };
  model.add(cache, 33);
  expect_partner_zero();
  model.add(cache, 30);
  expect_partner_zero();
  model.add(cache, 1);
  cache.truncate(51);
  expect_partner_zero();
  cache.truncate(7);
  expect_partner_zero();
}

TEST(CacheOf16Bits, AnOddLastDimHasAZeroBesideIt) {
  const Model<bfloat16> model(1, 1, 7, 7, 64);
  KVCache<bfloat16> cache({.max_tokens = 64, .num_kv_heads = 1, .head_dim = 7});
  model.add(cache, 64);
  for (Index t = 0; t < 64; ++t) EXPECT_EQ((&Token(cache.layer(0), 0, 0, t).k(6))[1], bfloat16{});
}

TEST(CacheOf16Bits, ItDoesHoweverFewTokensAreWritten) {
  const Model<bfloat16> same(1, 1, 7, 7, 64);
  const Model<bfloat16, float> converted(1, 1, 7, 7, 64);
  for (Index n : {1, 2, 3, 5}) {
    KVCache<bfloat16> cache({.max_tokens = 64, .num_kv_heads = 1, .head_dim = 7});
    const Span all = same.add(cache, 64);
    const auto tile = cache.layer(0).tile(0, 0, {0, 64}, nullptr);
    const auto write = [&](const auto& model) {
      auto* keys = const_cast<bfloat16*>(tile.k.as<bfloat16>());  // memory is not 0 when it is taken
      std::fill_n(keys, 8 * 64, std::numeric_limits<bfloat16>::quiet_NaN());
      for (Index begin = 0; begin < 64; begin += n) {
        const Index size = std::min(n, 64 - begin);
        cache.write(0, {{begin, begin + size}, all.epoch}, model.k(0, begin, size), model.v(0, begin, size));
      }
      for (Index t = 0; t < 64; ++t)
        EXPECT_EQ((&Token(cache.layer(0), 0, 0, t).k(6))[1], bfloat16{}) << t << ", by " << n;
    };
    write(same);
    write(converted);
  }
}

TEST(CacheConversion, FloatAndDoubleInto16Bits) {
  const Model<bfloat16, float> to_bf16(1, 3, 9, 9, 40);
  KVCache<bfloat16> bf16({.max_tokens = 40, .num_kv_heads = 3, .head_dim = 9});
  to_bf16.add(bf16, 40);
  to_bf16.expect_in(bf16, 40);
  const Model<half, double> to_f16(1, 3, 9, 9, 40);
  KVCache<half> f16({.max_tokens = 40, .num_kv_heads = 3, .head_dim = 9});
  to_f16.add(f16, 40);
  to_f16.expect_in(f16, 40);
  const Model<float, bfloat16> to_f32(1, 3, 9, 9, 40);
  KVCache<float> f32({.max_tokens = 40, .num_kv_heads = 3, .head_dim = 9});
  to_f32.add(f32, 40);
  to_f32.expect_in(f32, 40);
}

// Whole pairs of tokens, runs of 16 and what is left of either side go different ways.
template <class T>
void expect_floats_wherever_a_span_begins() {
  for (Index dim : {7, 40}) {
    const Model<T, float> model(1, 2, dim, dim + 9, 260);
    KVCache<T> cache({.max_tokens = 260, .num_kv_heads = 2, .head_dim = dim, .value_dim = dim + 9});
    Index tokens = 0;
    for (Index n : {1, 6, 5, 4, 21, 17, 16, 1, 64, 3, 122}) {
      model.add(cache, n);
      model.expect_in(cache, tokens += n);
    }
  }
}
TEST(CacheConversion, FloatsWhereverASpanBegins) {
  expect_floats_wherever_a_span_begins<half>();
  expect_floats_wherever_a_span_begins<bfloat16>();
}

TEST(CacheConversion, RoundsDoublesOnce) {
  // Just above the middle of two neighbours, by less than a float can tell: by way of a float, a tie, to the
  // even one below.
  const double x = 1 + 0x1p-11 + 0x1p-40, y = 1 + 0x1p-8 + 0x1p-40;
  KVCache<half> f16({.max_tokens = 1, .num_kv_heads = 1, .head_dim = 1});
  f16.append(TensorView<const double>(&x, 1, 1, 1), TensorView<const double>(&x, 1, 1, 1));
  const test::Token of_f16(f16.layer(0), 0, 0, 0);
  EXPECT_EQ(static_cast<double>(of_f16.k(0)), 1 + 0x1p-10);
  EXPECT_EQ(static_cast<double>(of_f16.v(0)), 1 + 0x1p-10);
  KVCache<bfloat16> bf16({.max_tokens = 1, .num_kv_heads = 1, .head_dim = 1});
  bf16.append(TensorView<const double>(&y, 1, 1, 1), TensorView<const double>(&y, 1, 1, 1));
  const test::Token of_bf16(bf16.layer(0), 0, 0, 0);
  EXPECT_EQ(static_cast<double>(of_bf16.k(0)), 1 + 0x1p-7);
  EXPECT_EQ(static_cast<double>(of_bf16.v(0)), 1 + 0x1p-7);
}

TEST(CacheTensors, RowAndColumnMajorAndStrided) {
  const Index N = 5, G = 2, D = 3;
  const Model<float> model(1, G, D, D, N);
  Eigen::Tensor<float, 3, Eigen::RowMajor> k(N, G, D);
  Eigen::Tensor<float, 3> v(D, G, N);
  std::vector<float> heads_first(static_cast<std::size_t>(N * G * D));
  for (Index t = 0; t < N; ++t) {
    for (Index h = 0; h < G; ++h) {
      for (Index d = 0; d < D; ++d) {
        k(t, h, d) = model.k(0, t, 1).at(0, 0, h)[d];
        v(d, h, t) = model.v(0, t, 1).at(0, 0, h)[d];
        heads_first[static_cast<std::size_t>((h * N + t) * D + d)] = v(d, h, t);
      }
    }
  }
  KVCache<float, 2, 3> cache({.max_tokens = 10});
  cache.append(k, v);
  model.expect_in(cache, N);
  cache.clear();
  cache.append(Eigen::TensorMap<const Eigen::Tensor<float, 3, Eigen::RowMajor>>(k.data(), N, G, D),
               TensorView<const float>(heads_first.data(), {1, N, G, D}, {0, D, N * D}));
  model.expect_in(cache, N);
}

TEST(CacheViews, SeeTheCacheGrowAndShrink) {
  const Model<float> model(1, 1, 2, 2, 8);
  KVCache<float> cache({.max_tokens = 8, .num_kv_heads = 1, .head_dim = 2});
  const auto view = cache.layer(0);
  EXPECT_EQ(view.retained(0), (Range{0, 0}));
  model.add(cache, 5);
  EXPECT_EQ(view.retained(0), (Range{0, 5}));
  cache.truncate(2);
  EXPECT_EQ(view.retained(0), (Range{0, 2}));
  static_assert(KVView<KVCache<float>::View>);
  EXPECT_EQ(view.num_seqs(), 1);
  EXPECT_EQ(view.num_kv_heads(), 1);
  EXPECT_EQ(view.head_dim(), 2);
  EXPECT_EQ(view.value_dim(), 2);
}

TEST(CacheViews, TilesEndWhereWantDoes) {
  const Model<float> model(1, 1, 2, 2, 100);
  KVCache<float> cache({.max_tokens = 100, .num_kv_heads = 1, .head_dim = 2});
  model.add(cache, 100);
  EXPECT_EQ(cache.layer(0).tile(0, 0, {0, 64}, nullptr).size, 64);
  EXPECT_EQ(cache.layer(0).tile(0, 0, {64, 100}, nullptr).size, 36);
  EXPECT_EQ(cache.layer(0).tile(0, 0, {80, 96}, nullptr).size, 16);
  EXPECT_EQ(cache.layer(0).tile(0, 0, {80, 96}, nullptr).k.as<float>(),
            cache.layer(0).tile(0, 0, {64, 100}, nullptr).k.as<float>() + 16);
}

TEST(CacheSizes, StaticOnesNeedNotBeGiven) {
  const KVCache<half, 8, 128> both({.max_tokens = 4});
  EXPECT_EQ(both.num_kv_heads(), 8);
  EXPECT_EQ(both.head_dim(), 128);
  EXPECT_EQ(both.value_dim(), 128);
  EXPECT_EQ(both.num_layers(), 1);
  const KVCache<half, 8, 128, 64> values({.max_tokens = 4, .num_layers = 3});
  EXPECT_EQ(values.value_dim(), 64);
  EXPECT_EQ(values.num_layers(), 3);
  const KVCache<half, Dynamic, 16> mixed({.max_tokens = 4, .num_kv_heads = 5});
  EXPECT_EQ(mixed.num_kv_heads(), 5);
  const KVCache<half> none({.max_tokens = 4, .num_kv_heads = 5, .head_dim = 6});
  EXPECT_EQ(none.value_dim(), 6);
}

TEST(CacheMove, TakesTheTokensAlong) {
  const Model<float> model(1, 1, 2, 2, 9);
  KVCache<float> cache({.max_tokens = 9, .num_kv_heads = 1, .head_dim = 2});
  model.add(cache, 5);
  KVCache<float> moved = std::move(cache);
  model.add(moved, 4);
  model.expect_in(moved, 9);
}

}  // namespace
}  // namespace gqa
