// SPDX-License-Identifier: Apache-2.0
// Attention over a cross cache has the bits of attention over the plain tensors that were written, one
// sequence after the other; and what may not be read yet is refused.
#include "gqa/kv/cross.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "gqa/attention.hpp"
#include "gqa/kv/padded.hpp"
#include "support/attention_case.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

using test::message_of;
using test::random_values;

constexpr Index huge = std::numeric_limits<Index>::max();
constexpr Index L = 3, G = 2, H = 6, D = 24, Dv = 17;

template <class F>
std::string invalid(F&& f) {
  return message_of<std::invalid_argument>(f);
}

/// Keys and values of sequences of these lengths in L layers, padded to the longest.
template <class T>
struct Encoded {
  std::vector<Index> lengths;
  Index longest;
  std::vector<std::vector<T>> k, v;

  Encoded(std::vector<Index> of, std::uint64_t seed)
      : lengths(std::move(of)), longest(std::ranges::max(lengths)) {
    for (Index layer = 0; layer < L; ++layer) {
      k.push_back(random_values<T>(++seed, batch() * longest * G * D));
      v.push_back(random_values<T>(++seed, batch() * longest * G * Dv));
    }
  }
  Index batch() const { return std::ssize(lengths); }
  TensorView<const T> keys(Index layer) const {
    return {k[static_cast<std::size_t>(layer)].data(), batch(), longest, G, D};
  }
  TensorView<const T> values(Index layer) const {
    return {v[static_cast<std::size_t>(layer)].data(), batch(), longest, G, Dv};
  }
  TensorView<const T> keys(Index layer, Index seq) const {
    return {keys(layer).at(seq, 0, 0), lengths[static_cast<std::size_t>(seq)], G, D};
  }
  TensorView<const T> values(Index layer, Index seq) const {
    return {values(layer).at(seq, 0, 0), lengths[static_cast<std::size_t>(seq)], G, Dv};
  }
};

template <class T>
CrossCache<T> cache_for(const std::vector<Index>& lengths, Index limit = 0) {
  return CrossCache<T>({.tokens = lengths,
                        .num_layers = L,
                        .num_kv_heads = G,
                        .head_dim = D,
                        .value_dim = Dv,
                        .memory_limit = limit});
}

/// The layer's sequences one by one, from the tensors themselves.
template <class T>
void expect_attention(const CrossCache<T>& cache, const Encoded<T>& encoded, Index layer) {
  const Index B = encoded.batch();
  for (Index Sq : {1, 5}) {
    const auto q = random_values<T>(99, B * Sq * H * D);
    const TensorView<const T> queries(q.data(), B, Sq, H, D);
    const auto out = attention(queries, cache.layer(layer));
    for (Index seq = 0; seq < B; ++seq) {
      const TensorView<const T> one(queries.at(seq, 0, 0), Sq, H, D);
      const auto expected = attention(one, encoded.keys(layer, seq), encoded.values(layer, seq));
      ASSERT_EQ(std::memcmp(static_cast<const void*>(out.data() + seq * Sq * H * Dv),
                            static_cast<const void*>(expected.data()),
                            static_cast<std::size_t>(Sq * H * Dv) * sizeof(T)),
                0)
          << "layer " << layer << ", sequence " << seq << ", " << Sq << " queries";
    }
  }
}

template <class T>
class Cross : public ::testing::Test {};
TYPED_TEST_SUITE(Cross, test::AllScalars);

TYPED_TEST(Cross, ReadsAsPlainTensors) {
  using T = TypeParam;
  for (const std::vector<Index>& lengths :
       std::vector<std::vector<Index>>{{1}, {65, 0, 7, 600}, {64, 63, 64}, {0, 0}, {513}}) {
    const Encoded<T> encoded(lengths, 7);
    auto at_once = cache_for<T>(lengths), one_by_one = cache_for<T>(lengths), packed = cache_for<T>(lengths);
    for (Index layer = 0; layer < L; ++layer) {
      at_once.write(layer, encoded.keys(layer), encoded.values(layer));
      std::vector<T> k, v;
      std::vector<Index> offsets = {0};
      for (Index seq = encoded.batch(); seq-- > 0;)
        one_by_one.write(layer, seq, encoded.keys(layer, seq), encoded.values(layer, seq));
      for (Index seq = 0; seq < encoded.batch(); ++seq) {
        const Index n = lengths[static_cast<std::size_t>(seq)];
        const T* keys = encoded.keys(layer, seq).data;
        const T* values = encoded.values(layer, seq).data;
        k.insert(k.end(), keys, keys + n * G * D);
        v.insert(v.end(), values, values + n * G * Dv);
        offsets.push_back(offsets.back() + n);
      }
      const TensorView<const T> tk(k.data(), offsets.back(), G, D), tv(v.data(), offsets.back(), G, Dv);
      packed.write(layer, ragged(tk, offsets), ragged(tv, offsets));
      for (const auto* cache : {&at_once, &one_by_one, &packed}) expect_attention(*cache, encoded, layer);
    }
    EXPECT_TRUE(at_once.complete() && one_by_one.complete() && packed.complete());
  }
}

