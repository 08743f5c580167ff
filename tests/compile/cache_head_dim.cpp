// SPDX-License-Identifier: Apache-2.0
// error: head_dim must be positive
// error: KVCache<float, 8L?, -64L?>
#include <gqa/kv/cache.hpp>

#ifdef BROKEN
gqa::KVCache<float, 8, -64> cache({.max_tokens = 16});
#else
gqa::KVCache<float, 8, 64> cache({.max_tokens = 16});
#endif
