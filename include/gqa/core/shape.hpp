// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <stdexcept>

#include "gqa/core/error.hpp"

namespace gqa {

/// Signed count of tokens, heads or elements.
using Index = std::ptrdiff_t;

/// A size that is taken from the tensors at run time.
inline constexpr Index Dynamic = -1;

/// The largest position there may be. Far from the limits of Index, so that sums of two do not overflow.
inline constexpr Index max_position = std::numeric_limits<Index>::max() / 4;

/// Half-open range of positions, `[begin, end)`.
struct Range {
  Index begin = 0;
  Index end = 0;

  constexpr Index size() const { return end > begin ? end - begin : 0; }
  constexpr bool empty() const { return end <= begin; }
  constexpr bool contains(Index position) const { return begin <= position && position < end; }
  friend constexpr bool operator==(const Range&, const Range&) = default;
};

/// The positions in both ranges; empty, at the later beginning, when they do
/// not meet.
constexpr Range intersect(Range a, Range b) {
  const Index begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

constexpr Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }
constexpr Index round_up(Index a, Index multiple) { return ceil_div(a, multiple) * multiple; }
constexpr Index round_down(Index a, Index multiple) { return a / multiple * multiple; }

namespace detail {

// Out of line: sizes are checked at a hundred places.
[[noreturn, gnu::noinline, gnu::cold]] inline void fail_overflow(const char* what, Index a, char operation,
                                                                 Index b) {
  fail<std::length_error>(Message() << what << ": the size " << a << ' ' << operation << ' ' << b
                                    << " overflows");
}

}  // namespace detail

/// `a * b` for sizes; throws std::length_error naming `what` when the product
/// does not fit an Index.
constexpr Index checked_mul(Index a, Index b, const char* what) {
  Index product = 0;
  if (__builtin_mul_overflow(a, b, &product)) [[unlikely]]
    detail::fail_overflow(what, a, '*', b);
  return product;
}

/// `a + b` for sizes; throws std::length_error naming `what` when the sum does
/// not fit an Index.
constexpr Index checked_add(Index a, Index b, const char* what) {
  Index sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) [[unlikely]]
    detail::fail_overflow(what, a, '+', b);
  return sum;
}

namespace detail {

// The compiler prints the template arguments with a failing assertion; that is
// how both numbers get into the message.
template <Index NumQHeads, Index NumKVHeads>
constexpr bool check_heads() {
  static_assert(NumQHeads == Dynamic || NumQHeads > 0, "gqa: num_q_heads must be positive");
  static_assert(NumKVHeads == Dynamic || NumKVHeads > 0, "gqa: num_kv_heads must be positive");
  static_assert(NumQHeads <= 0 || NumKVHeads <= 0 || NumQHeads % (NumKVHeads > 0 ? NumKVHeads : 1) == 0,
                "gqa: num_q_heads must be a multiple of num_kv_heads (see "
                "NumQHeads and NumKVHeads above)");
  return true;
}

}  // namespace detail

/// `H` query heads that share `G` key/value heads: MHA is G = H, MQA is G = 1
/// (Ainslie et al. 2023). Query head h reads KV head h / group_size. Dynamic
/// sizes are given at run time and checked there; wrong static sizes do not
/// compile. Throws std::invalid_argument.
template <Index H = Dynamic, Index G = Dynamic>
struct Heads {
  static_assert(detail::check_heads<H, G>());

  Index num_q_heads;
  Index num_kv_heads;

  constexpr Heads(Index q_heads, Index kv_heads) : num_q_heads(q_heads), num_kv_heads(kv_heads) {
    GQA_CHECK(H == Dynamic || q_heads == H, std::invalid_argument,
              "q: heads is " << q_heads << ", expected " << H);
    GQA_CHECK(G == Dynamic || kv_heads == G, std::invalid_argument,
              "k: heads is " << kv_heads << ", expected " << G);
    GQA_CHECK(q_heads > 0, std::invalid_argument, "q: heads is " << q_heads << ", expected at least 1");
    GQA_CHECK(kv_heads > 0, std::invalid_argument, "k: heads is " << kv_heads << ", expected at least 1");
    GQA_CHECK(q_heads % kv_heads == 0, std::invalid_argument,
              "q: heads is " << q_heads << ", expected a multiple of the " << kv_heads << " heads of k");
  }
  constexpr Heads() requires(H != Dynamic && G != Dynamic) : Heads(H, G) {}

  constexpr Index group_size() const { return num_q_heads / num_kv_heads; }
};

}  // namespace gqa
