// SPDX-License-Identifier: Apache-2.0
// error: num_kv_heads must be positive
// error: KVCache<float, 0L?, 64L?>
#include <gqa/kv/cache.hpp>

#ifdef BROKEN
gqa::KVCache<float, 0, 64> cache({.max_tokens = 16});
#else
gqa::KVCache<float, 8, 64> cache({.max_tokens = 16});
#endif
