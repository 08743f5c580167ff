// SPDX-License-Identifier: Apache-2.0
// What an attention layer refuses, with which words, and that caches are as they were.
#include <gtest/gtest.h>

#include <limits>

#include "gqa/cache.hpp"
#include "gqa/mask.hpp"
#include "layer/layer_case.hpp"
#include "support/message_of.hpp"

namespace gqa {
namespace {

using test::ByRows;
using test::LayerCase;
using test::message_of;

struct LayerRefuses : ::testing::Test {
  LayerCase<float> c{{}};  // 6 query heads and 2 KV heads of 8, 20 dims
  AttentionProjections weights = c.projections();
  AttentionLayerConfig config = c.config();

  std::string message() {
    return message_of([&] { AttentionLayer<>(weights, config); });
  }
};

TEST_F(LayerRefuses, WeightsOfOtherSizes) {
  const ByRows<float> wrong_rows = c.q.topRows(40), wrong_columns = c.k.leftCols(19);
  weights.q.weight = wrong_rows;
  EXPECT_EQ(message(), "AttentionLayer: the q weight has 40 rows, expected 48 = num_q_heads x head_dim");
  weights = c.projections();
  weights.k.weight = wrong_columns;
  EXPECT_EQ(message(), "AttentionLayer: the k weight has 19 columns, expected 20 = model_dim as in q");
  weights = c.projections();
  weights.v.weight = c.q;
  EXPECT_EQ(message(), "AttentionLayer: the v weight has 48 rows, expected 16 = num_kv_heads x value_dim");
  weights = c.projections();
  weights.output.weight = c.q;
  EXPECT_EQ(message(),
            "AttentionLayer: the output weight has 20 columns, expected 48 = num_q_heads x value_dim");
  weights = c.projections();
  weights.k.bias = c.q_bias;
  EXPECT_EQ(message(), "AttentionLayer: the k bias has 48 elements, expected 16 = num_kv_heads x head_dim");
  weights = {};
  EXPECT_EQ(message(), "AttentionLayer: the q weight is missing");
}

TEST_F(LayerRefuses, FusedWeightsOfOtherSizes) {
  weights = {.output = c.projections().output, .qkv = {c.q}};
  EXPECT_EQ(message(), "AttentionLayer: the qkv weight has 48 rows, expected 80 = those of q, k and v");
  weights = c.projections();
  weights.qkv.weight = c.q;
  EXPECT_EQ(message(), "AttentionLayer: q, k or v beside qkv, expected either");
}

TEST_F(LayerRefuses, HeadsThatDoNotGoTogether) {
  config.num_q_heads = 5;
  EXPECT_EQ(
      message(),
      "AttentionLayer: num_q_heads is 5, expected a multiple of the 2 of num_kv_heads, or a HeadGrouping");
  config.num_q_heads = 0;
  EXPECT_EQ(message(), "AttentionLayer: num_q_heads is 0, expected at least 1");
  config = c.config();
  config.grouping = HeadGrouping({0, 1, 0}, 2);
  EXPECT_EQ(message(), "AttentionLayer: the HeadGrouping has 3 query heads and 2 KV heads, expected 6 and 2");
  config = c.config();
  config.q_norm = QKNorm::unweighted(4);
  EXPECT_EQ(message(), "AttentionLayer: head_dim of q_norm is 4, expected 8");
  config = c.config();
  config.rope = Rope({.layout = RopeLayout::half, .head_dim = 6});
  EXPECT_EQ(message(), "AttentionLayer: head_dim of rope is 6, expected 8");
  config = c.config();
  config.head_dim = std::numeric_limits<Index>::max() / 2;
  EXPECT_EQ(message_of<std::length_error>([&] { AttentionLayer<>(weights, config); }),
            "AttentionLayer: the size 6 * 4611686018427387903 overflows");
}

TEST_F(LayerRefuses, DoubleInALayerOfFloat) {
  const LayerCase<double> wide({});
  EXPECT_EQ(
      message_of([&] { AttentionLayer<float>(wide.projections(), wide.config()); }),
      "AttentionLayer: the q projection is of f64 and f64, expected f64 in a layer of double and no f64 in "
      "one of float");
  EXPECT_EQ(message_of([&] { AttentionLayer<double>(weights, config); }).substr(0, 49),
            "AttentionLayer: the q projection is of f32 and f3");
}

struct ForwardRefuses : LayerRefuses {
  AttentionLayer<> layer = c.layer();
  LayerMemory<> memory;
  KVCache<float> cache{{.max_tokens = 10, .num_kv_heads = 2, .head_dim = 8}};
  ByRows<float> x = test::matrix<float>(4, 20, 1), y = ByRows<float>::Constant(4, 20, 7);

