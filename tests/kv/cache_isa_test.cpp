// SPDX-License-Identifier: Apache-2.0
// Writing asks for kernels, which there may be none of: a cache is then as it was.
#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "gqa/kv/cache.hpp"
#include "kv/cache_reader.hpp"

namespace gqa {
namespace {

using test::message_of;

template <class T>
class CacheWithoutKernels : public ::testing::Test {
 protected:
  void SetUp() override { setenv("GQA_ISA", "unheard-of", 1); }
};
using Scalars = ::testing::Types<float, bfloat16>;
TYPED_TEST_SUITE(CacheWithoutKernels, Scalars);

TYPED_TEST(CacheWithoutKernels, IsLeftAsItWas) {
  KVCache<TypeParam> cache({.max_tokens = 800, .num_kv_heads = 1, .head_dim = 2});
  const std::vector<TypeParam> memory(1400, TypeParam(1));
  const auto tokens = [&](Index n) { return TensorView<const TypeParam>(memory.data(), n, 1, 2); };
  const std::string refusal = "GQA_ISA is 'unheard-of', expected generic, avx2, avx512, avx512bf16 or amx";
  for (Index n : {1, 7, 700}) {
    EXPECT_EQ(message_of<std::invalid_argument>([&] { cache.append(tokens(n), tokens(n)); }), refusal);
    EXPECT_EQ(cache.size(), 0);
    EXPECT_EQ(cache.allocated_bytes(), 0);
    EXPECT_EQ(cache.layer(0).retained(0), (Range{0, 0}));
  }
  const Span span = cache.extend(9);
  EXPECT_EQ(message_of<std::invalid_argument>([&] { cache.write(0, span, tokens(9), tokens(9)); }), refusal);
  EXPECT_EQ(cache.layer(0).retained(0), (Range{0, 0}));
  EXPECT_EQ(cache.size(), 9);
}

}  // namespace
}  // namespace gqa
