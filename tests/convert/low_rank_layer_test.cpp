// SPDX-License-Identifier: Apache-2.0
// Keys and values cached as latents: exact at full rank, against the oracle, and keys made where they are
// read.
#include "gqa/convert/low_rank_layer.hpp"

#include "convert/exact_layer.hpp"
#include "gqa/kv/cache.hpp"
#include "gqa/kv/latent.hpp"
#include "gqa/kv/paged.hpp"
#include "gqa/layer/attention_layer.hpp"
#include "gqa/layer/low_rank_attention.hpp"
#include "gqa/mask/compose.hpp"
#include "gqa/mask/window.hpp"
#include "support/message_of.hpp"

namespace gqa::test {
namespace {

using convert::Calibration;
using convert::fold_keys;
using convert::fold_values;
using convert::Folded;
using convert::LowRankLayer;
using convert::LowRankMemory;
using convert::to_low_rank_layer;
using convert::Weights;

RopeConfig rope_of(Index rotary, RopeLayout layout = RopeLayout::half) {
  return {.layout = layout, .head_dim = 8, .rotary_dim = rotary, .theta = theta};
}

/// Through a cache, `step` tokens a call.
template <class T, class C>
std::vector<T> run_through(const LowRankLayer& layer, const std::vector<T>& x, C& cache, Index step) {
  using Sum = Accumulator<T>;
  const LowRankMemory<T> memory(layer);
  const LowRankAttention<Sum> attention(memory.projections(), layer.config);
  const Index width = attention.in_dim(), tokens = static_cast<Index>(x.size()) / width,
              n = attention.out_dim();
  std::vector<T> y(static_cast<std::size_t>(tokens * n));
  LayerMemory<Sum> own;
  for (Index t = 0; t < tokens; t += step) {
    const Index count = std::min(step, tokens - t);
    attention.forward(Serial{}, own, MatrixView(x.data() + t * width, count, width), cache,
                      MatrixOut(y.data() + t * n, count, n, n), causal());
  }
  return y;
}

template <class T>
KVCache<T> cache_for(const LowRankLayer& layer, Index tokens) {
  return KVCache<T>({.max_tokens = tokens,
                     .num_kv_heads = layer.config.num_latents,
                     .head_dim = layer.config.key_rank,
                     .value_dim = layer.config.value_rank});
}

/// An ordinary layer of double, at positions from 0 on.
Numbers run_folded(const Folded& folded, const Numbers& x, const std::optional<RopeConfig>& rope) {
  const Weights& w = folded.weights;
  const convert::RoundedProjection<double> q(w.wq, w.bq), k(w.wk, w.bk), v(w.wv, w.bv), o(w.wo, w.bo);
  AttentionLayerConfig config{.num_q_heads = w.num_q_heads(),
                              .num_kv_heads = w.num_kv_heads(),
                              .head_dim = w.head_dim(),
                              .value_dim = w.value_dim(),
                              .grouping = w.heads,
                              .scale = folded.scale};
  if (rope) config.rope = Rope(*rope);
  const AttentionLayer<double> layer(
      {.q = q.projection(), .k = k.projection(), .v = v.projection(), .output = o.projection()}, config);
  const Index tokens = static_cast<Index>(x.size()) / layer.in_dim(), n = layer.out_dim();
  Numbers y(static_cast<std::size_t>(tokens * n));
  LayerMemory<double> own;
  layer.forward(Serial{}, own, MatrixView(x.data(), tokens, layer.in_dim()),
                MatrixOut(y.data(), tokens, n, n), causal());
  return y;
}

TEST(FoldValues, IsExactAtFullRankAndLosesLittleByLittle) {
  const Weights w = random_weights({.num_q_heads = 6, .num_kv_heads = 3, .inputs = 21, .biases = true}, 1);
  const Numbers x = activations<double>(60, 21, 2);
  const Calibration c = calibration_of(x, 21);
  const Numbers y = exact(w, x, frequencies_of(8), 1 / std::sqrt(8.0));
  for (const Calibration* given : {static_cast<const Calibration*>(nullptr), &c})
    EXPECT_LE(relative_distance(run_folded(fold_values(w, 6, given), x, rope_of(8)), y), 1e-12);
  double last = 0;
  for (const Index rank : {5, 3, 1}) {
    const Folded folded = fold_values(w, rank, &c);
    EXPECT_EQ(folded.report.cache_after.elements_per_token, 3 * (8 + rank));
    EXPECT_EQ(folded.weights.value_dim(), rank);
    EXPECT_EQ(folded.report.keys.error(), 0);
    EXPECT_GT(folded.report.values.error(), last);
    last = folded.report.values.error();
    EXPECT_LT(relative_distance(run_folded(folded, x, rope_of(8)), y), 1);
  }
  EXPECT_EQ(message_of([&] { fold_values(w, 0); }), "rank is 0, expected 1 to 6");
  EXPECT_EQ(message_of([&] { fold_values(w, 7); }), "rank is 7, expected 1 to 6");
}

TEST(FoldKeys, IsExactAtFullRankWithoutRotation) {
  Weights w = random_weights({.num_q_heads = 4, .num_kv_heads = 2, .inputs = 21, .biases = true}, 3);
  w.heads = HeadGrouping({1, 0, 1, 1}, 2);
  const Numbers x = activations<double>(60, 21, 4);
  const Calibration c = calibration_of(x, 21);
  for (const Calibration* given : {static_cast<const Calibration*>(nullptr), &c})
    EXPECT_LE(relative_distance(run_folded(fold_keys(w, 8, given), x, std::nullopt),
                                exact(w, x, {}, 1 / std::sqrt(8.0))),
              1e-12);
  EXPECT_LE(relative_distance(run_folded(fold_keys(w, 8, &c, 0.7), x, std::nullopt), exact(w, x, {}, 0.7)),
            1e-12);
  const Folded folded = fold_keys(w, 3, &c);
  EXPECT_EQ(folded.report.cache_after.elements_per_token, 2 * (3 + 6));
  EXPECT_EQ(folded.scale, 1 / std::sqrt(8.0));
  // Both folds in turn, as for a layer without RoPE.
  Folded both = fold_values(fold_keys(w, 8, &c).weights, 6, &c);
  both.scale = 1 / std::sqrt(8.0);
  EXPECT_LE(relative_distance(run_folded(both, x, std::nullopt), exact(w, x, {}, both.scale)), 1e-12);
  EXPECT_EQ(message_of([&] { fold_keys(w, 9); }), "rank is 9, expected 1 to 8");
}

// 150 tokens: tiles of 64 keys, the last one open.
TEST(LowRankLayer, IsExactAtFullRankThroughEveryCache) {
  for (const bool biases : {false, true})
    for (const Index rotary : {0, 4, 8})
      for (const RopeLayout layout : {RopeLayout::half, RopeLayout::interleaved}) {
        if (rotary == 4 && layout == RopeLayout::half)
          continue;  // the oracle's pairs are (i, i + rotary / 2)
        const Weights w =
            random_weights({.num_q_heads = 4, .num_kv_heads = 2, .inputs = 61, .biases = biases}, 5);
        Weights in_halves = w;  // the oracle's layout
        if (layout == RopeLayout::interleaved)
          for (auto [to, from, bias, old] : {std::tuple{&in_halves.wq, &w.wq, &in_halves.bq, &w.bq},
                                             {&in_halves.wk, &w.wk, &in_halves.bk, &w.bk}})
            for (Index r = 0; r < to->rows(); ++r) {
              const Index e = r % 8;
              const Index of = e >= rotary ? e : e < rotary / 2 ? 2 * e : 2 * (e - rotary / 2) + 1;
              for (Index col = 0; col < 61; ++col) (*to)(r, col) = (*from)(r - e + of, col);
              if (biases) (*bias)[static_cast<std::size_t>(r)] = (*old)[static_cast<std::size_t>(r - e + of)];
            }
        const Numbers x = activations<double>(150, 61, 6);
        const Calibration c = calibration_of(x, 61);
        const Numbers y = exact(in_halves, x, frequencies_of(rotary), 1 / std::sqrt(8.0));
        const auto rope = rotary == 0 ? std::nullopt : std::optional(rope_of(rotary, layout));
        for (const Index latents : {1, 2}) {
          const LowRankLayer layer = to_low_rank_layer(w, rope,
                                                       {.num_latents = latents,
                                                        .key_rank = 16 / latents,
                                                        .value_rank = 12 / latents,
                                                        .calibration = &c});
          auto cache = cache_for<double>(layer, 150);
          EXPECT_LE(relative_distance(run_through(layer, x, cache, 150), y), 1e-11);
          EXPECT_EQ(layer.report.cache_after.elements_per_token, 28);
        }
        const LowRankLayer joint = to_low_rank_layer(w, rope, {.key_rank = 28, .calibration = &c});
        LatentCache<double> rows({.max_tokens = 150, .latent_dim = 28});
        EXPECT_LE(relative_distance(run_through(joint, x, rows, 71), y), 1e-11);
        EXPECT_EQ(rows.bytes_per_token(), 8 * joint.report.cache_after.elements_per_token);
      }
}

// The same layer as ordinary attention over what latents make: at any rank, in every type and cache.
TEST(LowRankLayer, MakesKeysOfLatentsOfEveryType) {
  const Weights w = random_weights({.num_q_heads = 4, .num_kv_heads = 2, .inputs = 40}, 7);
  const std::vector<float> x = activations<float>(150, 40, 8);
  const Numbers wide(x.begin(), x.end());
  const LowRankLayer apart =
                         to_low_rank_layer(w, rope_of(8), {.num_latents = 2, .key_rank = 5, .value_rank = 3}),
                     joint = to_low_rank_layer(w, rope_of(8), {.key_rank = 11});
  const auto expected = [&](const LowRankLayer& layer) {
    auto cache = cache_for<double>(layer, 150);
    if (!layer.v_down.empty()) return run_through(layer, wide, cache, 150);
    LatentCache<double> rows({.max_tokens = 150, .latent_dim = 11});
    return run_through(layer, wide, rows, 150);
  };
  const auto check = [&](const LowRankLayer& layer, auto cache, double tolerance) {
    const auto y = run_through(layer, x, cache, 150);
    const Numbers result(y.begin(), y.end());
    EXPECT_LE(relative_distance(result, expected(layer)), tolerance);
    cache.truncate(0);
    EXPECT_EQ(run_through(layer, x, cache, 7), y);  // not one bit depends on how tokens are cut
  };
  // 2^-9 and 2^-12: half a unit in the last place of what is cached, relative; a few of them meet.
  check(apart, cache_for<float>(apart, 150), 1e-5);
  check(apart, cache_for<half>(apart, 150), 4 * 0x1p-12);
  check(apart, cache_for<bfloat16>(apart, 150), 4 * 0x1p-9);
  check(joint, LatentCache<float>({.max_tokens = 150, .latent_dim = 11}), 1e-5);
  check(joint, LatentCache<half>({.max_tokens = 150, .latent_dim = 11}), 4 * 0x1p-12);
  check(joint, LatentCache<bfloat16>({.max_tokens = 150, .latent_dim = 11}), 4 * 0x1p-9);
  PagedCache<float> pool({.num_pages = 3, .num_kv_heads = 2, .head_dim = 5, .value_dim = 3});
  check(apart, pool.sequence(pool.create()), 1e-5);
}

// A piece that begins inside a tile has the keys that the whole tile has there, to the bit.
TEST(ReconstructedKeys, MakesTheSameOfAPieceOfATile) {
  const Numbers up = activations<double>(8, 3, 20), x = activations<double>(128, 5, 21);
  const KeyReconstruction<double> keys(up.data(), 1, 1, 8, 3, Rope(rope_of(8)));
  KVCache<double> cache({.max_tokens = 128, .num_kv_heads = 1, .head_dim = 3, .value_dim = 2});
  cache.append(TensorView<const double>(x.data(), 128, 1, 3), TensorView<const double>(x.data(), 128, 1, 2));
  const ReconstructedKeys view(cache.layer(0), keys);
  const auto bytes = static_cast<std::size_t>(view.scratch_bytes());
  std::vector<std::byte> whole_scratch(bytes), part_scratch(bytes);
  const KVTile whole = view.tile(0, 0, {64, 128}, whole_scratch.data());
  const KVTile part = view.tile(0, 0, {80, 93}, part_scratch.data());
  ASSERT_EQ(part.size, 13);
  for (Index d = 0; d < 8; ++d)
    for (Index j = 0; j < 13; ++j)
      EXPECT_EQ(part.k.as<double>()[d * part.k.stride + j],
                whole.k.as<double>()[d * whole.k.stride + 16 + j]);
}

TEST(LowRankLayer, SaysWhatDoesNotFit) {
  const Weights w = random_weights({.num_q_heads = 4, .num_kv_heads = 4, .inputs = 40}, 9);
  const auto said = [&](const convert::LowRankLayerOptions& options) {
    return message_of([&] { to_low_rank_layer(w, rope_of(8), options); });
  };
  EXPECT_EQ(said({.num_latents = 3, .key_rank = 1, .value_rank = 1}),
            "num_latents is 3, expected a divisor of the 4 KV heads");
  EXPECT_EQ(said({.num_latents = 2, .key_rank = 17, .value_rank = 1}), "key_rank is 17, expected 1 to 16");
  EXPECT_EQ(said({.num_latents = 2, .key_rank = 1, .value_rank = 13}), "value_rank is 13, expected 1 to 12");
  EXPECT_EQ(said({.num_latents = 2, .key_rank = 1, .value_rank = -1}), "value_rank is -1, expected 1 to 12");
  EXPECT_EQ(said({.key_rank = 41}), "key_rank is 41, expected 1 to 40");
  EXPECT_EQ(said({.num_latents = 2, .key_rank = 4}),
            "value_rank is 0, expected at least 1: keys and values of 2 latents are cached apart");
  EXPECT_EQ(message_of([&] {
              to_low_rank_layer(w, RopeConfig{.layout = RopeLayout::half, .head_dim = 6}, {.key_rank = 4});
            }),
            "rope: head_dim is 6, expected 8");

  const LowRankLayer good =
      to_low_rank_layer(w, rope_of(8), {.num_latents = 2, .key_rank = 5, .value_rank = 3});
  const LowRankMemory<float> memory(good);
  const auto refused = [&](auto&& change) {
    LowRankProjections p = memory.projections();
    LowRankAttentionConfig config = good.config;
    change(p, config);
    return message_of([&] { LowRankAttention<> layer(p, config); });
  };
  EXPECT_EQ(refused([](auto&, auto& c) { c.key_rank = 6; }),
            "LowRankAttention: the k_down weight has 10 rows, expected 12 = num_latents x key_rank");
  EXPECT_EQ(refused([](auto&, auto& c) { c.value_rank = 0; }),
            "LowRankAttention: value_rank is 0, expected at least 1");
  EXPECT_EQ(refused([](auto&, auto& c) { c.num_latents = 3; }),
            "LowRankAttention: num_kv_heads is 4, expected a multiple of the 3 of num_latents");
  EXPECT_EQ(refused([](auto& p, auto&) { p.key_up = p.key_up.middle_rows(0, 31); }),
            "LowRankAttention: the key_up weight has 31 rows, expected 32 = num_kv_heads x head_dim");
  EXPECT_EQ(refused([](auto& p, auto& c) { p.v_down = {}, c.value_rank = 7; }),
            "LowRankAttention: value_rank is 7, expected at most the 5 of key_rank, or v_down");

  const LowRankAttention<> layer(memory.projections(), good.config);
  const std::vector<float> x(80);
  std::vector<float> y(80);
  LayerMemory<> own;
  KVCache<float> other({.max_tokens = 9, .num_kv_heads = 2, .head_dim = 5, .value_dim = 4});
  EXPECT_EQ(message_of([&] {
              layer.forward(Serial{}, own, MatrixView(x.data(), 2, 40), other, MatrixOut(y.data(), 2, 40, 40),
                            causal());
            }),
            "cache: has 2 KV heads, head_dim 5 and value_dim 4, expected 2, 5 and 3 (latents)");
  EXPECT_EQ(other.size(), 0);
}

}  // namespace
}  // namespace gqa::test
