// SPDX-License-Identifier: Apache-2.0
// What a batch cache refuses, in which words, and that a refusal changes nothing of any sequence.
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "gqa/kv/batch.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

using test::message_of;

constexpr Index huge = std::numeric_limits<Index>::max();

template <class F>
std::string invalid(F&& f) {
  return message_of<std::invalid_argument>(f);
}

/// 3 sequences with 5, 2 and no tokens of at most 8; 2 layers, 2 heads, 3 key and 4 value dims.
class BadBatch : public ::testing::Test {
 protected:
  using Cache = BatchCache<bfloat16>;
  Cache cache{
      {.num_seqs = 3, .max_tokens = 8, .num_layers = 2, .num_kv_heads = 2, .head_dim = 3, .value_dim = 4}};
  std::vector<float> memory = test::random_values<float>(1, 1000);
  std::vector<Span> spans = cache.extend(std::vector<Index>{5, 2, 0});

  TensorView<const float> k(Index tokens, Index batch = 3, Index heads = 2, Index dim = 3) const {
    return {memory.data(), batch, tokens, heads, dim};
  }
  TensorView<const float> v(Index tokens, Index batch = 3, Index heads = 2, Index dim = 4) const {
    return {memory.data() + 500, batch, tokens, heads, dim};
  }

  BadBatch() {
    for (Index layer : {0, 1}) cache.write(layer, spans, k(5), v(5));
    before = contents();
  }

  std::vector<float> contents() const {
    std::vector<float> all = {static_cast<float>(cache.allocated_bytes())};
    for (Index layer : {0, 1}) {
      for (Index seq : {0, 1, 2}) {
        const Index n = cache.layer(layer).retained(seq).end;
        all.push_back(static_cast<float>(cache.size(seq)));
        all.push_back(static_cast<float>(n));
        std::vector<float> keys(static_cast<std::size_t>(n * 6)), values(static_cast<std::size_t>(n * 8));
        cache.read(layer, seq, {0, n}, TensorView<float>(keys.data(), n, 2, 3),
                   TensorView<float>(values.data(), n, 2, 4));
        all.insert(all.end(), keys.begin(), keys.end());
        all.insert(all.end(), values.begin(), values.end());
      }
    }
    return all;
  }

  std::vector<float> before;
};

TEST_F(BadBatch, ExtendPastTheCapacityOfOne) {
  EXPECT_EQ(message_of<std::length_error>([&] { cache.extend(4); }),
            "extend: sequence 0 holds 5 of at most 8 tokens, no room for 4");
  EXPECT_EQ(message_of<std::length_error>([&] {
              cache.extend(std::vector<Index>{1, 6, 9});
            }),
            "extend: sequence 2 holds 0 of at most 8 tokens, no room for 9");
  EXPECT_THROW(cache.extend(huge), std::length_error);
  EXPECT_EQ(contents(), before);
  const auto more = cache.extend(3);
  EXPECT_EQ(more[1].positions, (Range{2, 5}));
  EXPECT_EQ(cache.extend(std::vector<Index>{0, 3, 5})[2].positions, (Range{3, 8}));
}

TEST_F(BadBatch, ExtendByNegativeOrTooFewNumbers) {
  EXPECT_EQ(invalid([&] { cache.extend(-1); }), "extend: n is -1 for sequence 0, expected at least 0");
  EXPECT_EQ(invalid([&] {
              cache.extend(std::vector<Index>{1, 1, -2});
            }),
            "extend: n is -2 for sequence 2, expected at least 0");
  EXPECT_EQ(invalid([&] {
              cache.extend(std::vector<Index>{1, 1});
            }),
            "extend: 2 given, expected one for each of the 3 sequences");
  EXPECT_EQ(contents(), before);
}

