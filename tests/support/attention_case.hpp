// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <vector>

#include "gqa/core/tensor.hpp"
#include "gqa/reference/attention.hpp"
#include "support/random.hpp"
#include "support/scalars.hpp"

namespace gqa::test {

struct Sizes {
  Index num_q_tokens, num_kv_tokens, num_q_heads, num_kv_heads, head_dim, value_dim = head_dim;

  std::string name() const {
    return "Sq " + std::to_string(num_q_tokens) + ", Sk " + std::to_string(num_kv_tokens) + ", H " +
           std::to_string(num_q_heads) + ", G " + std::to_string(num_kv_heads) + ", D " +
           std::to_string(head_dim) + ", Dv " + std::to_string(value_dim);
  }
};

template <class T>
std::vector<double> to_double(std::span<const T> values) {
  std::vector<double> result;
  result.reserve(values.size());
  for (const T& value : values) result.push_back(static_cast<double>(value));
  return result;
}

/// Random q, k, v of one sequence in T, and the same numbers in double for the oracle:
///
///     AttentionCase<half> c({.num_q_tokens = 7, ...}, seed);
///     auto problem = c.problem();
///     problem.visible = ...;
///     auto exact = reference::attention(problem);
template <class T>
struct AttentionCase {
  AttentionCase(const Sizes& s, std::uint64_t seed)
      : sizes(s),
        q(random_values<T>(3 * seed, s.num_q_tokens * s.num_q_heads * s.head_dim)),
        k(random_values<T>(3 * seed + 1, s.num_kv_tokens * s.num_kv_heads * s.head_dim)),
        v(random_values<T>(3 * seed + 2, s.num_kv_tokens * s.num_kv_heads * s.value_dim)) {}

  TensorView<const T> q_view() const {
    return {q.data(), sizes.num_q_tokens, sizes.num_q_heads, sizes.head_dim};
  }
  TensorView<const T> k_view() const {
    return {k.data(), sizes.num_kv_tokens, sizes.num_kv_heads, sizes.head_dim};
  }
  TensorView<const T> v_view() const {
    return {v.data(), sizes.num_kv_tokens, sizes.num_kv_heads, sizes.value_dim};
  }

  /// Converts q, k and v anew, so change them before; the case must outlive the problem.
  reference::Problem problem() {
    q64_ = to_double<T>(q);
    k64_ = to_double<T>(k);
    v64_ = to_double<T>(v);
    return {.num_q_tokens = sizes.num_q_tokens,
            .num_kv_tokens = sizes.num_kv_tokens,
            .num_q_heads = sizes.num_q_heads,
            .num_kv_heads = sizes.num_kv_heads,
            .head_dim = sizes.head_dim,
            .value_dim = sizes.value_dim,
            .q = q64_,
            .k = k64_,
            .v = v64_};
  }

  Sizes sizes;
  std::vector<T> q, k, v;

 private:
  std::vector<double> q64_, k64_, v64_;
};

}  // namespace gqa::test
