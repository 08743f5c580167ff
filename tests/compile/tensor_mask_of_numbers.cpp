// SPDX-License-Identifier: Apache-2.0
// Numbers are not true or false: a float mask is a bias.
// error: a mask tensor holds bool, true attends; numbers to add are a tensor_bias
#include <gqa/mask.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

#ifdef BROKEN
using Value = float;
#else
using Value = bool;
#endif

auto mask_of(const Eigen::Tensor<Value, 2>& tensor) { return gqa::tensor_mask(tensor); }
