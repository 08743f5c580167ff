// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "gqa/core/shape.hpp"

namespace gqa {

/// The sequences, heads and positions of one call of attention, and the type it computes in: what masks and
/// score functions are checked against.
struct AttentionExtent {
  Index num_seqs = 1;
  Index num_q_heads = 1;
  Range q = {}, kv = {};
  bool in_double = false;  ///< scores are computed in double, else in float
  Index most_q_tokens = 0,
        most_kv_tokens = 0;  ///< of any sequence of the call: what its tensors are padded to

  /// Whether x, rounded to the type of the scores, is a finite number. Half a unit beyond the largest float
  /// still rounds to it.
  bool holds(double x) const { return in_double ? std::isfinite(x) : std::abs(x) < 0x1.ffffffp127; }
  const char* score_type() const { return in_double ? "double" : "float"; }
};

}  // namespace gqa
