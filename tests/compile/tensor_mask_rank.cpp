// SPDX-License-Identifier: Apache-2.0
// Rank 5 has a dimension that means nothing here.
// error: a mask or bias tensor has rank 1 \(keys\), 2 \(queries x keys\), 3 \(heads x queries x keys\) or 4
#include <gqa/mask.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

#ifdef BROKEN
constexpr int rank = 5;
#else
constexpr int rank = 2;
#endif

auto mask_of(const Eigen::Tensor<bool, rank>& tensor) { return gqa::tensor_mask(tensor); }
