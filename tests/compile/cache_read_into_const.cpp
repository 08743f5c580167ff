// SPDX-License-Identifier: Apache-2.0
// error: read.. writes to k and v: not const
#include <gqa/kv/cache.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

using Tensor = gqa::Tensor3<float>;

#ifdef BROKEN
void read(const gqa::KVCache<float>& cache, Tensor& k, const Tensor& v) { cache.read(0, {0, 1}, k, v); }
#else
void read(const gqa::KVCache<float>& cache, Tensor& k, Tensor& v) { cache.read(0, {0, 1}, k, v); }
#endif
