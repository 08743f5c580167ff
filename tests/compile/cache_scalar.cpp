// SPDX-License-Identifier: Apache-2.0
// A cache holds float, double, half or bfloat16.
// error: (constraint failure|constraints not satisfied)
#include <gqa/kv/cache.hpp>

#ifdef BROKEN
using T = int;
#else
using T = gqa::bfloat16;
#endif

gqa::KVCache<T, 8, 64> cache({.max_tokens = 16});
