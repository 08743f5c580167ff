// SPDX-License-Identifier: Apache-2.0
// error: num_kv_heads must be positive
// error: eads<8L?, 0L?>
#include <gqa/core/shape.hpp>

#ifdef BROKEN
gqa::Heads<8, 0> heads;
#else
gqa::Heads<8, 1> heads;
#endif
