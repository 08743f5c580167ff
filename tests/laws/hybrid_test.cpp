// SPDX-License-Identifier: Apache-2.0
// A hybrid cache has, in each layer, the bits of a cache of that layer that keeps everything.
#include "gqa/kv/hybrid.hpp"

#include <gtest/gtest.h>

#include "laws/windowed_case.hpp"

namespace gqa {
namespace {

using test::TokenModel;

template <class T>
class HybridLaw : public ::testing::Test {};
TYPED_TEST_SUITE(HybridLaw, test::AllScalars, test::ScalarNames);

TYPED_TEST(HybridLaw, SameBitsAsACacheOfEverythingForEachLayer) {
  for (const std::uint64_t seed : test::seeds(6)) {
    test::Random random(seed);
    // Local layers to a global one, others of another shape, and windows that share no tile.
    const CacheLayer local{2, 16, 16, random.integer(1, 200), 0}, global{2, 16, 16}, wide{1, 33, 17},
        narrow{1, 8, 24, random.integer(1, 90), random.integer(1, 70)};
    const std::vector<CacheLayer> layers = {local, narrow, global, local, wide, local, narrow, global};
    const Index max_span = random.integer(1, 150), rollback = random.integer(0, 90);
    HybridCache<TypeParam> cache(
        {.max_tokens = 2000, .max_span = max_span, .rollback = rollback, .layers = layers});
    TokenModel<TypeParam> model(layers);
    test::expect_law(model, cache, max_span, rollback, 900, seed);
  }
}

TYPED_TEST(HybridLaw, WindowsOfOneLayerAreNoOthers) {
  // Equal in all but the window, a first layer that keeps everything, and one whose window holds it all.
  const std::vector<CacheLayer> layers = {{1, 8, 8}, {1, 8, 8, 10, 0}, {1, 8, 8, 10, 3}, {1, 8, 8, 1000, 0}};
  HybridCache<TypeParam> cache({.max_tokens = 700, .max_span = 33, .layers = layers});
  TokenModel<TypeParam> model(layers);
  test::expect_law(model, cache, 33, 0, 600, 1);
  EXPECT_EQ(cache.layer(0).retained(0), Ranges(Range{0, model.size()}));
  EXPECT_EQ(cache.layer(3).retained(0), Ranges(Range{0, model.size()}));
  EXPECT_LT(Ranges(cache.layer(1).retained(0)).positions(), ring_tokens(10, 33));
}

}  // namespace
}  // namespace gqa
