// SPDX-License-Identifier: Apache-2.0
// A caller's tensors as a view: every token in its place, whatever the strides.
#include "gqa/kv/contiguous.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kv/cache_reader.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

TEST(ContiguousKV, ShowsTheTensors) {
  const Index B = 2, N = 70, G = 3, D = 5, Dv = 4;
  const auto k = test::random_values<float>(1, B * N * G * D),
             v = test::random_values<float>(2, G * B * N * 9);
  const TensorView<const float> keys(k.data(), B, N, G, D);
  const TensorView<const float> values(v.data(), {B, N, G, Dv},
                                       {N * 9, 9, B * N * 9});  // heads first, rows of 9
  const ContiguousKV<float> view(keys, values);
  static_assert(KVView<ContiguousKV<float>>);
  EXPECT_EQ(view.num_seqs(), B);
  EXPECT_EQ(view.num_kv_heads(), G);
  EXPECT_EQ(view.head_dim(), D);
  EXPECT_EQ(view.value_dim(), Dv);
  for (Index b = 0; b < B; ++b) {
    EXPECT_EQ(view.retained(b), (Range{0, N}));
    for (Index g = 0; g < G; ++g) {
      for (Index t = 0; t < N; ++t) {
        const test::Token token(view, b, g, t);
        for (Index d = 0; d < D; ++d) ASSERT_EQ(&token.k(d), keys.at(b, t, g) + d);
        for (Index d = 0; d < Dv; ++d) ASSERT_EQ(&token.v(d), values.at(b, t, g) + d);
      }
    }
  }
}

TEST(ContiguousKV, RefusesValuesOfOtherTokens) {
  const float memory[64] = {};
  const auto make = [&](TensorView<const float> k, TensorView<const float> v) {
    return test::message_of<std::invalid_argument>([&] { ContiguousKV<float>(k, v); });
  };
  EXPECT_EQ(make({memory, 2, 3, 2, 2}, {memory, 1, 3, 2, 2}), "v: batch is 1, expected 2 as in k");
  EXPECT_EQ(make({memory, 3, 2, 2}, {memory, 4, 2, 2}), "v: tokens is 4, expected 3 as in k");
  EXPECT_EQ(make({memory, 3, 2, 2}, {memory, 3, 1, 2}), "v: heads is 1, expected 2 as in k");
  EXPECT_EQ(make({memory, 3, 2, 2}, {memory, 3, 2, 5}), "nothing thrown");
}

}  // namespace
}  // namespace gqa