  void TearDown() override {
    EXPECT_EQ(cache.size(), 0) << "the cache has changed";
    EXPECT_TRUE((y.array() == 7).all()) << "y has changed";
  }
  template <class... A>
  std::string message(A&&... arguments) {
    return message_of([&] { layer.forward(Serial{}, memory, arguments...); });
  }
};

TEST_F(ForwardRefuses, TokensOfOtherSizes) {
  EXPECT_EQ(message(x.leftCols(19), cache, y, causal()),
            "x: columns is 19, expected the 20 of the layer's weights");
  EXPECT_EQ(message(x, cache, y.topRows(3), causal()), "y: sizes are 3 x 20, expected 4 x 20");
  const ByRows<double> wide = x.cast<double>();
  EXPECT_EQ(message(wide, cache, y, causal()),
            "x: elements are f64, expected f64 in a layer of double and no f64 in one of float");
}

TEST_F(ForwardRefuses, CachesThatDoNotFit) {
  KVCache<float> other({.max_tokens = 10, .num_kv_heads = 3, .head_dim = 8});
  EXPECT_EQ(message(x, other, y, causal()), "k: heads is 2, expected 3");
  EXPECT_EQ(other.size(), 0);
  KVCache<float> two({.max_tokens = 10, .num_layers = 2, .num_kv_heads = 2, .head_dim = 8});
  EXPECT_EQ(message(x, two, y, causal()), "cache: num_layers is 2, expected 1; give the layer and a span");
  const ByRows<float> many = test::matrix<float>(11, 20, 1);
  ByRows<float> out(11, 20);
  EXPECT_NE(
      message_of<std::length_error>([&] { layer.forward(Serial{}, memory, many, cache, out, causal()); }),
      "nothing thrown");
  const Span span = cache.extend(3);
  EXPECT_EQ(message(x, cache, Index{0}, span, y, causal()),
            "x: rows is 4, expected the 3 tokens of the span");
  cache.truncate(0);
}

TEST_F(ForwardRefuses, MasksThatHaveNoAnswer) {
  // They are asked when the keys are there already: the cache forgets them.
  const std::vector<Index> ids(3);
  EXPECT_NE(message(x, cache, y, document(ids)), "nothing thrown");
}

TEST_F(ForwardRefuses, OutputsInTheWeights) {
  ByRows<float> square = test::matrix<float>(48, 20, 3);
  weights.q.weight = square;
  layer = AttentionLayer<>(weights, config);
  EXPECT_EQ(message(x, cache, square.topRows(4), causal()),
            "y: shares memory with the q projection, expected memory of its own");
}

TEST_F(ForwardRefuses, BatchesThatDoNotFit) {
  PagedCache<float> pages({.num_pages = 4, .max_tokens = 20, .num_kv_heads = 2, .head_dim = 8});
  const std::vector<SequenceId> ids = {pages.create(), pages.create()};
  const std::vector<Index> offsets = {0, 1, 4}, short_of = {0, 1, 3};
  std::vector<Span> spans = {pages.extend(ids[0], 1), pages.extend(ids[1], 3)};
  const auto refused = [&](const LayerBatch& batch) {
    return message(x, pages, Index{0}, batch, y, causal());
  };
  EXPECT_EQ(refused({short_of, spans, ids}), "x: offsets end at 3, expected the 4 rows of x");
  EXPECT_EQ(refused({offsets, spans}), "ids: size is 0, expected 2, one a sequence of x");
  EXPECT_EQ(refused({offsets, std::span(spans).first(1), ids}),
            "spans: size is 1, expected the 2 sequences of x");
  std::swap(spans[0], spans[1]);
  EXPECT_EQ(refused({offsets, spans, ids}),
            "spans: span 0 has 3 tokens, expected the 1 of its sequence in x");
}

}  // namespace
}  // namespace gqa