TEST_F(BadBatch, WriteOfOtherSizes) {
  spans = cache.extend(std::vector<Index>{1, 2, 2});
  before = contents();
  EXPECT_EQ(invalid([&] { cache.write(0, spans, k(3), v(2)); }),
            "k: tokens is 3, expected 2, those of the longest sequence");
  EXPECT_EQ(invalid([&] { cache.write(0, spans, k(2), v(1)); }),
            "v: tokens is 1, expected 2, those of the longest sequence");
  EXPECT_EQ(invalid([&] { cache.write(0, spans, k(2, 2), v(2)); }), "k: batch is 2, expected 3");
  EXPECT_EQ(invalid([&] { cache.write(0, spans, k(2), v(2, 1)); }), "v: batch is 1, expected 3");
  EXPECT_EQ(invalid([&] { cache.write(0, spans, k(2, 3, 1), v(2)); }), "k: heads is 1, expected 2");
  EXPECT_EQ(invalid([&] { cache.write(0, spans, k(2), v(2, 3, 2, 3)); }), "v: dim is 3, expected 4");
  const std::vector<Index> offsets = {0, 1, 3, 5}, other = {0, 2, 3, 5}, three = {0, 1, 5};
  const auto packed = [&](const std::vector<Index>& at) { return ragged(k(5, 1), at); };
  const auto values = ragged(v(5, 1), offsets);
  EXPECT_EQ(invalid([&] { cache.write(0, spans, packed(other), values); }),
            "k: sequence 0 has 2 tokens, expected 1");
  EXPECT_EQ(invalid([&] { cache.write(0, spans, packed(three), values); }), "k: batch is 2, expected 3");
  EXPECT_EQ(contents(), before);
  cache.write(0, spans, packed(offsets), values);
}

TEST_F(BadBatch, WriteToAnAbsentLayer) {
  EXPECT_EQ(message_of<std::out_of_range>([&] { cache.write(2, spans, k(5), v(5)); }),
            "layer is 2, expected less than 2");
  EXPECT_THROW(cache.layer(-1), std::out_of_range);
  EXPECT_EQ(contents(), before);
}

TEST_F(BadBatch, SpansOfOtherSequences) {
  std::vector<Span> swapped = {spans[1], spans[0], spans[2]};
  EXPECT_EQ(invalid([&] { cache.write(0, swapped, k(5), v(5)); }),
            "span: tokens 0 to 2 are not, or no longer, among the 5 of sequence 0");
  EXPECT_EQ(invalid([&] { cache.write(0, std::span(spans).first(2), k(5), v(5)); }),
            "write: 2 given, expected one for each of the 3 sequences");
  // The last one is stale, so the first is not written either.
  cache.extend(std::vector<Index>{0, 0, 1});
  cache.truncate(2, 0);
  before = contents();
  std::ranges::reverse(memory);
  EXPECT_EQ(invalid([&] { cache.write(0, spans, k(5), v(5)); }),
            "span: tokens 0 to 0 are not, or no longer, among the 0 of sequence 2");
  EXPECT_EQ(contents(), before);
}

TEST_F(BadBatch, WriteThatLeavesAGapInOne) {
  cache.extend(std::vector<Index>{0, 1, 0});
  const auto second = cache.extend(std::vector<Index>{1, 1, 1});
  before = contents();
  EXPECT_EQ(invalid([&] { cache.write(1, second, k(1), v(1)); }),
            "span: begins at token 3, but layer 1 of sequence 1 is written up to 2");
  EXPECT_EQ(contents(), before);
}

TEST_F(BadBatch, SpansOfBeforeATruncationAreStaleForThatSequenceAlone) {
  cache.truncate(0, 4);
  EXPECT_EQ(invalid([&] { cache.write(0, spans, k(5), v(5)); }),
            "span: tokens 0 to 5 are not, or no longer, among the 4 of sequence 0");
  const auto again = cache.extend(std::vector<Index>{2, 0, 0});
  cache.write(0, std::vector<Span>{again[0], spans[1], spans[2]}, k(2), v(2));
}

