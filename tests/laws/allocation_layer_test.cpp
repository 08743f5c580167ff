// SPDX-License-Identifier: Apache-2.0
// Layers allocate nothing once a call as large has been made with their memory, nor does a tape.
#include <gtest/gtest.h>

#include "gqa/kv/cache.hpp"
#include "gqa/layer/attention_tape.hpp"
#include "gqa/layer/latent_attention.hpp"
#include "gqa/score.hpp"
#include "laws/allocations.hpp"
#include "layer/latent_case.hpp"
#include "layer/layer_case.hpp"

namespace gqa {
namespace {

using test::ByRows;
using test::LatentCase;
using test::LayerCase;
using test::matrix;

class LayerAllocations : public Allocations {};

/// y of `tokens` more tokens, prefill and decode, of a cache with room for them.
template <class Layer, class Cache>
void expect_none(const Layer& layer, Cache& cache, const char* what) {
  LayerMemory<> memory;
  const ByRows<float> x = matrix<float>(40, layer.in_dim(), 1);
  ByRows<float> y(40, layer.out_dim());
  const auto pass = [&](Index tokens) {
    const MatrixView in(x.data(), tokens, layer.in_dim());
    const MatrixOut out(y.data(), tokens, layer.out_dim(), layer.out_dim());
    layer.forward(Serial{}, memory, in, cache, 0, cache.extend(tokens), out, causal());
  };
  pass(40);
  EXPECT_EQ(allocations_of([&] { pass(40); }), 0) << what << ", prefill";
  EXPECT_EQ(allocations_of([&] { pass(1); }), 0) << what << ", decode";
}

TEST_F(LayerAllocations, NoneOfLayersOverCaches) {
  const LayerCase<float> c({.H = 6, .G = 2, .D = 8, .Dv = 8});
  KVCache<bfloat16> cache({.max_tokens = 200, .num_kv_heads = 2, .head_dim = 8});
  expect_none(c.layer(), cache, "AttentionLayer");
  const LatentCase<float> latent;
  LatentCache<bfloat16> latents(
      {.max_tokens = 200, .latent_dim = latent.s.latent, .rope_dim = latent.s.rope});
  expect_none(latent.layer(), latents, "LatentAttention");
}

TEST_F(LayerAllocations, NoneOfATape) {
  const LayerCase<float> c({.H = 6, .G = 2, .D = 8, .Dv = 8});
  const auto layer = c.layer();
  LayerMemory<> memory;
  AttentionTape<> tape;
  AttentionGradients<> gradients;
  const ByRows<float> x = matrix<float>(50, layer.in_dim(), 1), dy = matrix<float>(50, layer.out_dim(), 2);
  ByRows<float> y(50, layer.out_dim());
  const auto step = [&] {
    tape.forward(Serial{}, layer, memory, x, y, causal());
    tape.backward(Serial{}, layer, memory, dy, gradients, causal());
  };
  step();
  EXPECT_EQ(allocations_of(step), 0);
}

}  // namespace
}  // namespace gqa
