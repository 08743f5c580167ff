// SPDX-License-Identifier: Apache-2.0
// The cost model's counts against counting one by one, its formula by hand, and that what it measures are
// rates.
#include "gqa/plan/cost.hpp"

#include <gtest/gtest.h>

#include "gqa/plan/measure_rates.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

using test::message_of;

const CostRates rates{.element_bytes = 2,
                      .num_threads = 1,
                      .read = {{{1 << 20, 100e9}, {16 << 20, 50e9}, {128 << 20, 20e9}}},
                      .multiply = 50e9,
                      .score = 5e9,
                      .mask = 1e-7,
                      .call = 1e-6};

TEST(CallShape, PairsAreThoseOfWholeTiles) {
  for (std::uint64_t seed : test::seeds(300)) {
    test::Random random(seed);
    CallShape s{.num_q_heads = 1, .num_kv_heads = 1, .head_dim = 8, .kv_tokens = random.integer(1, 700)};
    s.q_tokens = random.integer(1, random.flip() ? 5 : s.kv_tokens);
    s.q_tokens = std::min(s.q_tokens, s.kv_tokens);
    s.causal = random.flip(0.8);
    if (s.causal && random.flip()) s.window = random.integer(1, 800);
    double pairs = 0;
    for (Index q = s.kv_tokens - s.q_tokens; q < s.kv_tokens; ++q) {
      for (Index tile = 0; tile < s.kv_tokens; tile += 64) {
        bool seen = false;
        for (Index k = tile; k < std::min(tile + 64, s.kv_tokens); ++k)
          seen = seen || ((!s.causal || k <= q) && (s.window == 0 || k > q - s.window));
        if (seen) pairs += static_cast<double>(std::min<Index>(64, round_up(s.kv_tokens - tile, 16)));
      }
    }
    EXPECT_EQ(detail::multiplied_pairs(s), pairs)
        << s.q_tokens << " of " << s.kv_tokens << ", causal " << s.causal << ", window " << s.window;
  }
}

TEST(CallShape, BytesAreThoseOfSeenKeysAndValues) {
  CallShape s{
      .num_q_heads = 8, .num_kv_heads = 2, .head_dim = 40, .value_dim = 24, .kv_tokens = 1000, .num_seqs = 3};
  EXPECT_EQ(detail::kv_bytes(s, 2), 3 * 1000 * 2 * (40 + 24) * 2);
  s.window = 100;
  EXPECT_EQ(detail::kv_bytes(s, 2), 3 * 100 * 2 * (40 + 24) * 2);
  s.q_tokens = 10;
  EXPECT_EQ(detail::kv_bytes(s, 2), 3 * 109 * 2 * (40 + 24) * 2);
}

TEST(Cost, ReadingIsHeldToWhereTheKeysAre) {
  EXPECT_EQ(detail::read_rate(rates, 1), 100e9);
  EXPECT_EQ(detail::read_rate(rates, 1 << 20), 100e9);
  EXPECT_NEAR(detail::read_rate(rates, std::sqrt(2.0) * (1 << 20)), std::sqrt(100e9 * 50e9), 1);
  EXPECT_EQ(detail::read_rate(rates, 2 << 20), 50e9);
  EXPECT_EQ(detail::read_rate(rates, 16 << 20), 50e9);
  EXPECT_NEAR(detail::read_rate(rates, 32 << 20), 20e9, 1);
  EXPECT_NEAR(detail::read_rate(rates, 1e12), 20e9, 1);
}

TEST(Cost, IsTheFormula) {
  const CallShape s{.num_q_heads = 8, .num_kv_heads = 2, .head_dim = 64, .kv_tokens = 4096};
  // 2 MiB of keys and values in the last cache; 8 x 4,096 scores of 128 multiply-adds each; 2 kB of rows.
  const double read = 2.0 * (1 << 20) / 50e9, arithmetic = 8 * 4096 * (128 / 50e9 + 1 / 5e9);
  EXPECT_NEAR(predicted_seconds(rates, s), std::hypot(read, arithmetic) + 2048 / 50e9 + 1e-6, 1e-12);
  const double from_memory = 2.0 * (1 << 20) / 20e9;
  EXPECT_NEAR(predicted_seconds(rates, s, {.footprint = 1e9}),
              std::hypot(from_memory, arithmetic) + 2048 / 50e9 + 1e-6, 1e-12);
  // A mask is asked of each token for each KV head, and twice where there is a window.
  CallShape masked = s, unmasked = s;
  masked.q_tokens = unmasked.q_tokens = 2;
  unmasked.causal = false;
  EXPECT_NEAR(predicted_seconds(rates, masked) - predicted_seconds(rates, unmasked), 8 * 4e-7, 1e-12);
  EXPECT_EQ(detail::masked_tiles(masked), 8 * 4);
  masked.window = 100;
  EXPECT_EQ(detail::masked_tiles(masked), 8 * 8);
  EXPECT_EQ(detail::masked_tiles(s), 0);
  // One task packs all keys of each KV head, as 30 rows would multiply them.
  const double packing = arithmetic + 2 * 30 * 4096 * (128 / 50e9 + 1 / 5e9);
  EXPECT_NEAR(predicted_seconds(rates, s, {.in_tensors = true}),
              std::hypot(read, packing) + 2048 / 50e9 + 1e-6, 1e-12);
  // From 64 rows on, keys of 16 bits are widened.
  CallShape many = s;
  many.q_tokens = 16;
  CostRates widening = rates;
  widening.widens = true;
  EXPECT_NEAR(predicted_seconds(widening, many) - predicted_seconds(rates, many), 2 * 4096 * 64 * 10 / 50e9,
              1e-12);
  many.q_tokens = 15;
  EXPECT_EQ(predicted_seconds(widening, many), predicted_seconds(rates, many));
}

