// SPDX-License-Identifier: Apache-2.0
// 30 query heads cannot share 8 key/value heads evenly.
// error: num_q_heads must be a multiple of num_kv_heads
// error: eads<30L?, 8L?>
#include <gqa/gqa.hpp>

#ifdef BROKEN
constexpr gqa::Index num_q_heads = 30;
#else
constexpr gqa::Index num_q_heads = 32;
#endif

using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;

auto attend(const Tensor& q, const Tensor& k, const Tensor& v) {
  return gqa::attention<num_q_heads, 8>(q, k, v);
}
