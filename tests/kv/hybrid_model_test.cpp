// SPDX-License-Identifier: Apache-2.0
// Random sequences of operations on a hybrid cache against plain vectors of tokens.
#include "gqa/kv/hybrid.hpp"
#include "kv/random_operations.hpp"
#include "kv/sequence_model.hpp"

namespace gqa {
namespace {

using test::SequenceModel;

template <class T>
SequenceModel<HybridCache<T>> model(Index max_tokens, Index max_span, Index rollback,
                                    const std::vector<CacheLayer>& layers, Index memory_limit = 0) {
  return {HybridCache<T>({max_tokens, max_span, rollback, layers, memory_limit}),
          {.layers = layers,
           .max_tokens = max_tokens,
           .max_span = max_span,
           .rollback = rollback,
           .memory_limit = memory_limit}};
}

TEST(HybridModel, Float) {
  test::expect_as_modelled([] {
    return model<float>(1300, 60, 30, {{1, 3, 1, 50, 5}, {2, 1, 2}, {1, 3, 1, 50, 5}, {1, 3, 1, 130, 0}});
  });
}
TEST(HybridModel, BrainFloat) {
  test::expect_as_modelled([] { return model<bfloat16>(1100, 90, 0, {{1, 3, 2}, {1, 3, 2, 33, 65}}); });
}
/// Room for the window and one slab of the layer that keeps every token.
TEST(HybridModel, BrainFloatWithinAMemoryLimit) {
  test::expect_as_modelled([] {
    const std::vector<CacheLayer> layers = {{1, 3, 2}, {1, 3, 2, 33, 65}};
    return model<bfloat16>(1100, 300, 0, layers, 2 * 20 * (512 + 128 + ring_tokens(33, 300)) + 100);
  });
}
TEST(HybridModel, HalfOfWindowsAlone) {
  test::expect_as_modelled([] { return model<half>(2000, 40, 10, {{1, 2, 1, 40, 0}, {1, 3, 1, 100, 70}}); });
}

}  // namespace
}  // namespace gqa