TEST(Cost, EachTaskPacksTheKeysItReads) {
  CallShape s{.num_q_heads = 2, .num_kv_heads = 2, .head_dim = 64, .q_tokens = 6144, .kv_tokens = 8000};
  const Index rows = detail::tuning::block_sizes(64, 64, 4).task_rows;
  double keys = 0;
  for (Index begin = 0; begin < s.q_tokens; begin += rows)
    keys += static_cast<double>(s.kv_tokens - s.q_tokens + std::min(begin + rows, s.q_tokens));
  EXPECT_GT(s.q_tokens, rows);
  EXPECT_NEAR(detail::packed_pairs(s), 2 * 30 * keys, 0.1 * 2 * 30 * keys);
  s.causal = false;
  EXPECT_EQ(detail::packed_pairs(s), 2 * 30 * static_cast<double>(ceil_div(s.q_tokens, rows) * s.kv_tokens));
}

TEST(Cost, GrowsWithEverySize) {
  const CallShape s{
      .num_q_heads = 8, .num_kv_heads = 2, .head_dim = 64, .q_tokens = 100, .kv_tokens = 4096, .window = 500};
  const double time = predicted_seconds(rates, s);
  for (Index CallShape::*size : {&CallShape::num_q_heads, &CallShape::num_kv_heads, &CallShape::head_dim,
                                 &CallShape::q_tokens, &CallShape::num_seqs, &CallShape::window}) {
    CallShape larger = s;
    larger.*size *= 2;
    if (size == &CallShape::num_q_heads) larger.num_kv_heads *= 2;
    EXPECT_GT(predicted_seconds(rates, larger), time);
  }
  CallShape all = s;
  all.window = 0;
  EXPECT_GT(predicted_seconds(rates, all), 2 * time);
  CallShape unmasked = all;
  unmasked.causal = false;
  EXPECT_GE(predicted_seconds(rates, unmasked),
            predicted_seconds(rates, all) - rates.mask * detail::masked_tiles(all) - 1e-15);
  // Sizes that no memory holds are none of its business.
  EXPECT_LT(predicted_seconds(rates, {.head_dim = 128, .q_tokens = 1 << 30, .kv_tokens = 1 << 30}), 1e12);
}

TEST(Cost, MeasuresRates) {
  const CostRates found = measure_rates<bfloat16>(Serial{}, {.seconds = 0.02, .memory = 2 << 20});
  EXPECT_EQ(found.element_bytes, 2);
  EXPECT_EQ(found.num_threads, 1);
  for (const CostRates::Read& read : found.read) EXPECT_GT(read.rate, 1e5);
  EXPECT_GT(found.multiply, 1e6);
  EXPECT_GT(found.score, 1e5);
  EXPECT_GT(predicted_seconds(found, {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 32, .kv_tokens = 100}),
            found.call);
}

TEST(Cost, BadInput) {
  const auto refused = [](const CostRates& r, const CallShape& s = {}, double footprint = 0) {
    return message_of<std::invalid_argument>([&] { predicted_seconds(r, s, {.footprint = footprint}); });
  };
  EXPECT_EQ(refused(rates, {.num_q_heads = 3, .num_kv_heads = 2}),
            "shape: num_q_heads is 3, expected a multiple of num_kv_heads = 2");
  EXPECT_EQ(refused(rates, {}, -1), "footprint is -1 bytes, expected at least 0");
  EXPECT_NE(refused(rates, {}, std::nan("")), "nothing thrown");
  EXPECT_EQ(refused({}), "rates: read.rate is 0, expected more than 0");
  CostRates wrong = rates;
  wrong.multiply = std::nan("");
  EXPECT_EQ(refused(wrong), "rates: multiply is nan, expected more than 0");
  wrong = rates;
  wrong.score = -1;
  EXPECT_EQ(refused(wrong), "rates: score is -1, expected more than 0");
  wrong = rates;
  wrong.read[1].fits = 5;
  EXPECT_EQ(refused(wrong), "rates: read.fits is 5, expected more than 1.04858e+06");
  wrong = rates;
  wrong.mask = -1;
  EXPECT_EQ(refused(wrong), "rates: mask is -1, expected at least 0");
  wrong = rates;
  wrong.call = -1;
  EXPECT_EQ(refused(wrong), "rates: call is -1, expected at least 0");
  EXPECT_EQ(message_of<std::invalid_argument>([] { measure_rates<float>(Serial{}, {.seconds = -1}); }),
            "seconds is -1, expected more than 0, at most 3600");
  EXPECT_EQ(message_of<std::invalid_argument>([] { measure_rates<float>(Serial{}, {.memory = 5}); }),
            "memory is 5 bytes, expected 2^20 to 2^50");
}

}  // namespace
}  // namespace gqa
