// SPDX-License-Identifier: Apache-2.0
// 7 query heads cannot share 2 key/value heads evenly.
// error: num_q_heads must be a multiple of num_kv_heads
// error: eads<7L?, 2L?>
#include <gqa/core/shape.hpp>

#ifdef BROKEN
gqa::Heads<7, 2> heads;
#else
gqa::Heads<6, 2> heads;
#endif