TEST_F(BadBatch, TruncateToMoreThanThereIs) {
  EXPECT_EQ(invalid([&] { cache.truncate(3); }),
            "truncate: n is 3, expected 0 to the 2 tokens of sequence 1");
  EXPECT_THROW(cache.truncate(-1), std::invalid_argument);
  EXPECT_EQ(invalid([&] { cache.truncate(0, 6); }),
            "truncate: n is 6, expected 0 to the 5 tokens of sequence 0");
  EXPECT_EQ(message_of<std::out_of_range>([&] { cache.truncate(3, 0); }),
            "truncate: seq is 3, expected less than 3");
  EXPECT_THROW(cache.truncate(-1, 0), std::out_of_range);
  EXPECT_EQ(contents(), before);
}

TEST_F(BadBatch, UnknownSequences) {
  EXPECT_EQ(message_of<std::out_of_range>([&] { cache.clear(3); }), "clear: seq is 3, expected less than 3");
  EXPECT_THROW(cache.clear(-1), std::out_of_range);
  EXPECT_THROW(static_cast<void>(cache.size(huge)), std::out_of_range);
  std::vector<float> out(100, 7.f);
  const TensorView<float> to_k(out.data(), 1, 2, 3), to_v(out.data(), 1, 2, 4);
  EXPECT_THROW(cache.read(0, 3, {0, 1}, to_k, to_v), std::out_of_range);
  EXPECT_EQ(invalid([&] {
              cache.read(0, 1, {1, 3}, TensorView<float>(out.data(), 2, 2, 3), to_v);
            }),
            "read: tokens 1 to 3 are not among the 2 written in layer 0");
  EXPECT_EQ(invalid([&] { cache.read(0, 1, {1, 2}, to_k, to_k); }), "v: dim is 3, expected 4");
  for (const float x : out) EXPECT_EQ(x, 7.f);
  EXPECT_EQ(contents(), before);
}

TEST_F(BadBatch, ReorderByWrongParents) {
  EXPECT_EQ(message_of<std::out_of_range>([&] {
              cache.reorder(std::vector<Index>{0, 3, 1});
            }),
            "reorder: parents[1] is 3, expected less than 3");
  EXPECT_THROW(cache.reorder(std::vector<Index>{0, 1, -1}), std::out_of_range);
  EXPECT_EQ(invalid([&] {
              cache.reorder(std::vector<Index>{0, 1});
            }),
            "reorder: 2 given, expected one for each of the 3 sequences");
  EXPECT_THROW(cache.reorder(std::vector<Index>{0, 1, 2, 0}), std::invalid_argument);
  EXPECT_EQ(contents(), before);
}

TEST_F(BadBatch, SpansOfSequencesThatMovedAreStale) {
  const auto more = cache.extend(1);
  cache.reorder(std::vector<Index>{0, 0, 1});
  EXPECT_EQ(invalid([&] { cache.write(0, more, k(1), v(1)); }),
            "span: tokens 2 to 3 are not, or no longer, among the 6 of sequence 1");
  EXPECT_EQ(invalid([&] {
              cache.write(0, std::vector<Span>{more[0], more[0], more[1]}, k(1), v(1));
            }),
            "span: tokens 5 to 6 are not, or no longer, among the 6 of sequence 1");
  // Nor are they good where the sequence or its memory went.
  EXPECT_EQ(invalid([&] {
              cache.write(0, std::vector<Span>{more[0], more[2], more[1]}, k(1), v(1));
            }),
            "span: tokens 0 to 1 are not, or no longer, among the 6 of sequence 1");
  EXPECT_EQ(cache.layer(0).retained(1), (Range{0, 5})) << "as far as the parent was written";
}

