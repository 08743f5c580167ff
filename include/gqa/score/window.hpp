// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/score/mask_concept.hpp"

namespace gqa {

/// The band of keys around each query: `q_pos - left <= kv_pos <= q_pos + right`.
///
/// No mask, causal and the windows are all this one band, so that a value chosen at run time keeps one type.
class Window {
 public:
  /// Both sides inclusive, -1 unbounded. Throws std::invalid_argument below -1.
  constexpr Window(Index left, Index right) : left_(reach(left, "left")), right_(reach(right, "right")) {}

  constexpr bool operator()(Index q_pos, Index kv_pos) const { return visible(q_pos).contains(kv_pos); }

  /// Exact. Each query's band begins one later than the one before, and none is empty: what a block of
  /// queries sees is one range, and what all of them see is the last one's beginning to the first one's end.
  constexpr Coverage coverage(Range q, Range kv) const {
    if (q.empty() || kv.empty() || intersect(bounds(q), kv).empty()) return Coverage::none;
    const Range all = {visible(q.end - 1).begin, visible(q.begin).end};
    return all.begin <= kv.begin && kv.end <= all.end ? Coverage::full : Coverage::partial;
  }

  constexpr Range bounds(Range q) const { return {visible(q.begin).begin, visible(q.end - 1).end}; }

  constexpr std::uint64_t bits(Index q_pos, Index kv_begin, Index count) const {
    return range_bits(visible(q_pos), kv_begin, count);
  }

  friend constexpr bool operator==(const Window&, const Window&) = default;

 private:
  static constexpr Index reach(Index side, const char* name) {
    GQA_CHECK(side >= -1, std::invalid_argument,
              "window: " << name << " is " << side << ", expected at least 0, or -1 for unbounded");
    return side == -1 || side > max_position ? max_position : side;
  }

  constexpr Range visible(Index q_pos) const { return {q_pos - left_, q_pos + right_ + 1}; }

  Index left_, right_;
};

/// Every query sees every key.
constexpr Window no_mask() { return {-1, -1}; }

/// A query sees itself and the past: `kv_pos <= q_pos`.
constexpr Window causal() { return {-1, 0}; }

/// `q_pos - left <= kv_pos <= q_pos + right`: both sides inclusive, -1 unbounded (as in FlashAttention).
/// Throws std::invalid_argument for a side below -1.
constexpr Window window(Index left, Index right) { return {left, right}; }

/// The last W keys up to the query, itself included: `q_pos - W < kv_pos <= q_pos` (as in Mistral, where the
/// W of ONNX's `local_window_size` counts alike and `window(left, ...)` is W - 1). Causal by itself.
/// Throws std::invalid_argument unless W >= 1.
constexpr Window sliding_window(Index W) {
  GQA_CHECK(W >= 1, std::invalid_argument, "sliding_window: W is " << W << ", expected at least 1");
  return {W - 1, 0};
}

}  // namespace gqa
