// SPDX-License-Identifier: Apache-2.0
// A matrix has no heads: rank 3 or 4 is needed.
// error: a tensor has rank 3 .* or 4
#include <gqa/core/tensor.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

#ifdef BROKEN
constexpr int rank = 2;
#else
constexpr int rank = 3;
#endif

auto view(Eigen::Tensor<float, rank, Eigen::RowMajor>& x) { return gqa::as_view(x); }
