// SPDX-License-Identifier: Apache-2.0
// What a stranger's first program does with the library: a prefill, then the same token again from a cache.
#include <cmath>
#include <cstdio>
#include <gqa/gqa.hpp>

int main() {
  constexpr gqa::Index tokens = 5, num_q_heads = 8, num_kv_heads = 2, head_dim = 40;
  Eigen::Tensor<float, 3, Eigen::RowMajor> q(tokens, num_q_heads, head_dim),
      k(tokens, num_kv_heads, head_dim), v(tokens, num_kv_heads, head_dim);
  q.setRandom();
  k.setRandom();
  v.setRandom();
  const auto out = gqa::attention<num_q_heads, num_kv_heads>(q, k, v, gqa::causal());

  gqa::KVCache<float, num_kv_heads, head_dim> cache({.max_tokens = 64});
  cache.append(k, v);
  const gqa::TensorView<const float> last(&q(tokens - 1, 0, 0), 1, num_q_heads, head_dim);
  const auto decoded = gqa::attention(last, cache, gqa::causal());

  int wrong = 0;
  for (gqa::Index h = 0; h < num_q_heads; ++h) {
    for (gqa::Index d = 0; d < head_dim; ++d) {
      // The first token sees itself alone: its output is its value.
      wrong += std::abs(out(0, h, d) - v(0, h / (num_q_heads / num_kv_heads), d)) > 1e-6F;
      wrong += decoded(0, 0, h, d) != out(tokens - 1, h, d);
    }
  }
  std::printf("gqa %d.%d.%d: %d wrong\n", gqa::version.major, gqa::version.minor, gqa::version.patch, wrong);
  return wrong == 0 ? 0 : 1;
}
