// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/core/shape.hpp"

namespace gqa {

/// The sequences, heads and positions of one call of attention: what masks and score functions that hold
/// tables are checked against.
struct AttentionExtent {
  Index num_seqs = 1;
  Index num_q_heads = 1;
  Range q, kv;
};

}  // namespace gqa
