// SPDX-License-Identifier: Apache-2.0
// Compiled twice with different flags, as FUNCTION: what a program's parts may each call.
#include <gqa/gqa.hpp>

#include "flags/part.hpp"

namespace {

using namespace gqa;

struct Sizes {
  Index tokens = 131, num_q_heads = 6, num_kv_heads = 2, head_dim = 40, value_dim = 24;
};

template <class X>
void append_bytes(std::vector<unsigned char>& bytes, const std::vector<X>& values) {
  const auto* first = reinterpret_cast<const unsigned char*>(values.data());
  bytes.insert(bytes.end(), first, first + values.size() * sizeof(X));
}

/// Numbers in [-2, 2) that need all of a float's digits.
template <class T>
std::vector<T> numbers(Index count, unsigned seed) {
  std::vector<T> values;
  for (unsigned state = seed; static_cast<Index>(values.size()) < count;) {
    state = state * 1664525u + 1013904223u;
    values.push_back(static_cast<T>(static_cast<float>(state >> 8) / 4194304.0f - 2));
  }
  return values;
}

/// Prefill over tensors, plain and with a score function, decode from a cache, and rotated queries.
template <class T>
void run(std::vector<unsigned char>& bytes) {
  const Sizes s;
  auto q = numbers<T>(s.tokens * s.num_q_heads * s.head_dim, 1);
  const auto k = numbers<T>(s.tokens * s.num_kv_heads * s.head_dim, 2);
  const auto v = numbers<T>(s.tokens * s.num_kv_heads * s.value_dim, 3);
  std::vector<T> out(static_cast<std::size_t>(s.tokens * s.num_q_heads * s.value_dim));
  std::vector<Accumulator<T>> lse(static_cast<std::size_t>(s.tokens * s.num_q_heads));
  const TensorView<T> q_view(q.data(), s.tokens, s.num_q_heads, s.head_dim),
      out_view(out.data(), s.tokens, s.num_q_heads, s.value_dim);
  const TensorView<const T> k_view(k.data(), s.tokens, s.num_kv_heads, s.head_dim),
      v_view(v.data(), s.tokens, s.num_kv_heads, s.value_dim);
  const LseOutput<Accumulator<T>> lse_view{
      {lse.data(), 1, s.tokens, s.num_q_heads, s.tokens * s.num_q_heads, s.num_q_heads, 1}};
  const auto keep = [&] {
    append_bytes(bytes, out);
    append_bytes(bytes, lse);
  };

  attention(q_view, k_view, v_view, out_view, causal(), lse_view);
  keep();
  attention(q_view, k_view, v_view, out_view, causal(), soft_cap(5), lse_view);
  keep();
  KVCache<T> cache({.max_tokens = s.tokens,
                    .num_kv_heads = s.num_kv_heads,
                    .head_dim = s.head_dim,
                    .value_dim = s.value_dim});
  cache.append(k_view, v_view);
  attention(q_view, cache, out_view, sliding_window(50), lse_view);
  keep();
  for (const RopeLayout layout : {RopeLayout::half, RopeLayout::interleaved}) {
    Rope({.layout = layout, .head_dim = s.head_dim}).apply(q_view, 7);
    append_bytes(bytes, q);
  }
}

}  // namespace

std::vector<unsigned char> FUNCTION() {
  std::vector<unsigned char> bytes;
  run<float>(bytes);
  run<bfloat16>(bytes);
  return bytes;
}
