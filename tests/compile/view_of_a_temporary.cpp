// SPDX-License-Identifier: Apache-2.0
// A view of a tensor that owns its memory and is gone.
// error: deleted function .*as_view
// error: deleted function .*as_rows
#include <gqa/core/tensor.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;

auto view(const Tensor& x) { return gqa::as_view(x); }
auto rows(const Tensor& x) { return gqa::as_rows(x); }
auto view_of_a_map(Tensor& x) { return gqa::as_view(Eigen::TensorMap<Tensor>(x.data(), x.dimensions())); }

#ifdef BROKEN
auto view() { return gqa::as_view(Tensor(3, 2, 4)); }
auto rows() { return gqa::as_rows(Tensor(1, 2, 4)); }
#endif
