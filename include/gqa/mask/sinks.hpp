// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/mask/interval_mask.hpp"

namespace gqa {

/// The first `size` keys, which every later query keeps seeing.
class Sinks : public IntervalMask<Sinks> {
 public:
  constexpr explicit Sinks(Index size) : size_(size) {
    GQA_CHECK(size >= 0, std::invalid_argument, "sinks: n is " << size << ", expected at least 0");
  }

  constexpr Range visible(Index q_pos) const { return {0, std::min(q_pos + 1, size_)}; }

 private:
  Index size_;
};

/// `kv_pos < n && kv_pos <= q_pos`: the sink tokens of StreamingLLM, used as `sinks(4) | sliding_window(W)`.
/// (A learned sink logit is no mask: see SinkLogits.) Throws std::invalid_argument unless n >= 0.
constexpr Sinks sinks(Index n) { return Sinks(n); }

}  // namespace gqa
