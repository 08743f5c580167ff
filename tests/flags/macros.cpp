// SPDX-License-Identifier: Apache-2.0
// Macros that other headers (those of Windows and of glibc) are known to define before ours are read, and the
// strictest warnings somebody compiles with: that this compiles is the test.
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

template <class T>
Eigen::Tensor<T, 3, Eigen::RowMajor> attend(const Eigen::Tensor<T, 3, Eigen::RowMajor>& x) {
  gqa::KVCache<T> cache({.max_tokens = 64, .num_kv_heads = 2, .head_dim = 8});
  cache.append(x, x);
  gqa::attention_weights(x, x, x, {.tokens = {1}}, gqa::sinks(3) | gqa::sliding_window(4));
  gqa::attention_scores(x, x, x, gqa::ScoresAfter::mask, gqa::dilated(3), gqa::alibi(2));
  return gqa::attention(x, cache, gqa::causal(), gqa::soft_cap(30));
}
template Eigen::Tensor<float, 3, Eigen::RowMajor> attend(const Eigen::Tensor<float, 3, Eigen::RowMajor>&);
template Eigen::Tensor<double, 3, Eigen::RowMajor> attend(const Eigen::Tensor<double, 3, Eigen::RowMajor>&);
template Eigen::Tensor<gqa::half, 3, Eigen::RowMajor> attend(
    const Eigen::Tensor<gqa::half, 3, Eigen::RowMajor>&);
template Eigen::Tensor<gqa::bfloat16, 3, Eigen::RowMajor> attend(
    const Eigen::Tensor<gqa::bfloat16, 3, Eigen::RowMajor>&);
