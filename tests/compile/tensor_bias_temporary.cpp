// SPDX-License-Identifier: Apache-2.0
// A bias refers to its tensor, and a temporary's memory is gone before attention reads it. A map or view may
// be a temporary: its memory is somebody else's.
// error: deleted function.*tensor_bias
#include <utility>

#include <gqa/score.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

using Numbers = Eigen::Tensor<float, 2>;

auto bias_of(const Numbers& kept) { return gqa::tensor_bias(kept); }
auto bias_of(float* memory) { return gqa::tensor_bias(Eigen::TensorMap<Numbers>(memory, 1, 2)); }
auto bias_of(const float* memory) { return gqa::tensor_bias(gqa::TensorView<const float>(memory, 1, 2, 3)); }
auto bias_of(const float* memory, long keys) {
  return gqa::tensor_bias(gqa::ScoreTensor<float>(memory, {1, 1, 1, keys}));
}

auto bias_of(Numbers& numbers, long first_q_position) {
#ifdef BROKEN
  return gqa::tensor_bias(std::move(numbers), first_q_position);
#else
  return gqa::tensor_bias(numbers, first_q_position);
#endif
}
