// SPDX-License-Identifier: Apache-2.0
// Layers turned into latent attention: exact where they say so, and else what their definition says, against
// the oracle.
#include "gqa/convert/latent.hpp"

#include "convert/exact_layer.hpp"
#include "gqa/convert/low_rank.hpp"
#include "gqa/kv/latent.hpp"
#include "gqa/layer/latent_attention.hpp"
#include "gqa/mask/window.hpp"
#include "gqa/reference/latent_attention.hpp"
#include "support/message_of.hpp"

namespace gqa::test {
namespace {

using convert::Calibration;
using convert::KeptPairs;
using convert::Latent;
using convert::LatentMemory;
using convert::LatentOptions;
using convert::to_latent;
using convert::Weights;

/// The converted layer as it runs, over a cache of latents or (naive) without one.
Numbers run_latent(const Latent& latent, const Numbers& x, bool naive = false) {
  const LatentMemory<double> memory(latent);
  const LatentAttention<double> layer(memory.projections(), latent.config);
  const Index tokens = static_cast<Index>(x.size()) / layer.in_dim();
  Numbers y(static_cast<std::size_t>(tokens * layer.out_dim()));
  const MatrixView in(x.data(), tokens, layer.in_dim());
  const MatrixOut out(y.data(), tokens, layer.out_dim(), layer.out_dim());
  LayerMemory<double> own;
  if (naive) {
    layer.forward(Serial{}, own, in, out, causal());
  } else {
    LatentCache<double> cache(
        {.max_tokens = tokens, .latent_dim = latent.config.latent_dim, .rope_dim = latent.config.rope_dim});
    layer.forward(Serial{}, own, in, cache, out, causal());
    EXPECT_EQ(cache.bytes_per_token(), 8 * latent.report.cache_after.elements_per_token);
  }
  return y;
}

void expect_same(const Latent& latent, const Weights& w, const Numbers& x, const Numbers& frequencies,
                 const std::string& what) {
  const Numbers y = exact(w, x, frequencies, latent.config.scale);
  EXPECT_LE(relative_distance(run_latent(latent, x), y), 1e-11) << what;
  EXPECT_LE(relative_distance(run_latent(latent, x, true), y), 1e-11) << what;
}

/// Full rank of a layer whose inputs are fewer, or more, than its rows.
Index full_rank(const Weights& w, Index elements_in_latent) {
  return std::min(w.num_kv_heads() * (elements_in_latent + w.value_dim()),
                  w.kv_inputs() + (w.bk.empty() ? 0 : 1));
}

// Heads of 8 elements of which 4 are rotated, or 8, or none.
TEST(ToLatent, IsExactAtFullRankWhereAllThatIsRotatedStaysSo) {
  for (const Index inputs : {20, 50})
    for (const bool biases : {false, true})
      for (const Index rotary : {0, 4, 8}) {
        const Weights w =
            random_weights({.num_q_heads = 6, .num_kv_heads = 3, .inputs = inputs, .biases = biases}, 1);
        const Numbers x = activations<double>(60, inputs, 2), some(x.begin(), x.begin() + 11 * inputs);
        const Calibration c = calibration_of(x, inputs);
        const auto rope =
            rotary == 0
                ? std::nullopt
                : std::optional(RopeConfig{
                      .layout = RopeLayout::half, .head_dim = 8, .rotary_dim = rotary, .theta = theta});
        for (const Calibration* given : {static_cast<const Calibration*>(nullptr), &c})
          for (const bool mix : {false, true}) {
            const Latent latent = to_latent(w, rope,
                                            {.rank = full_rank(w, 8 - rotary),
                                             .rope_dim = 3 * rotary,
                                             .mix_heads = mix,
                                             .calibration = given});
            expect_same(latent, w, some, frequencies_of(rotary),
                        std::to_string(inputs) + " inputs, " + std::to_string(rotary) + " rotated");
            EXPECT_LE(latent.unrotated, 1e-14);
            EXPECT_LE(latent.report.relative_error(), 1e-20);
          }
      }
}

// One KV head, of which some pairs stay: a key's others are as if they had never been rotated. At equal steps
// they are those of DeepSeek's rotation, so that its oracle can say it in its own way.
TEST(ToLatent, RotatesWhatIsKeptAndNothingElse) {
  const Weights w = random_weights({.num_q_heads = 3, .num_kv_heads = 1, .inputs = 21, .biases = true}, 3);
  const Numbers x = activations<double>(13, 21, 4);
  const RopeConfig rope{.layout = RopeLayout::half, .head_dim = 8, .theta = theta};
  const auto with = [&](KeptPairs kept, const std::vector<Index>& pairs) {
    const Latent latent =
        to_latent(w, rope, {.rank = full_rank(w, 4), .rope_dim = 4, .kept = kept, .scale = 0.7});
    EXPECT_EQ(latent.kept_pairs, pairs);
    EXPECT_EQ(latent.config.nope_dim, 4);
    Numbers frequencies = frequencies_of(8);
    for (std::size_t i = 0; i < 4; ++i)
      if (std::find(pairs.begin(), pairs.end(), static_cast<Index>(i)) == pairs.end()) frequencies[i] = 0;
    expect_same(latent, w, x, frequencies, "kept " + std::to_string(pairs[1]));
    return latent;
  };
  with(KeptPairs::high_frequency, {0, 1});
  with(KeptPairs::uniform, {0, 2});
}

// The definition at any rank: latents made and read by the oracle of latent attention.
TEST(ToLatent, RunsAsTheOracleOfLatentAttentionSays) {
  const Weights w = random_weights({.num_q_heads = 4, .num_kv_heads = 2, .inputs = 23}, 5);
  const Numbers x = activations<double>(40, 23, 6), some(x.begin(), x.begin() + 9 * 23);
  const Calibration c = calibration_of(x, 23);
  const RopeConfig rope{.layout = RopeLayout::interleaved, .head_dim = 8, .theta = theta};
  for (const bool mix : {false, true}) {
    const Latent latent = to_latent(w, rope, {.rank = 7, .rope_dim = 6, .mix_heads = mix, .calibration = &c});
    Numbers frequencies;
    for (const Index pair : latent.kept_pairs)
      frequencies.push_back(frequencies_of(8)[static_cast<std::size_t>(pair)]);
    const Numbers y =
        reference::latent_attention({.num_tokens = 9,
                                     .model_dim = 23,
                                     .num_heads = 4,
                                     .nope_dim = latent.config.nope_dim,
                                     .rope_dim = 6,
                                     .latent_dim = 7,
                                     .value_dim = 6,
                                     .out_dim = 23,
                                     .x = some,
                                     .wq = latent.wq.values(),
                                     .wkv_down = latent.kv_down.values(),
                                     .wkv_up = latent.kv_up.values(),
                                     .wo = latent.wo.values(),
                                     .scale = 1 / std::sqrt(8.0),
                                     .frequencies = frequencies,
                                     .visible = [](Index, Index i, Index j) { return j <= i; }});
    EXPECT_LE(relative_distance(run_latent(latent, some), y), 1e-12);
    EXPECT_EQ(latent.report.cache_before.elements_per_token, 28);
    EXPECT_EQ(latent.report.cache_after.elements_per_token, 13);
  }
}

// KV heads whose keys are one head's, each pair turned and stretched: one rotated key serves them all.
TEST(ToLatent, SharesOneRotatedKeyAmongHeadsThatAreTheSameUpToTurns) {
  Weights w = random_weights({.num_q_heads = 4, .num_kv_heads = 2, .inputs = 24}, 7);
  for (Index i = 0; i < 4; ++i) {
    const auto turn = std::polar(0.5 + 0.3 * static_cast<double>(i), 1.0 + static_cast<double>(i));
    for (Index c = 0; c < 24; ++c) {
      const auto z = turn * std::complex(w.wk(i, c), w.wk(i + 4, c));
      w.wk(8 + i, c) = z.real();
      w.wk(12 + i, c) = z.imag();
    }
  }
  const Numbers x = activations<double>(60, 24, 8), some(x.begin(), x.begin() + 10 * 24);
  const Calibration c = calibration_of(x, 24);
  const RopeConfig rope{.layout = RopeLayout::half, .head_dim = 8, .theta = theta};
  for (const KeptPairs kept : {KeptPairs::by_norm, KeptPairs::by_turn}) {
    const LatentOptions options{.rank = 12, .rope_dim = 8, .kept = kept, .calibration = &c};
    const Latent mixed = to_latent(w, rope, options);
    EXPECT_EQ(mixed.kept_pairs, (std::vector<Index>{0, 1, 2, 3}));
    EXPECT_LE(mixed.unrotated, 1e-13);
    const Numbers y = exact(w, some, frequencies_of(8), 1 / std::sqrt(8.0));
    // The latent's 12 are values' rows: what is left of keys is 0.
    EXPECT_LE(relative_distance(run_latent(mixed, some), y), 1e-9);
    LatentOptions apart = options;
    apart.mix_heads = false;
    EXPECT_GT(relative_distance(run_latent(to_latent(w, rope, apart), some), y), 1e-2);
  }
}

TEST(ToLatent, KeepsThePairsThatMatter) {
  Weights w = random_weights({.num_q_heads = 2, .num_kv_heads = 2, .inputs = 20}, 9);
  const RopeConfig rope{.layout = RopeLayout::half, .head_dim = 8, .theta = 1e6};
  for (const auto& [head, pair] : {std::pair<Index, Index>{1, 3}, {0, 1}})
    for (Index c = 0; c < 20; ++c) w.wk(head * 8 + pair, c) *= 30;
  const auto kept = [&](KeptPairs which, Index rope_dim, bool mix = false) {
    return to_latent(w, rope, {.rank = 1, .rope_dim = rope_dim, .kept = which, .mix_heads = mix}).kept_pairs;
  };
  using Pairs = std::vector<Index>;
  EXPECT_EQ(kept(KeptPairs::by_norm, 4), (Pairs{1, 3}));
  EXPECT_EQ(kept(KeptPairs::by_norm, 4, true), (Pairs{1, 3}));
  // Pair 3 turns by 10^-4.5 a position: within 512 tokens not at all.
  EXPECT_EQ(kept(KeptPairs::by_turn, 2), (Pairs{1}));
  EXPECT_NE(kept(KeptPairs::by_turn, 4), (Pairs{1, 3}));
  EXPECT_EQ(kept(KeptPairs::high_frequency, 6), (Pairs{0, 0, 1}));
  EXPECT_EQ(kept(KeptPairs::uniform, 8), (Pairs{0, 0, 2, 2}));
  EXPECT_EQ(kept(KeptPairs::uniform, 6), (Pairs{0, 0, 2}));
  EXPECT_EQ(kept(KeptPairs::uniform, 12), (Pairs{0, 0, 1, 1, 2, 2}));
  EXPECT_EQ(kept(KeptPairs::by_norm, 0), Pairs{});
}

// What the report says is what comes out over the activations: keys before rotation, and values.
TEST(ToLatent, ReportsTheErrorsOfKeysAndValues) {
  const Weights w = random_weights({.num_q_heads = 4, .num_kv_heads = 2, .inputs = 20, .biases = true}, 10);
  const Numbers x = activations<double>(100, 20, 11);
  const Calibration c = calibration_of(x, 20);
  const Latent latent = to_latent(w, std::nullopt, {.rank = 6, .calibration = &c});
  const Numbers latents = project(x, latent.kv_down, latent.kv_down_bias);
  const Numbers made = project(latents, latent.kv_up, {});
  const Numbers k = project(x, w.wk, w.bk), v = project(x, w.wv, w.bv);
  double keys = 0, values = 0;
  for (std::size_t t = 0; t < 100; ++t)
    for (std::size_t g = 0; g < 2; ++g)
      for (std::size_t i = 0; i < 14; ++i) {  // head 2g reads KV head g
        const double now = made[t * 56 + 2 * g * 14 + i];
        const double d = now - (i < 8 ? k[t * 16 + g * 8 + i] : v[t * 12 + g * 6 + i - 8]);
        (i < 8 ? keys : values) += d * d / 100;
      }
  EXPECT_NEAR(latent.report.keys.error(), keys, 1e-10 * keys);
  EXPECT_NEAR(latent.report.values.error(), values, 1e-10 * values);
  EXPECT_GT(values, 0);
}

// Of all ways to the same cache, weighting errors by their effect loses least of the output.
TEST(ToLatent, LosesLessOfTheOutputThanUnweightedLowRank) {
  const Weights w = random_weights({.num_q_heads = 4, .num_kv_heads = 2, .inputs = 20}, 12);
  Weights uneven = w;  // keys of large numbers that small queries take back
  for (double& value : uneven.wk.values()) value *= 8;
  for (double& value : uneven.wq.values()) value /= 8;
  const Numbers x = activations<double>(100, 20, 13);
  const Calibration c = calibration_of(x, 20);
  const Numbers y = exact(w, x, {}, 1 / std::sqrt(8.0));
  const double weighted =
      relative_distance(run_latent(to_latent(uneven, std::nullopt, {.rank = 8, .calibration = &c}), x), y);
  const double plain =
      relative_distance(exact(convert::low_rank(uneven, 8, &c).weights, x, {}, 1 / std::sqrt(8.0)), y);
  EXPECT_LT(weighted, 0.8 * plain);
  // The balance does not depend on units.
  EXPECT_NEAR(weighted,
              relative_distance(run_latent(to_latent(w, std::nullopt, {.rank = 8, .calibration = &c}), x), y),
              1e-9);
}

TEST(ToLatent, TakesAnyGroupingAndAttentionFactors) {
  Weights w = random_weights({.num_q_heads = 3, .num_kv_heads = 3, .inputs = 20}, 14);
  w.heads = HeadGrouping({2, 0, 2}, 3);
  const Numbers x = activations<double>(9, 20, 15);
  const RopeConfig rope{.layout = RopeLayout::half,
                        .head_dim = 8,
                        .theta = theta,
                        .scaling = RopeScaling::factors({1, 1, 1, 1}, 1.25)};
  // Of two pairs rotated and two not, both count 1.25^2 times.
  Latent latent =
      to_latent(w, rope, {.rank = 20, .rope_dim = 12, .kept = KeptPairs::high_frequency, .scale = 0.3});
  Numbers frequencies = frequencies_of(8);
  frequencies[2] = frequencies[3] = 0;
  EXPECT_LE(relative_distance(run_latent(latent, x), exact(w, x, frequencies, 0.3 * 1.25 * 1.25)), 1e-11);
}

TEST(ToLatent, SaysWhatDoesNotFit) {
  const Weights w = random_weights({.num_q_heads = 4, .num_kv_heads = 2, .inputs = 70}, 16);
  const RopeConfig rope{.layout = RopeLayout::half, .head_dim = 8, .rotary_dim = 6};
  const auto said = [&](const LatentOptions& options) {
    return message_of([&] { to_latent(w, rope, options); });
  };
  EXPECT_EQ(said({.rank = 0}), "rank is 0, expected 1 to 28");
  EXPECT_EQ(said({.rank = 29}), "rank is 29, expected 1 to 28");
  EXPECT_EQ(said({.rank = 17, .rope_dim = 12}), "rank is 17, expected 1 to 16");
  for (const Index rope_dim : {-2, 3, 14})
    EXPECT_EQ(
        said({.rank = 1, .rope_dim = rope_dim}),
        "rope_dim is " + std::to_string(rope_dim) +
            ", expected an even number from 0 to the 12 elements of keys that are rotated, of all heads");
  EXPECT_EQ(
      message_of([&] { to_latent(w, std::nullopt, {.rank = 1, .rope_dim = 2}); }),
      "rope_dim is 2, expected an even number from 0 to the 0 elements of keys that are rotated, of all "
      "heads");
  EXPECT_EQ(said({.rank = 1, .kept = KeptPairs::by_turn, .context = 0}), "context is 0, expected at least 1");
  EXPECT_EQ(
      message_of([&] { to_latent(w, RopeConfig{.layout = RopeLayout::half, .head_dim = 6}, {.rank = 1}); }),
      "rope: head_dim is 6, expected 8");
  const Calibration narrow(20);
  EXPECT_EQ(said({.rank = 1, .calibration = &narrow}),
            "activations: width is 20, expected 70, the inputs of keys and values");
  Weights cross = w;
  cross.wq = convert::Matrix(32, 71);
  EXPECT_EQ(message_of([&] { to_latent(cross, rope, {.rank = 1}); }),
            "wq: cols is 71, expected the 70 of wk: a layer of latent attention has one input");
}

// A text shorter than the layer is wide says nothing of most directions: refused, or with noise kept.
TEST(ToLatent, OfFewerTokensThanInputs) {
  const Weights w = random_weights({.num_q_heads = 4, .num_kv_heads = 2, .inputs = 50}, 21);
  const Numbers x = activations<double>(12, 50, 22), seen(x.begin(), x.begin() + 3 * 50);
  Calibration c = calibration_of(seen, 50);
  const RopeConfig rope{.layout = RopeLayout::half, .head_dim = 8, .theta = theta};
  const auto of_rank = [&](Index rank) {
    return to_latent(w, rope, {.rank = rank, .rope_dim = 16, .calibration = &c});
  };
  EXPECT_EQ(message_of([&] { of_rank(2); }),
            "activations: 3 tokens have rank 3, expected 50; add more of them, or add_noise");
  c.add_noise(1e-3);
  expect_same(of_rank(full_rank(w, 0)), w, x, frequencies_of(8), "all");
  for (const double y : run_latent(of_rank(2), x)) ASSERT_TRUE(std::isfinite(y));
}

// Nothing to weigh by: zeros stay zeros.
TEST(ToLatent, OfZeros) {
  Weights w = random_weights({.num_q_heads = 2, .num_kv_heads = 2, .inputs = 20}, 17);
  w.wk = convert::Matrix(16, 20);
  w.wv = convert::Matrix(12, 20);
  const Latent latent =
      to_latent(w, RopeConfig{.layout = RopeLayout::half, .head_dim = 8}, {.rank = 2, .rope_dim = 6});
  EXPECT_EQ(latent.report.error(), 0);
  EXPECT_EQ(latent.unrotated, 0);
  for (const double y : run_latent(latent, activations<double>(3, 20, 18))) EXPECT_EQ(y, 0);
}

}  // namespace
}  // namespace gqa::test
