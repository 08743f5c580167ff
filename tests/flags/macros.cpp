// SPDX-License-Identifier: Apache-2.0
// Macros that other headers (those of Windows and of glibc) are known to define before ours are read: that
// this compiles is the test.
#include <algorithm>
#include <cmath>
#include <vector>

#define near
#define far
#define small char
#define interface struct
#define pascal
#define IN
#define OUT
#define ERROR 0
#define DELETE 1
#define major(device) (device)
#define minor(device) (device)

#include <gqa/gqa.hpp>

Eigen::Tensor<float, 3, Eigen::RowMajor> attend(const Eigen::Tensor<float, 3, Eigen::RowMajor>& x) {
  gqa::KVCache<gqa::bfloat16> cache({.max_tokens = 64, .num_kv_heads = 2, .head_dim = 8});
  cache.append(x, x);
  return gqa::attention(x, cache, gqa::causal(), gqa::soft_cap(30));
}
