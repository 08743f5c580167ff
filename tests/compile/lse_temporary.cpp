// SPDX-License-Identifier: Apache-2.0
// The memory of a temporary is gone when attention writes to it. Maps and views name memory that stays.
// error: (use of deleted function|call to deleted function) .*lse_into
// error: TemporaryTensor
// error: gqa: lse is const, and is to be written
// error: gqa: lse is an Eigen tensor or map of rank 2
// error: gqa: lse_into takes a tensor of float, or of double where keys and values are double
#include <gqa/gqa.hpp>

using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;
using Lse = Eigen::Tensor<float, 2, Eigen::RowMajor>;
using Map = Eigen::TensorMap<Lse>;

void attend(const Tensor& q, const Tensor& k, const Tensor& v, Lse& lse, const Map& constant_map) {
#ifdef BROKEN
  gqa::lse_into(Lse(3, 4));
  gqa::lse_into(std::move(lse));
  gqa::lse_into(static_cast<const Lse&>(lse));
  gqa::lse_into(std::vector<float>(12));
  Eigen::Tensor<double, 2> wide(3, 4);
  gqa::attention(q, k, v, gqa::lse_into(wide));
#else
  gqa::attention(q, k, v, gqa::lse_into(lse));
  gqa::attention(q, k, v, gqa::lse_into(Map(lse.data(), 3, 4)));
  gqa::attention(q, k, v, gqa::lse_into(constant_map));
  gqa::attention(q, k, v, gqa::lse_into(gqa::RowsView<float>{lse.data(), 1, 3, 4, 12, 4, 1}));
#endif
}
