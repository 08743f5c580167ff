// SPDX-License-Identifier: Apache-2.0
// Multi-head latent attention, absorbed and naive, against the oracle; the same bits however tokens are cut.
#include "gqa/layer/latent_attention.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "gqa/kv/cache.hpp"
#include "gqa/kv/paged.hpp"
#include "gqa/mask/compose.hpp"
#include "layer/latent_case.hpp"
#include "support/message_of.hpp"

namespace gqa {
namespace {

using test::ByRows;
using test::LatentCase;
using test::LatentSizes;
using test::matrix;
using test::message_of;

constexpr LatentSizes v2_lite{
    .H = 4, .nope = 16, .rope = 8, .latent = 32, .value = 16, .q_rank = 0, .model = 20};
constexpr LatentSizes no_rope{
    .H = 2, .nope = 7, .rope = 0, .latent = 9, .value = 5, .q_rank = 3, .model = 11};

template <class T>
class LatentLayer : public ::testing::Test {
 public:
  /// What the issue of this layer asks of sums in float and in double, relative to the largest output.
  static void expect_close(const ByRows<T>& y, const ByRows<double>& exact, const char* what) {
    const double tolerance = std::is_same_v<T, float> ? 1e-5 : 1e-12;
    const double error = (y.template cast<double>() - exact).cwiseAbs().maxCoeff();
    EXPECT_LE(error, tolerance * exact.cwiseAbs().maxCoeff()) << what;
  }