TYPED_TEST(Cross, AResetPlaceIsReadAsItsNewSequence) {
  using T = TypeParam;
  Encoded<T> encoded({65, 130, 1}, 3);
  auto cache = cache_for<T>(encoded.lengths);
  const auto view = cache.layer(1);
  for (Index layer = 0; layer < L; ++layer) cache.write(layer, encoded.keys(layer), encoded.values(layer));
  const auto copy = cache.clone();
  for (const Index n : {3, 70, 66, 0, 130}) {  // in other memory, and in the same
    const Encoded<T> next({65, n, 1}, static_cast<std::uint64_t>(100 + n));
    cache.reset(1, n);
    EXPECT_EQ(cache.complete(), n == 0);
    for (Index layer = 0; layer < L; ++layer) {
      if (n > 0) {
        EXPECT_NE(invalid([&] { cache.layer(layer).retained(0); }), "nothing thrown");
      }
      cache.write(layer, 1, next.keys(layer, 1), next.values(layer, 1));
      Encoded<T> all = encoded;
      all.lengths = next.lengths;
      all.longest = std::max<Index>(65, n);
      const auto tokens = [&](const std::vector<T>& from, Index of, Index seq, Index size, Index dim) {
        std::vector<T> row(static_cast<std::size_t>(all.longest * G * dim));
        std::copy_n(from.data() + seq * of * G * dim, size * G * dim, row.data());
        return row;
      };
      auto& k = all.k[static_cast<std::size_t>(layer)];
      auto& v = all.v[static_cast<std::size_t>(layer)];
      k.clear();
      v.clear();
      for (Index seq : {0, 1, 2}) {
        const Encoded<T>& from = seq == 1 ? next : encoded;
        const Index size = all.lengths[static_cast<std::size_t>(seq)];
        const auto keys = tokens(from.k[static_cast<std::size_t>(layer)], from.longest, seq, size, D);
        const auto values = tokens(from.v[static_cast<std::size_t>(layer)], from.longest, seq, size, Dv);
        k.insert(k.end(), keys.begin(), keys.end());
        v.insert(v.end(), values.begin(), values.end());
      }
      expect_attention(cache, all, layer);
    }
    EXPECT_EQ(view.retained(1), (Range{0, n})) << "a view goes on with the next";
    EXPECT_TRUE(cache.complete());
  }
  for (Index layer = 0; layer < L; ++layer) expect_attention(copy, encoded, layer);
}

TYPED_TEST(Cross, GivesBackWhatWasWrittenConverted) {
  using T = TypeParam;
  const auto k = random_values<float>(1, 70 * G * D), v = random_values<float>(2, 70 * G * Dv);
  auto cache = cache_for<T>({5, 70});
  cache.write(2, 1, TensorView<const float>(k.data(), 70, G, D),
              TensorView<const float>(v.data(), 70, G, Dv));
  std::vector<T> got_k(static_cast<std::size_t>(6 * G * D)), got_v(static_cast<std::size_t>(6 * G * Dv));
  cache.read(2, 1, {61, 67}, TensorView<T>(got_k.data(), 6, G, D), TensorView<T>(got_v.data(), 6, G, Dv));
  for (std::size_t i = 0; i < got_k.size(); ++i) ASSERT_EQ(got_k[i], rounded_to<T>(k[61 * G * D + i]));
  for (std::size_t i = 0; i < got_v.size(); ++i) ASSERT_EQ(got_v[i], rounded_to<T>(v[61 * G * Dv + i]));
}