TEST_F(BadBatch, SpansOfSequencesThatStayAreGoodAndNoOthers) {
  const auto more = cache.extend(1);
  cache.reorder(std::vector<Index>{1, 1, 2});
  EXPECT_EQ(invalid([&] {
              cache.write(0, std::vector<Span>{more[0], more[1], more[2]}, k(1), v(1));
            }),
            "span: tokens 5 to 6 are not, or no longer, among the 3 of sequence 0");
  EXPECT_THROW(cache.write(0, std::vector<Span>{more[1], more[1], more[2]}, k(1), v(1)),
               std::invalid_argument);
  const auto next = cache.extend(std::vector<Index>{0, 0, 0});
  cache.write(0, std::vector<Span>{{{2, 3}, next[0].epoch}, more[1], more[2]}, k(1), v(1));
  EXPECT_EQ(cache.layer(0).retained(1), (Range{0, 3}));
}

TEST_F(BadBatch, ViewsOfBeforeAClearOfAll) {
  const auto view = cache.layer(1);
  cache.clear(0);
  EXPECT_EQ(view.retained(0), (Range{0, 0}));
  EXPECT_EQ(view.retained(1), (Range{0, 2}));
  EXPECT_THROW(cache.write(0, spans, k(5), v(5)), std::invalid_argument);
  cache.clear();
  EXPECT_EQ(invalid([&] { view.retained(0); }),
            "view: the cache was cleared after the view of layer 1 was taken");
  EXPECT_EQ(cache.layer(1).retained(1), (Range{0, 0}));
  EXPECT_EQ(cache.allocated_bytes(), 0);
}

TEST_F(BadBatch, ViewsOutliveMovesAndSayWhenTheCacheIsGone) {
  const auto view = cache.layer(0);
  {
    Cache moved = std::move(cache);
    EXPECT_EQ(view.retained(0), (Range{0, 5}));
    EXPECT_EQ(moved.size(1), 2);
    EXPECT_EQ(invalid([&] { cache.extend(1); }), "extend: the cache was moved from");
    EXPECT_EQ(cache.num_seqs(), 0);
    EXPECT_EQ(cache.bytes(), 0);
    EXPECT_EQ(cache.allocated_bytes(), 0);
    EXPECT_EQ(cache.capacity(), 0);
    EXPECT_EQ(cache.bookkeeping_bytes(), Index{sizeof cache});
    EXPECT_THROW(cache.layer(0), std::invalid_argument);
    EXPECT_THROW(cache.clone(), std::invalid_argument);
    EXPECT_THROW(cache.reorder(std::vector<Index>{}), std::invalid_argument);
    EXPECT_THROW(cache.truncate(0), std::invalid_argument);
    cache.clear();
  }
  EXPECT_EQ(invalid([&] { view.retained(0); }),
            "view: the cache was destroyed after the view of layer 0 was taken");
}

TEST(BadBatchConfig, SizesAndOverflow) {
  using Cache = BatchCache<half>;
  EXPECT_EQ(invalid([] { Cache({.num_seqs = 0, .max_tokens = 1, .num_kv_heads = 1, .head_dim = 4}); }),
            "num_seqs is 0, expected at least 1");
  EXPECT_EQ(invalid([] { Cache({.num_seqs = 1, .max_tokens = -1, .num_kv_heads = 1, .head_dim = 4}); }),
            "max_tokens is -1, expected at least 0");
  EXPECT_EQ(invalid([] { Cache({.max_tokens = 1, .num_kv_heads = 1}); }),
            "head_dim is -1, expected at least 1");
  EXPECT_EQ(invalid([] { Cache({.max_tokens = 1, .num_kv_heads = 1, .head_dim = 4, .memory_limit = -1}); }),
            "memory_limit is -1, expected at least 0");
  EXPECT_THROW(Cache({.num_seqs = huge, .max_tokens = 1, .num_kv_heads = 1, .head_dim = 1}),
               std::length_error);
  EXPECT_THROW(Cache({.num_seqs = huge, .max_tokens = 0, .num_kv_heads = 1, .head_dim = 1}),
               std::length_error);
  EXPECT_THROW(Cache({.num_seqs = 2, .max_tokens = huge / 8, .num_kv_heads = 1, .head_dim = 1}),
               std::length_error);
}

}  // namespace
}  // namespace gqa
