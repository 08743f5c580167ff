// SPDX-License-Identifier: Apache-2.0
// Booleans added to scores would raise what they allow by 1 and mask nothing.
// error: a bias tensor holds numbers to add; booleans, true attends, are a tensor_mask
#include <gqa/score.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

#ifdef BROKEN
using Value = bool;
#else
using Value = double;
#endif

auto bias_of(const Eigen::Tensor<Value, 2>& tensor) { return gqa::tensor_bias(tensor); }
