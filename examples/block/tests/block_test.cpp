// SPDX-License-Identifier: Apache-2.0
// A decoder block: its parameters are what the sizes say, its decode is its prefill, and no token sees what
// comes after it.
#include "block.hpp"

#include <gtest/gtest.h>

#include "gqa/cache.hpp"

namespace block {
namespace {

Matrix fed(const DecoderBlock<>& decoder, const Matrix& tokens, Index piece) {
  const Sizes& s = decoder.sizes();
  gqa::KVCache<float> cache(
      {.max_tokens = tokens.rows(), .num_kv_heads = s.num_kv_heads, .head_dim = s.head_dim});
  gqa::LayerMemory<> memory;
  Matrix all(tokens.rows(), tokens.cols());
  for (Index t = 0; t < tokens.rows(); t += piece) {
    const Index n = std::min(piece, tokens.rows() - t);
    Matrix x = tokens.middleRows(t, n);
    decoder.forward(gqa::Serial{}, memory, x, cache, 0, cache.extend(n));
    all.middleRows(t, n) = x;
  }
  return all;
}

TEST(DecoderBlock, HasTheParametersOfItsSizes) {
  for (const Index G : {6, 2, 1}) {
    const Sizes s{.num_q_heads = 6, .num_kv_heads = G, .head_dim = 4, .ffn_dim = 10};
    const DecoderBlock<> decoder(s);
    EXPECT_EQ(decoder.attention().num_parameters(), 2 * 24 * 24 + 2 * G * 4 * 24);
    EXPECT_EQ(decoder.num_parameters(), decoder.attention().num_parameters() + 3 * 10 * 24 + 2 * 24);
  }
}

TEST(DecoderBlock, HasTheParametersOfItsLatent) {
  const Sizes s{.num_q_heads = 6, .head_dim = 4, .ffn_dim = 10, .latent_dim = 14};
  const DecoderBlock<LatentHeads> decoder(s);
  EXPECT_EQ(decoder.attention().num_parameters(),
            6 * (4 + 2) * 24 + (14 + 2) * 24 + 6 * 2 * 4 * 14 + 24 * 24);
}

TEST(DecoderBlock, PrefillIsDecode) {
  const DecoderBlock<> decoder({.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 8, .ffn_dim = 24});
  const Matrix tokens = Matrix::Random(70, 32);
  const Matrix prefill = fed(decoder, tokens, 70);
  EXPECT_EQ(fed(decoder, tokens, 1), prefill);
  EXPECT_EQ(fed(decoder, tokens, 64), prefill);
  EXPECT_FALSE(prefill.isApprox(tokens));
}

TEST(DecoderBlock, SeesThePastAlone) {
  const DecoderBlock<> decoder({.num_q_heads = 4, .num_kv_heads = 1, .head_dim = 8, .ffn_dim = 24});
  Matrix tokens = Matrix::Random(20, 32);
  const Matrix before = fed(decoder, tokens, 20);
  tokens.row(10).setOnes();
  const Matrix after = fed(decoder, tokens, 20);
  EXPECT_EQ(after.topRows(10), before.topRows(10));
  for (Index t = 10; t < 20; ++t) EXPECT_NE(after.row(t), before.row(t)) << t;
}

}  // namespace
}  // namespace block