  /// y of x, `step` tokens a call.
  template <class C, class... X>
  static ByRows<T> through(const LatentCase<T>& c, C& cache, const ByRows<T>& x, Index step,
                           const X&... extras) {
    LayerMemory<T> memory;
    ByRows<T> y(x.rows(), x.cols());
    for (Index t = 0; t < x.rows(); t += step) {
      const Index n = std::min(step, x.rows() - t);
      auto out = y.middleRows(t, n);
      const auto in = x.middleRows(t, n);
      c.layer().forward(Serial{}, memory, in, cache, out, extras...);
    }
    return y;
  }
};
using Sums = ::testing::Types<float, double>;
TYPED_TEST_SUITE(LatentLayer, Sums);

TYPED_TEST(LatentLayer, FollowsTheOracleAbsorbedAndNaive) {
  using T = TypeParam;
  for (const LatentSizes& sizes : {LatentSizes{}, v2_lite, no_rope}) {
    const LatentCase<T> c(sizes);
    for (const Index n : {1, 71}) {
      const ByRows<T> x = matrix<T>(n, sizes.model, 50);
      const auto exact = c.exact(x, causal());
      LayerMemory<T> memory;
      ByRows<T> naive(n, sizes.model);
      c.layer().forward(Serial{}, memory, x, naive, causal());
      this->expect_close(naive, exact, "naive");
      LatentCache<T> latents(c.cache(n));
      this->expect_close(this->through(c, latents, x, n, causal()), exact, "absorbed");
    }
  }
}

TYPED_TEST(LatentLayer, HasTheSameBitsForPrefillChunksAndDecode) {
  using T = TypeParam;
  const LatentCase<T> c;
  const ByRows<T> x = matrix<T>(70, c.s.model, 51);
  LatentCache<T> whole(c.cache(70));
  const ByRows<T> y = this->through(c, whole, x, 70, causal());
  for (const Index step : {1, 33}) {
    LatentCache<T> cache(c.cache(70));
    EXPECT_EQ(this->through(c, cache, x, step, causal()), y) << step;
  }
  KVCache<T> naive(
      {.max_tokens = 70, .num_kv_heads = c.s.H, .head_dim = c.s.nope + c.s.rope, .value_dim = c.s.value});
  ByRows<T> uncached(70, c.s.model);
  LayerMemory<T> memory;
  c.layer().forward(Serial{}, memory, x, uncached, causal());
  EXPECT_EQ(this->through(c, naive, x, 33, causal()), uncached);
}

TYPED_TEST(LatentLayer, ReadsLatentsOfAnyCacheAndOnAnyThreads) {
  using T = TypeParam;
  const LatentCase<T> c;
  const ByRows<T> x = matrix<T>(67, c.s.model, 52);
  const auto mask = causal() & sliding_window(40);
  LatentCache<T> latents(c.cache(67));
  const ByRows<T> y = this->through(c, latents, x, 67, mask);
  this->expect_close(y, c.exact(x, sliding_window(40)), "window");
  KVCache<T> contiguous(
      {.max_tokens = 67, .num_kv_heads = 1, .head_dim = c.s.latent + c.s.rope, .value_dim = c.s.latent});
  EXPECT_EQ(this->through(c, contiguous, x, 20, mask), y);
  PagedCache<T> pool(
      {.num_pages = 4, .num_kv_heads = 1, .head_dim = c.s.latent + c.s.rope, .value_dim = c.s.latent});
  auto paged = pool.sequence(pool.create());
  EXPECT_EQ(this->through(c, paged, x, 20, mask), y);
  test::Threads threads(3);
  LayerMemory<T> memory;
  LatentCache<T> again(c.cache(67));
  ByRows<T> threaded(67, c.s.model);
  c.layer().forward(threads, memory, x, again, threaded, mask);
  EXPECT_EQ(threaded, y);
  EXPECT_GT(threads.calls(), 0);
}

TEST(LatentAttention, KeepsSixteenBitLatents) {
  const LatentCase<float> c;
  const ByRows<float> x = matrix<float>(40, c.s.model, 53);
  LatentCache<bfloat16> cache({.max_tokens = 40, .latent_dim = c.s.latent, .rope_dim = c.s.rope});
  LayerMemory<> memory;
  ByRows<float> y(40, c.s.model);
  c.layer().forward(Serial{}, memory, x, cache, y, causal());
  const auto exact = c.exact(x, causal());
  // Rounding a row to 8 bits moves a score by 2^-9 of |q| |k|, here below 16.
  EXPECT_LE((y.cast<double>() - exact).cwiseAbs().maxCoeff(), 0x1p-9 * 16 * exact.cwiseAbs().maxCoeff());
  EXPECT_GT((y.cast<double>() - exact).cwiseAbs().maxCoeff(), 1e-5);
}

TEST(LatentAttention, HasThePublishedScale) {
  EXPECT_DOUBLE_EQ(latent_scale(128, 64), 1 / std::sqrt(192.0));
  const double mscale = 0.1 * std::log(40.0) + 1;  // V3: factor 40, mscale_all_dim 1
  EXPECT_DOUBLE_EQ(latent_scale(128, 64, 40, 1), mscale * mscale / std::sqrt(192.0));
}

TEST(LatentAttention, TakesDeepSeeksNames) {
  for (const LatentSizes& sizes : {LatentSizes{}, v2_lite}) {
    const LatentCase<float> c(sizes);
    std::map<std::string, MatrixView> tensors = {
        {"m.0.kv_a_proj_with_mqa.weight", c.kv_down},
        {"m.0.kv_b_proj.weight", c.kv_up},
        {"m.0.o_proj.weight", c.o},
        {"m.0.kv_a_layernorm.weight", MatrixView(c.kv_norm.data(), 1, sizes.latent)}};
    if (sizes.q_rank > 0) {
      tensors["m.0.q_a_proj.weight"] = c.q_down;
      tensors["m.0.q_b_proj.weight"] = c.q;
      tensors["m.0.q_a_layernorm.weight"] = MatrixView(c.q_norm.data(), 1, sizes.q_rank);
    } else {
      tensors["m.0.q_proj.weight"] = c.q;
    }
    const auto find = [&](const std::string& name) -> std::optional<MatrixView> {
      const auto found = tensors.find(name);
      return found == tensors.end() ? std::nullopt : std::optional(found->second);
    };
    LatentAttentionConfig config = c.config();
    config.q_norm.reset();
    config.latent_norm.reset();
    const LatentProjections p = deepseek_projections("m.0.", find, config);
    const ByRows<float> x = matrix<float>(5, sizes.model, 54);
    LayerMemory<> memory;
    ByRows<float> y(5, sizes.model), expected(5, sizes.model);
    LatentAttention<>(p, config).forward(Serial{}, memory, x, y, causal());
    c.layer().forward(Serial{}, memory, x, expected, causal());
    EXPECT_EQ(y, expected);
    tensors.erase("m.0.kv_b_proj.weight");
    EXPECT_EQ(message_of([&] { deepseek_projections("m.0.", find, config); }),
              "m.0.kv_b_proj.weight: is missing");
  }
}

TEST(LatentAttention, NamesTheSizeThatDisagrees) {
  const LatentCase<float> c;
  const auto said = [&](auto&& change) {
    LatentProjections p = c.projections();
    LatentAttentionConfig config = c.config();
    change(p, config);
    return message_of([&] { LatentAttention<> layer(p, config); });
  };
  EXPECT_EQ(said([](auto&, auto& config) { config.scale = 0; }),
            "LatentAttention: scale is 0, expected a positive number, see latent_scale()");
  EXPECT_EQ(said([](auto&, auto& config) { config.latent_norm.reset(), config.latent_dim = 19; }),
            "LatentAttention: the kv_down weight has 26 rows, expected 25 = latent_dim + rope_dim");
  EXPECT_EQ(
      said([](auto&, auto& config) { config.value_dim = 11; }),
      "LatentAttention: the kv_up weight has 66 rows, expected 69 = num_q_heads x (nope_dim + value_dim)");
  EXPECT_EQ(said([](auto&, auto& config) { config.latent_dim = 19; }),
            "LatentAttention: latent_norm has 20 weights, expected 19");
  EXPECT_EQ(said([](auto&, auto& config) { config.num_q_heads = 0; }),
            "LatentAttention: num_q_heads is 0, expected at least 1");
  EXPECT_EQ(
      said([](auto&, auto& config) { config.rope = Rope({.layout = RopeLayout::half, .head_dim = 8}); }),
      "LatentAttention: head_dim of rope is 8, expected the 6 of rope_dim");
  EXPECT_EQ(said([&](auto& p, auto&) { p.q.weight = c.q; }),
            "LatentAttention: q_down or q_up beside q, expected either");
  EXPECT_EQ(said([](auto& p, auto&) { p.kv_up = {}; }), "LatentAttention: the kv_up weight is missing");
  EXPECT_EQ(said([](auto& p, auto&) { p.q_down = {}; }), "LatentAttention: the q_down weight is missing");
  EXPECT_EQ(said([](auto& p, auto&) { p.output.weight.columns = 29, p.output.weight.stride = 30; }),
            "LatentAttention: the output weight has 29 columns, expected 30 = num_q_heads x value_dim");
}

TEST(LatentAttention, RefusesCachesOfOtherSizesAndLeavesThemAsTheyWere) {
  const LatentCase<float> c;
  const auto layer = c.layer();
  LayerMemory<> memory;
  const ByRows<float> x = matrix<float>(3, c.s.model, 55), wide = matrix<float>(3, c.s.model + 1, 55);
  ByRows<float> y = ByRows<float>::Constant(3, c.s.model, 7);
  LatentCache<float> other({.max_tokens = 9, .latent_dim = 20, .rope_dim = 4}), cache(c.cache(2));
  EXPECT_EQ(
      message_of([&] { layer.forward(Serial{}, memory, x, other, y, causal()); }),
      "cache: has 1 KV heads, head_dim 24 and value_dim 20, expected 1, 26 and 20 (latents), or 3, 18 and 10 "
      "(keys and values of all heads)");
  EXPECT_EQ(message_of([&] { layer.forward(Serial{}, memory, wide, cache, y, causal()); }),
            "x: columns is 25, expected the 24 of the layer's weights");
  EXPECT_THROW(layer.forward(Serial{}, memory, x, cache, y, causal()), std::length_error);
  EXPECT_EQ(other.size(), 0);
  EXPECT_EQ(cache.size(), 0);
  EXPECT_EQ(y, ByRows<float>::Constant(3, c.s.model, 7));
  // A mask that throws: the tokens are forgotten.
  const auto broken = mask_fn([](Index, Index) -> bool { throw std::runtime_error("no"); });
  LatentCache<float> room(c.cache(9));
  EXPECT_THROW(layer.forward(Serial{}, memory, x, room, y, broken), std::runtime_error);
  EXPECT_EQ(room.size(), 0);
}

}  // namespace
}  // namespace gqa
