// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "gqa/kernel/tuning.hpp"

namespace gqa {

/// The sizes of a call of attention, as far as its time depends on them. The last query sits on the last key.
struct CallShape {
  Index num_q_heads = 1;
  Index num_kv_heads = 1;
  Index head_dim = 1;
  Index value_dim = Dynamic;  ///< head_dim where it is left Dynamic
  Index q_tokens = 1;         ///< of each sequence
  Index kv_tokens = 1;        ///< of each sequence, with those of the queries
  Index num_seqs = 1;
  bool causal = true;
  Index window = 0;  ///< keys that a query sees, itself included, as in sliding_window; 0: all before it

  Index group_size() const { return num_q_heads / num_kv_heads; }
  Index values() const { return value_dim == Dynamic ? head_dim : value_dim; }
  /// Query rows that share a KV head.
  Index rows() const { return q_tokens * group_size(); }

  friend bool operator==(const CallShape& a, const CallShape& b) {
    return a.num_q_heads == b.num_q_heads && a.num_kv_heads == b.num_kv_heads && a.head_dim == b.head_dim &&
           a.values() == b.values() && a.q_tokens == b.q_tokens && a.kv_tokens == b.kv_tokens &&
           a.num_seqs == b.num_seqs && a.causal == b.causal && a.window == b.window;
  }
};

namespace detail {

/// Throws std::invalid_argument naming the size that cannot be, and std::length_error where elements of a
/// tensor overflow.
inline void check_shape(const CallShape& s) {
  const auto check = [](const char* name, Index value, Index least) {
    GQA_CHECK(value >= least && value <= max_position, std::invalid_argument,
              "shape: " << name << " is " << value << ", expected " << least << " to " << max_position);
  };
  check("num_q_heads", s.num_q_heads, 1);
  check("num_kv_heads", s.num_kv_heads, 1);
  check("head_dim", s.head_dim, 1);
  check("value_dim", s.values(), 1);
  check("q_tokens", s.q_tokens, 1);
  check("kv_tokens", s.kv_tokens, 1);
  check("num_seqs", s.num_seqs, 1);
  check("window", s.window, 0);
  GQA_CHECK(s.num_q_heads % s.num_kv_heads == 0, std::invalid_argument,
            "shape: num_q_heads is " << s.num_q_heads
                                     << ", expected a multiple of num_kv_heads = " << s.num_kv_heads);
  GQA_CHECK(s.q_tokens <= s.kv_tokens, std::invalid_argument,
            "shape: q_tokens is " << s.q_tokens << ", expected at most kv_tokens = " << s.kv_tokens);
  GQA_CHECK(s.causal || s.window == 0, std::invalid_argument,
            "shape: window is " << s.window << ", expected 0 without causal");
  checked_mul(checked_mul(checked_mul(s.num_seqs, s.kv_tokens, "shape"), s.num_q_heads, "shape"),
              std::max(s.head_dim, s.values()), "shape");
}

/// Where the keys begin that any query of a sequence sees.
inline Index first_key(const CallShape& s) {
  return s.window == 0 ? 0 : std::max<Index>(0, s.kv_tokens - s.q_tokens + 1 - s.window);
}

/// Bytes of the keys and values that are seen, all sequences together.
inline double kv_bytes(const CallShape& s, double element_bytes) {
  return static_cast<double>(s.kv_tokens - first_key(s)) * static_cast<double>(s.num_seqs) *
         static_cast<double>(s.num_kv_heads) * static_cast<double>(s.head_dim + s.values()) * element_bytes;
}

/// The sum of i rounded down to whole tiles, over i in [0, n).
inline double tiles_before(Index n) {
  const auto whole = static_cast<double>(n / tile_keys), rest = static_cast<double>(n % tile_keys);
  return static_cast<double>(tile_keys) *
         (static_cast<double>(tile_keys) * whole * (whole - 1) / 2 + rest * whole);
}

/// Pairs of a query token and a key that are multiplied for one head of one sequence: tiles of 64 keys are
/// multiplied whole where any of them is seen, and the last one's keys a vector (16) at a time.
inline double multiplied_pairs(const CallShape& s) {
  const Index begin = s.kv_tokens - s.q_tokens, end = s.kv_tokens;  // of the queries
  const Index last = round_up(end, simd::padding);
  const auto queries = static_cast<double>(s.q_tokens);
  double pairs = queries * static_cast<double>(last);
  if (s.causal) {
    // Query i sees the keys up to its own tile's end, those of the last tile up to `last`.
    const Index cut = std::max(begin, round_down(end - 1, tile_keys));
    pairs = tiles_before(cut) - tiles_before(begin) + static_cast<double>((cut - begin) * tile_keys) +
            static_cast<double>(end - cut) * static_cast<double>(last);
  }
  if (s.window > 0)  // and none before the tile of key i + 1 - window
    pairs -= tiles_before(std::max<Index>(0, end + 1 - s.window)) -
             tiles_before(std::max<Index>(0, begin + 1 - s.window));
  return pairs;
}

}  // namespace detail

}  // namespace gqa
