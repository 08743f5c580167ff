// SPDX-License-Identifier: Apache-2.0
// Prefill, chunks and decode, threads, and batches of several sequences change no bit of what a layer
// computes.
#include <gtest/gtest.h>

#include "gqa/cache.hpp"
#include "gqa/mask.hpp"
#include "layer/layer_case.hpp"

namespace gqa {
namespace {

using test::ByRows;
using test::LayerCase;
using test::LayerSizes;

constexpr Index num_tokens = 150;

struct LayerLaws : ::testing::Test {
  LayerSizes s{.H = 6, .G = 2, .D = 8, .Dv = 12};
  LayerCase<half> weights{s};
  AttentionLayer<> layer = weights.layer();
  LayerMemory<> memory;
  ByRows<float> x = test::matrix<float>(num_tokens, s.in_dim, 5);

  /// Feeds x in pieces of the given sizes, the last one over and over.
  template <class Cache, class Mask>
  ByRows<float> fed(Cache&& cache, std::vector<Index> pieces, const Mask& mask) {
    ByRows<float> y(num_tokens, s.out_dim);
    for (Index t = 0, i = 0; t < num_tokens; ++i) {
      const Index n =
          std::min(pieces[std::min(static_cast<std::size_t>(i), pieces.size() - 1)], num_tokens - t);
      layer.forward(Serial{}, memory, x.middleRows(t, n), cache, y.middleRows(t, n), mask);
      t += n;
    }
    return y;
  }
  template <class Cache, class Mask>
  void expect_pieces_are_one(Cache&& make, const Mask& mask, const char* what) {
    const ByRows<float> prefill = fed(make(), {num_tokens}, mask);
    EXPECT_EQ(fed(make(), {1}, mask), prefill) << what << ": decode";
    EXPECT_EQ(fed(make(), {64, 1, 40}, mask), prefill) << what << ": chunks";
    EXPECT_EQ(fed(make(), {3}, mask), prefill) << what << ": threes";
  }
};

TEST_F(LayerLaws, PrefillIsChunksIsDecode) {
  const KVCache<float>::Config config{
      .max_tokens = 200, .num_kv_heads = s.G, .head_dim = s.D, .value_dim = s.Dv};
  expect_pieces_are_one([&] { return KVCache<float>(config); }, causal(), "contiguous");
  // Without a cache it is the same.
  ByRows<float> y(num_tokens, s.out_dim);
  layer.forward(Serial{}, memory, x, y, causal());
  EXPECT_EQ(y, fed(KVCache<float>(config), {num_tokens}, causal()));
}

TEST_F(LayerLaws, InARingToo) {
  const auto window = causal() & sliding_window(20);
  const auto make = [&] {
    return RingCache<bfloat16>({.window = 20,
                                .max_span = num_tokens,
                                .max_tokens = 1000,
                                .num_kv_heads = s.G,
                                .head_dim = s.D,
                                .value_dim = s.Dv});
  };
  expect_pieces_are_one(make, window, "ring");
}

TEST_F(LayerLaws, OverPagesAndLayersThatDifferToo) {
  const ByRows<float> expected =
      fed(KVCache<float>({.max_tokens = 200, .num_kv_heads = s.G, .head_dim = s.D, .value_dim = s.Dv}),
          {num_tokens}, causal());
  PagedCache<float> pool({.num_pages = 8, .num_kv_heads = s.G, .head_dim = s.D, .value_dim = s.Dv});
  EXPECT_EQ(fed(pool.sequence(pool.create()), {40, 1, 64}, causal()), expected);
  const HybridCache<float>::Config config{
      .max_tokens = 200,
      .max_span = num_tokens,
      .layers = {{.num_kv_heads = s.G, .head_dim = s.D, .value_dim = s.Dv}}};
  EXPECT_EQ(fed(HybridCache<float>(config), {40, 1, 64}, causal()), expected);
}

/// Keys that stay are rotated by where they were, and new ones by where they are: evicting nothing, and all
/// but a window that is all a query sees, change no more than the order of sums.
TEST_F(LayerLaws, TokensKeepTheirPositionsThroughEvictions) {
  using Lists = std::vector<std::vector<Index>>;
  const auto through = [&](auto& cache, Index keep, const auto& slots, const auto& evict) {
    ByRows<float> y(num_tokens, s.out_dim);
    for (Index t = 0; t < num_tokens; ++t) {
      layer.forward(Serial{}, memory, x.middleRows(t, 1), cache, y.middleRows(t, 1), causal());
      std::vector<Index> last;
      for (Index slot = std::max<Index>(0, slots() - keep); slot < slots(); ++slot) last.push_back(slot);
      evict(Lists(static_cast<std::size_t>(s.G), last));
    }
    return y;
  };
  const auto evicting = [&](Index keep) {
    EvictingCache<float> cache({.max_tokens = 200, .num_kv_heads = s.G, .head_dim = s.D, .value_dim = s.Dv});
    return through(
        cache, keep, [&] { return cache.slots(0); }, [&](const Lists& kept) { cache.evict(0, kept); });
  };
  const auto in_pages = [&](Index keep) {
    PagedCache<float> pool({.num_pages = 4, .num_kv_heads = s.G, .head_dim = s.D, .value_dim = s.Dv});
    EvictingSequence<float> cache(pool.sequence(pool.create()));
    return through(
        cache, keep, [&] { return cache.slots(); },
        [&](const Lists& kept) { cache.evict(std::vector<Lists>{kept}); });
  };
  const KVCache<float>::Config config{
      .max_tokens = 200, .num_kv_heads = s.G, .head_dim = s.D, .value_dim = s.Dv};
  EXPECT_EQ(evicting(num_tokens), fed(KVCache<float>(config), {num_tokens}, causal()));
  const ByRows<float> windowed = fed(KVCache<float>(config), {num_tokens}, sliding_window(31));
  EXPECT_LE((evicting(30) - windowed).cwiseAbs().maxCoeff(), 1e-5f * windowed.cwiseAbs().maxCoeff());
  EXPECT_EQ(in_pages(30), evicting(30));
}

TEST_F(LayerLaws, ReadsACrossCacheByRun) {
  // What an encoder made, once for all tokens of the decoder.
  const Index n = 70;
  const auto k = test::random_values<float>(8, n * s.G * s.D),
             v = test::random_values<float>(9, n * s.G * s.Dv);
  const TensorView<const float> keys(k.data(), n, s.G, s.D), values(v.data(), n, s.G, s.Dv);
  CrossCache<float> cache({.tokens = {n}, .num_kv_heads = s.G, .head_dim = s.D, .value_dim = s.Dv});
  cache.write(0, 0, keys, values);
  const auto through = [&](const auto& kv) {
    ByRows<float> y(5, s.out_dim);
    layer.run(Serial{}, memory, x.topRows(5), memory.positions(0, 5), y,
              [&](const auto& heads, const auto& out) { attention(heads.q, kv, out); });
    return y;
  };
  EXPECT_EQ(through(cache.layer(0)), through(ContiguousKV<float>(keys, values)));
}

TEST_F(LayerLaws, ThreadsChangeNoBit) {
  ByRows<float> expected(num_tokens, s.out_dim), y(num_tokens, s.out_dim);
  layer.forward(Serial{}, memory, x, expected, causal());
  for (int threads : {2, 3, 8}) {
    test::Threads pool(threads);
    layer.forward(pool, memory, x, y, causal());
    EXPECT_EQ(y, expected) << threads << " threads";
    EXPECT_GT(pool.calls(), 0) << "not shared out";
  }
}

/// Three sequences, each in two passes, one of which it may sit out.
struct RaggedLaws : LayerLaws {
  std::vector<Index> first = {70, 0, 9}, second = {1, 40, 30};

