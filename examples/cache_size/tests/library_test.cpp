// SPDX-License-Identifier: Apache-2.0
// The arithmetic here and the cache of the library count the same bytes.
#include <gtest/gtest.h>

#include "cache_size.hpp"
#include "gqa/kv/cache.hpp"
#include "models.hpp"

namespace cache_size {
namespace {

template <class T>
void expect_agreement(const Shape& s, Index bits) {
  gqa::KVCache<T> cache({.max_tokens = 4096,
                         .num_layers = s.layers,
                         .num_kv_heads = s.kv_heads,
                         .head_dim = s.head_dim,
                         .value_dim = s.value_dim});
  EXPECT_EQ(cache.bytes_per_token(), bytes_per_token(s, bits));
  cache.extend(3);
  EXPECT_EQ(cache.bytes(), bytes_per_sequence(s, bits, 3));
}

TEST(CacheSizeOfTheLibrary, Agrees) {
  const Shape& smollm = find_model("SmolLM2-135M").shape;
  expect_agreement<float>(smollm, bits_of("f32"));
  expect_agreement<double>(smollm, bits_of("f64"));
  expect_agreement<gqa::half>(smollm, bits_of("f16"));
  expect_agreement<gqa::bfloat16>(smollm, bits_of("bf16"));
  expect_agreement<float>({.layers = 2, .q_heads = 6, .kv_heads = 3, .head_dim = 40, .value_dim = 24}, 32);
}

}  // namespace
}  // namespace cache_size