TYPED_TEST(Cross, TakesWholeTilesAndSaysSo) {
  using T = TypeParam;
  const Index token = L * G * (D + Dv) * Index{sizeof(T)};
  const Index tile = 64 * L * G * (D + round_up(Dv, 16)) * Index{sizeof(T)};
  auto cache = cache_for<T>({65, 0, 64}, 4 * tile);
  EXPECT_EQ(cache.bytes_per_token(), token);
  EXPECT_EQ(cache.bytes(), 129 * token);
  EXPECT_EQ(cache.allocated_bytes(), 3 * tile);
  EXPECT_EQ(cache.padding_bytes(), 3 * tile - 129 * token);
  EXPECT_GT(cache.bookkeeping_bytes(), Index{sizeof cache});
  EXPECT_EQ(message_of<std::length_error>([&] { cache.reset(1, 65); }),
            "reset: the cache would take " + std::to_string(5 * tile) +
                " bytes, more than the memory_limit of " + std::to_string(4 * tile));
  EXPECT_EQ(cache.size(1), 0);
  EXPECT_EQ(cache.allocated_bytes(), 3 * tile);
  cache.reset(1, 64);
  cache.reset(0, 5);
  EXPECT_EQ(cache.allocated_bytes(), 3 * tile);
  EXPECT_EQ(cache.bytes(), 133 * token);
  EXPECT_THROW(cache_for<T>({65, 64, 64}, 4 * tile - 1), std::length_error);
  EXPECT_THROW(cache.clone().reset(0, 129), std::length_error);
  cache.clear();
  EXPECT_EQ(cache.allocated_bytes(), 0);
  EXPECT_EQ(cache.bytes(), 0);
  EXPECT_TRUE(cache.complete());
}

TEST(CrossRefuses, WhatIsNotWrittenYetNamingIt) {
  const Encoded<bfloat16> encoded({4, 0, 2}, 5);
  auto cache = cache_for<bfloat16>(encoded.lengths);
  const auto view = cache.layer(2);
  const auto refusal = [&] { return invalid([&] { view.retained(0); }); };
  EXPECT_EQ(refusal(), "view: layer 2 of sequence 0 is not written yet");
  cache.write(2, 0, encoded.keys(2, 0), encoded.values(2, 0));
  cache.write(0, encoded.keys(0), encoded.values(0));
  EXPECT_TRUE(cache.complete(0));
  EXPECT_FALSE(cache.complete(2));
  EXPECT_EQ(refusal(), "view: layer 2 of sequence 2 is not written yet");
  EXPECT_THROW(view.tile(0, 0, {0, 4}, nullptr), std::invalid_argument);
  const auto q = random_values<bfloat16>(1, 3 * H * D);
  const TensorView<const bfloat16> queries(q.data(), 3, 1, H, D);
  EXPECT_EQ(invalid([&] { attention(queries, view); }), "view: layer 2 of sequence 2 is not written yet");
  cache.write(2, 2, encoded.keys(2, 2), encoded.values(2, 2));
  EXPECT_EQ(view.retained(2), (Range{0, 2}));
  EXPECT_FALSE(cache.complete());
  cache.write(1, encoded.keys(1), encoded.values(1));
  EXPECT_TRUE(cache.complete());
}

TEST(CrossRefuses, PlacesThatWereResetBeforeTheyWereWritten) {
  const Encoded<half> encoded({4, 3, 2}, 5);
  auto cache = cache_for<half>({4, 70, 2});
  cache.reset(1, 0);
  cache.reset(1, 3);
  cache.write(0, 0, encoded.keys(0, 0), encoded.values(0, 0));
  auto copy = cache.clone();
  for (auto* each : {&cache, &copy}) {
    EXPECT_EQ(invalid([&] { each->layer(0).retained(0); }), "view: layer 0 of sequence 1 is not written yet");
    each->write(0, 1, encoded.keys(0, 1), encoded.values(0, 1));
    EXPECT_FALSE(each->complete(0));
    each->write(0, 2, encoded.keys(0, 2), encoded.values(0, 2));
    EXPECT_TRUE(each->complete(0));
    expect_attention(*each, encoded, 0);
    EXPECT_FALSE(each->complete());
  }
}

