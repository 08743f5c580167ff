// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/mask/interval_mask.hpp"

namespace gqa {

/// The band of keys around each query: `q_pos - left <= kv_pos <= q_pos + right`.
///
/// No mask, causal and the windows are all this one band, so that a value chosen at run time keeps one type.
class Window : public IntervalMask<Window> {
 public:
  /// Both sides inclusive, -1 unbounded. Throws std::invalid_argument below -1.
  constexpr Window(Index left, Index right) : left_(reach(left, "left")), right_(reach(right, "right")) {}

  constexpr Range visible(Index q_pos) const { return {q_pos - left_, q_pos + right_ + 1}; }

  friend constexpr bool operator==(const Window& a, const Window& b) {
    return a.left_ == b.left_ && a.right_ == b.right_;
  }

 private:
  /// Two positions are no further apart than this.
  static constexpr Index farthest = 2 * max_position;

  static constexpr Index reach(Index side, const char* name) {
    GQA_CHECK(side >= -1, std::invalid_argument,
              "window: " << name << " is " << side << ", expected at least 0, or -1 for unbounded");
    return side == -1 ? farthest : std::min(side, farthest);
  }

  Index left_, right_;
};

/// Every query sees every key.
constexpr Window no_mask() { return {-1, -1}; }

/// A query sees itself and the past: `kv_pos <= q_pos`.
constexpr Window causal() { return {-1, 0}; }

/// `q_pos - left <= kv_pos <= q_pos + right`: both sides inclusive, -1 unbounded (as in FlashAttention).
/// Throws std::invalid_argument for a side below -1.
constexpr Window window(Index left, Index right) { return {left, right}; }

/// The last W keys up to the query, itself included: `q_pos - W < kv_pos <= q_pos` (as in Mistral). Causal by
/// itself, and `window(W - 1, 0)`; FlashAttention's left window leaves the query out and is W - 1, as ONNX
/// Runtime's `local_window_size` was until September 2025, which is W since.
/// Throws std::invalid_argument unless W >= 1.
constexpr Window sliding_window(Index W) {
  GQA_CHECK(W >= 1, std::invalid_argument, "sliding_window: W is " << W << ", expected at least 1");
  return {W - 1, 0};
}

}  // namespace gqa
