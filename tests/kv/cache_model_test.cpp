// SPDX-License-Identifier: Apache-2.0
// Random sequences of operations on a KVCache against plain vectors of tokens.
#include "gqa/kv/cache.hpp"
#include "kv/random_operations.hpp"
#include "kv/sequence_model.hpp"

namespace gqa {
namespace {

using test::SequenceModel;

template <class T>
SequenceModel<KVCache<T>> model(Index max_tokens, Index limit_in_slabs = 0) {
  const Index limit = limit_in_slabs * test::block_bytes<T>({2, 3, 1}, 2, 512);
  return {KVCache<T>({.max_tokens = max_tokens,
                      .num_layers = 2,
                      .num_kv_heads = 2,
                      .head_dim = 3,
                      .value_dim = 1,
                      .memory_limit = limit}),
          {.layers = {{2, 3, 1}, {2, 3, 1}}, .max_tokens = max_tokens, .memory_limit = limit}};
}

TEST(CacheModel, Float) {
  test::expect_as_modelled([] { return model<float>(600); });
}
TEST(CacheModel, DoubleWithinAMemoryLimit) {
  test::expect_as_modelled([] { return model<double>(1300, 1); });
}
TEST(CacheModel, Half) {
  test::expect_as_modelled([] { return model<half>(700); });
}
TEST(CacheModel, BrainFloat) {
  test::expect_as_modelled([] { return model<bfloat16>(700); });
}

}  // namespace
}  // namespace gqa
