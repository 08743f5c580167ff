// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/mask/interval_mask.hpp"

namespace gqa {

/// Causal attention that starts afresh every `size` positions.
class Chunked : public IntervalMask<Chunked> {
 public:
  constexpr explicit Chunked(Index size) : size_(size) {
    GQA_CHECK(size >= 1, std::invalid_argument, "chunked: size is " << size << ", expected at least 1");
  }

  /// A negative position, whose chunk would end at 0, sees nothing there is.
  constexpr Range visible(Index q_pos) const { return {round_down(q_pos, size_), q_pos + 1}; }

 private:
  Index size_;
};

/// `q_pos / size == kv_pos / size` and `kv_pos <= q_pos`, as in Llama 4's local layers. Causal by itself;
/// `document` makes chunks that see both ways. Throws std::invalid_argument unless size >= 1.
constexpr Chunked chunked(Index size) { return Chunked(size); }

}  // namespace gqa
