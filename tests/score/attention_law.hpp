// SPDX-License-Identifier: Apache-2.0
// Attention with a mask or a score function against the oracle, which is told the same thing as a plain
// formula.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "gqa/gqa.hpp"
#include "support/attention_case.hpp"
#include "support/naive.hpp"

namespace gqa::test {

/// Prefill, a later chunk of a prefill, decode; MHA, GQA, MQA; sizes that fill no tile.
inline std::vector<Sizes> attention_shapes() {
  return {{.num_q_tokens = 150, .num_kv_tokens = 150, .num_q_heads = 2, .num_kv_heads = 2, .head_dim = 24},
          {.num_q_tokens = 70,
           .num_kv_tokens = 201,
           .num_q_heads = 6,
           .num_kv_heads = 2,
           .head_dim = 16,
           .value_dim = 20},
          {.num_q_tokens = 1, .num_kv_tokens = 300, .num_q_heads = 6, .num_kv_heads = 2, .head_dim = 16},
          {.num_q_tokens = 3, .num_kv_tokens = 130, .num_q_heads = 7, .num_kv_heads = 1, .head_dim = 40},
          {.num_q_tokens = 90, .num_kv_tokens = 66, .num_q_heads = 4, .num_kv_heads = 1, .head_dim = 8}};
}

/// Random q, k, v with NaN at every position no query sees, and at a few others, whose rows become NaN.
template <class T>
AttentionCase<T> poisoned_case(const Sizes& sizes, std::uint64_t seed,
                               const std::function<bool(Index, Index, Index)>& visible) {
  AttentionCase<T> c(sizes, seed);
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const Index G = sizes.num_kv_heads, group = sizes.num_q_heads / G;
  const auto seen = [&](Index kv, Index g) {
    for (Index i = 0; i < sizes.num_q_tokens; ++i) {
      for (Index h = g * group; h < (g + 1) * group; ++h) {
        if (visible(h, sizes.num_kv_tokens - sizes.num_q_tokens + i, kv)) return true;
      }
    }
    return false;
  };
  for (Index kv = 0; kv < sizes.num_kv_tokens; ++kv) {
    for (Index g = 0; g < G; ++g) {
      const bool rarely = (kv * G + g + static_cast<Index>(seed)) % 61 == 0;
      if (seen(kv, g) && !rarely) continue;
      c.k[static_cast<std::size_t>((kv * G + g) * sizes.head_dim)] = nan;
      c.v[static_cast<std::size_t>((kv * G + g + 1) * sizes.value_dim - 1)] = nan;
    }
  }
  return c;
}

/// Runs attention with the extras on tensors, and on a cache where `with_cache`, and compares with the
/// oracle.
template <class T, class... Extras>
void expect_attention_is(AttentionCase<T>& c, const reference::Problem& problem, bool with_cache,
                         const Extras&... extras) {
  using Acc = Accumulator<T>;
  const Sizes& s = c.sizes;
  const auto exact = reference::attention(problem);
  const auto naive = naive_attention<T>(problem);
  std::vector<T> out(static_cast<std::size_t>(s.num_q_tokens * s.num_q_heads * s.value_dim), T(7));
  Eigen::Tensor<Acc, 2, Eigen::RowMajor> lse(s.num_q_tokens, s.num_q_heads);
  TensorView<T> out_view(out.data(), s.num_q_tokens, s.num_q_heads, s.value_dim);
  attention(c.q_view(), c.k_view(), c.v_view(), out_view, lse_into(lse), extras...);
  EXPECT_TRUE(out_within_naive_error<T>(std::span<const T>(out), problem, exact, naive)) << s.name();
  const std::span<const Acc> lse_values(lse.data(), static_cast<std::size_t>(lse.size()));
  EXPECT_TRUE(lse_within_naive_error<T>(lse_values, exact, naive)) << s.name();
  if (!with_cache) return;
  KVCache<T> cache({.max_tokens = s.num_kv_tokens,
                    .num_kv_heads = s.num_kv_heads,
                    .head_dim = s.head_dim,
                    .value_dim = s.value_dim});
  cache.append(c.k_view(), c.v_view());
  std::fill(out.begin(), out.end(), T(7));
  attention(c.q_view(), cache.layer(0), out_view, lse_into(lse), extras...);
  EXPECT_TRUE(out_within_naive_error<T>(std::span<const T>(out), problem, exact, naive))
      << "cache, " << s.name();
}

}  // namespace gqa::test