  std::vector<Index> offsets(const std::vector<Index>& tokens) const {
    std::vector<Index> sums = {0};
    for (const Index n : tokens) sums.push_back(sums.back() + n);
    return sums;
  }
  /// Sequence i has the rows from 50 i on.
  ByRows<float> rows(const std::vector<Index>& tokens, const std::vector<Index>& from) const {
    ByRows<float> all(offsets(tokens).back(), s.in_dim);
    for (std::size_t i = 0, row = 0; i < tokens.size(); row += static_cast<std::size_t>(tokens[i++]))
      all.middleRows(static_cast<Index>(row), tokens[i]) =
          x.middleRows(static_cast<Index>(i) * 30 + from[i], tokens[i]);
    return all;
  }
  /// Sequence i by itself, all of it.
  ByRows<float> alone(std::size_t i) {
    KVCache<float> cache({.max_tokens = 200, .num_kv_heads = s.G, .head_dim = s.D, .value_dim = s.Dv});
    const Index n = first[i] + second[i];
    ByRows<float> y(n, s.out_dim);
    layer.forward(Serial{}, memory, x.middleRows(static_cast<Index>(i) * 30, n), cache, y, causal());
    return y;
  }
  /// `pass(x, offsets, y)` feeds all three.
  template <class Pass>
  void expect_each_alone(Pass&& pass) {
    const auto a = offsets(first), b = offsets(second);
    ByRows<float> y1(a.back(), s.out_dim), y2(b.back(), s.out_dim);
    pass(rows(first, {0, 0, 0}), a, y1);
    pass(rows(second, first), b, y2);
    for (std::size_t i = 0; i < 3; ++i) {
      const ByRows<float> expected = alone(i);
      EXPECT_EQ(y1.middleRows(a[i], first[i]), expected.topRows(first[i])) << "sequence " << i;
      EXPECT_EQ(y2.middleRows(b[i], second[i]), expected.bottomRows(second[i])) << "sequence " << i;
    }
  }
};

TEST_F(RaggedLaws, APagedBatchIsItsSequences) {
  PagedCache<float> cache(
      {.num_pages = 20, .max_tokens = 200, .num_kv_heads = s.G, .head_dim = s.D, .value_dim = s.Dv});
  const std::vector<SequenceId> ids = {cache.create(), cache.create(), cache.create()};
  expect_each_alone([&](const ByRows<float>& in, const std::vector<Index>& at, ByRows<float>& y) {
    std::vector<Span> spans;
    for (std::size_t i = 0; i < 3; ++i) spans.push_back(cache.extend(ids[i], at[i + 1] - at[i]));
    layer.forward(Serial{}, memory, in, cache, 0, LayerBatch{at, spans, ids}, y, causal());
  });
}

TEST_F(RaggedLaws, ABatchCachesSequencesToo) {
  BatchCache<float> cache(
      {.num_seqs = 3, .max_tokens = 200, .num_kv_heads = s.G, .head_dim = s.D, .value_dim = s.Dv});
  expect_each_alone([&](const ByRows<float>& in, const std::vector<Index>& at, ByRows<float>& y) {
    const std::vector<Index> counts = {at[1] - at[0], at[2] - at[1], at[3] - at[2]};
    const auto spans = cache.extend(std::span<const Index>(counts));
    layer.forward(Serial{}, memory, in, cache, 0, LayerBatch{at, spans}, y, causal());
  });
}

TEST_F(RaggedLaws, WithoutACacheSequencesAreTheirOwn) {
  const auto at = offsets(first);
  ByRows<float> y(at.back(), s.out_dim);
  const ByRows<float> in = rows(first, {0, 0, 0});
  layer.forward(Serial{}, memory, in, std::span<const Index>(at), y, causal());
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_EQ(y.middleRows(at[i], first[i]), alone(i).topRows(first[i])) << "sequence " << i;
}

TEST_F(LayerLaws, LayersOfOneModelShareTheirMemory) {
  // Two layers of different angles, alternating: neither sees the other's.
  auto config = weights.config();
  config.rope = Rope({.layout = RopeLayout::interleaved, .head_dim = s.D, .theta = 7});
  const AttentionLayer<> other(weights.projections(), config);
  ByRows<float> one(num_tokens, s.out_dim), two(num_tokens, s.out_dim), y(num_tokens, s.out_dim);
  layer.forward(Serial{}, memory, x, one, causal());
  LayerMemory<> own;
  other.forward(Serial{}, own, x, two, causal());
  EXPECT_NE(one, two);
  for (int i = 0; i < 2; ++i) {
    other.forward(Serial{}, memory, x, y, causal());
    EXPECT_EQ(y, two);
    layer.forward(Serial{}, memory, x, y, causal());
    EXPECT_EQ(y, one);
  }
}

}  // namespace
}  // namespace gqa