TEST(CrossRefuses, WritingTwiceAndOtherSizes) {
  const Encoded<float> encoded({4, 0, 2}, 5), longer({5, 0, 2}, 5), pair({4, 2}, 5);
  auto cache = cache_for<float>(encoded.lengths);
  cache.write(1, 2, encoded.keys(1, 2), encoded.values(1, 2));
  cache.write(1, 1, encoded.keys(1, 1), encoded.values(1, 1));
  EXPECT_EQ(invalid([&] { cache.write(1, 2, longer.keys(1, 2), longer.values(1, 2)); }),
            "write: layer 1 of sequence 2 is written already; reset(seq, n) gives its place to another");
  EXPECT_EQ(invalid([&] { cache.write(1, encoded.keys(1), encoded.values(1)); }),
            "write: layer 1 of sequence 1 is written already; reset(seq, n) gives its place to another");
  EXPECT_EQ(invalid([&] { cache.write(0, 0, longer.keys(0, 0), longer.values(0, 0)); }),
            "k: tokens is 5, expected 4");
  EXPECT_EQ(invalid([&] { cache.write(0, 0, encoded.keys(0, 0), encoded.keys(0, 0)); }),
            "v: dim is 24, expected 17");
  EXPECT_EQ(invalid([&] { cache.write(0, longer.keys(0), longer.values(0)); }),
            "k: tokens is 5, expected 4, those of the longest sequence");
  EXPECT_EQ(invalid([&] { cache.write(0, pair.keys(0), pair.values(0)); }), "k: batch is 2, expected 3");
  EXPECT_EQ(
      message_of<std::out_of_range>([&] { cache.write(3, 0, encoded.keys(0, 0), encoded.values(0, 0)); }),
      "layer is 3, expected less than 3");
  EXPECT_EQ(
      message_of<std::out_of_range>([&] { cache.write(0, 3, encoded.keys(0, 0), encoded.values(0, 0)); }),
      "write: seq is 3, expected less than 3");
  EXPECT_THROW(cache.write(0, -1, encoded.keys(0, 0), encoded.values(0, 0)), std::out_of_range);
  EXPECT_THROW(cache.layer(3), std::out_of_range);
  EXPECT_THROW(cache.reset(3, 1), std::out_of_range);
  EXPECT_THROW(cache.reset(0, -1), std::invalid_argument);
  EXPECT_THROW(cache.reset(0, huge), std::invalid_argument);
  EXPECT_THROW(cache.reset(0, max_position), std::length_error);
  EXPECT_EQ(cache.size(0), 4);
  cache.write(0, encoded.keys(0), encoded.values(0));
  expect_attention(cache, encoded, 0);
  std::vector<float> out(500, 7.f);
  const TensorView<float> to_k(out.data(), 2, G, D), to_v(out.data(), 2, G, Dv);
  EXPECT_EQ(invalid([&] {
              cache.read(2, 2, {0, 2}, to_k, to_v);
            }),
            "read: tokens 0 to 2 are not among the 0 written in layer 2 of sequence 2");
  EXPECT_EQ(invalid([&] {
              cache.read(0, 2, {1, 3}, to_k, to_v);
            }),
            "read: tokens 1 to 3 are not among the 2 written in layer 0 of sequence 2");
  EXPECT_THROW(cache.read(0, 5, {0, 2}, to_k, to_v), std::out_of_range);
  for (const float x : out) ASSERT_EQ(x, 7.f);
}

TEST(CrossRefuses, ConfigsAndCachesThatAreGone) {
  EXPECT_EQ(invalid([] { cache_for<float>({}); }), "tokens: none, expected those of at least 1 sequence");
  EXPECT_EQ(invalid([] {
              cache_for<float>({1, -1});
            }),
            "tokens is -1, expected 0 to " + std::to_string(max_position));
  EXPECT_THROW(cache_for<float>({max_position}), std::length_error);
  EXPECT_EQ(invalid([] { cache_for<float>({1}, -1); }), "memory_limit is -1, expected at least 0");
  auto cache = cache_for<float>({1});
  const auto view = cache.layer(0);
  const Encoded<float> encoded({1}, 5);
  cache.write(0, encoded.keys(0), encoded.values(0));
  {
    const auto moved = std::move(cache);
    EXPECT_EQ(view.retained(0), (Range{0, 1}));
    EXPECT_EQ(invalid([&] { cache.write(0, encoded.keys(0), encoded.values(0)); }),
              "write: the cache was moved from");
    EXPECT_EQ(cache.num_seqs(), 0);
    EXPECT_EQ(cache.bytes() + cache.allocated_bytes() + cache.bytes_per_token(), 0);
    cache.clear();
  }
  EXPECT_EQ(invalid([&] { view.retained(0); }),
            "view: the cache was destroyed after the view of layer 0 was taken");
}

}  // namespace
}  // namespace gqa
