// SPDX-License-Identifier: Apache-2.0
// The layout has no default: it is always said.
// error: Layout
#include <gqa/position/rope.hpp>

#ifdef BROKEN
const gqa::RopeConfig config = {.head_dim = 64};
#else
const gqa::RopeConfig config = {.layout = gqa::RopeLayout::half, .head_dim = 64};
#endif
