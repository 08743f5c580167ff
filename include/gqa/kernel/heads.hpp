// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/core/shape.hpp"

namespace gqa {

/// Which query heads share a KV head, as the kernel reads it: heads `offsets[g]` to `offsets[g + 1]` of
/// `heads`, or consecutive groups of `group_size` where there is no table.
struct HeadTable {
  Index num_q_heads = 0;
  Index num_kv_heads = 0;
  Index group_size = 1;  ///< of the largest group
  const Index* offsets = nullptr;
  const Index* heads = nullptr;

  Index size(Index kv_head) const {
    return offsets == nullptr ? group_size : offsets[kv_head + 1] - offsets[kv_head];
  }
  Index q_head(Index kv_head, Index i) const {
    return offsets == nullptr ? kv_head * group_size + i : heads[offsets[kv_head] + i];
  }
};

}  // namespace gqa
