// SPDX-License-Identifier: Apache-2.0
// Random sequences of operations on a ring cache against plain vectors of tokens.
#include "gqa/kv/ring.hpp"
#include "kv/random_operations.hpp"
#include "kv/sequence_model.hpp"

namespace gqa {
namespace {

using test::SequenceModel;

template <class T>
SequenceModel<RingCache<T>> model(Index window, Index sinks, Index max_span, Index rollback,
                                  Index max_tokens) {
  const CacheLayer layer{1, 3, 2, window, sinks};
  return {RingCache<T>({.window = window,
                        .sinks = sinks,
                        .max_span = max_span,
                        .rollback = rollback,
                        .max_tokens = max_tokens,
                        .num_layers = 2,
                        .num_kv_heads = 1,
                        .head_dim = 3,
                        .value_dim = 2}),
          {.layers = {layer, layer}, .max_tokens = max_tokens, .max_span = max_span, .rollback = rollback}};
}

TEST(RingModel, Float) {
  test::expect_as_modelled([] { return model<float>(50, 5, 70, 20, max_position); });
}
TEST(RingModel, DoubleWithoutSinks) {
  test::expect_as_modelled([] { return model<double>(100, 0, 33, 1, max_position); });
}
TEST(RingModel, HalfWithTwoTilesOfSinks) {
  test::expect_as_modelled([] { return model<half>(1, 128, 130, 0, 900); });
}
TEST(RingModel, BrainFloat) {
  test::expect_as_modelled([] { return model<bfloat16>(77, 67, 50, 64, max_position); });
}
TEST(RingModel, BrainFloatOfFewTokens) {
  test::expect_as_modelled([] { return model<bfloat16>(20, 3, 100, 0, 250); });
}

}  // namespace
}  // namespace gqa
