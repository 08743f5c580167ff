// SPDX-License-Identifier: Apache-2.0
// The call says 8 KV heads, the cache 4.
// error: num_kv_heads of attention differs from num_kv_heads of the cache
// error: Given = 8; .*OfTheView = 4|<8L?, 4L?>
#include <gqa/gqa.hpp>

#ifdef BROKEN
constexpr gqa::Index num_kv_heads = 4;
#else
constexpr gqa::Index num_kv_heads = 8;
#endif

using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;

auto attend(const Tensor& q, const gqa::KVCache<float, num_kv_heads, 64>& cache) {
  return gqa::attention<32, 8>(q, cache.layer(0));
}
