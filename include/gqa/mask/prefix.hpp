// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/mask/interval_mask.hpp"

namespace gqa {

/// Causal, but the first `size` positions see each other both ways.
class Prefix : public IntervalMask<Prefix> {
 public:
  constexpr explicit Prefix(Index size) : size_(size) {
    GQA_CHECK(size >= 0, std::invalid_argument, "prefix: n is " << size << ", expected at least 0");
  }

  constexpr Range visible(Index q_pos) const { return {0, std::max(q_pos + 1, size_)}; }

 private:
  Index size_;
};

/// `kv_pos <= q_pos || kv_pos < n`: a prefix language model, as in T5 and PaliGemma. Throws
/// std::invalid_argument unless n >= 0.
constexpr Prefix prefix(Index n) { return Prefix(n); }

}  // namespace gqa
