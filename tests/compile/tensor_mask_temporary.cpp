// SPDX-License-Identifier: Apache-2.0
// A mask refers to its tensor, and a temporary's memory is gone before attention reads it. A map or view may
// be a temporary: its memory is somebody else's.
// error: deleted function.*tensor_mask
#include <gqa/mask.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

using Booleans = Eigen::Tensor<bool, 3, Eigen::RowMajor>;

Booleans allowed(long n);

auto mask_of(const Booleans& kept) { return gqa::tensor_mask(kept); }
auto mask_of(bool* memory) { return gqa::tensor_mask(Eigen::TensorMap<Booleans>(memory, 1, 2, 3)); }
auto mask_of(const bool* memory) { return gqa::tensor_mask(gqa::TensorView<const bool>(memory, 1, 2, 3)); }
auto mask_of(const bool* memory, long keys) {
  return gqa::tensor_mask(gqa::ScoreTensor<bool>(memory, {1, 1, 1, keys}));
}

auto mask_of(long n) {
#ifdef BROKEN
  return gqa::tensor_mask(allowed(n));
#else
  const Booleans kept = allowed(n);
  return gqa::tensor_mask(kept);
#endif
}
