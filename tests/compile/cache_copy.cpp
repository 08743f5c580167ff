// SPDX-License-Identifier: Apache-2.0
// A cache is not copied by accident.
// error: deleted .*KVCache
#include <gqa/kv/cache.hpp>

using Cache = gqa::KVCache<float>;

#ifdef BROKEN
Cache copy(const Cache& cache) { return cache; }
#else
Cache copy(const Cache& cache) { return cache.clone(); }
#endif
