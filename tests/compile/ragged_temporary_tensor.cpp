// SPDX-License-Identifier: Apache-2.0
// A packed tensor that owns its memory is gone before the sequences are read.
// error: deleted function .*ragged
#include <gqa/core/ragged.hpp>
#include <unsupported/Eigen/CXX11/Tensor>
#include <utility>
#include <vector>

using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;
using Offsets = std::vector<gqa::Index>;

// A map or a view owns nothing: it may be a temporary.
auto of_a_tensor(const Tensor& tensor, const Offsets& offsets) { return gqa::ragged(tensor, offsets); }
auto of_a_map(Tensor& t, const Offsets& offsets) {
  return gqa::ragged(Eigen::TensorMap<Tensor>(t.data(), t.dimensions()), offsets);
}
auto of_a_view(float* memory, const Offsets& offsets) {
  return gqa::ragged(gqa::TensorView<float>(memory, 3, 2, 4), offsets);
}

template <class X>
concept Taken = requires(X x, const Offsets& offsets) {
  gqa::ragged(std::forward<X>(x), offsets);
};
static_assert(Taken<Tensor&> && Taken<const Tensor&> && !Taken<Tensor> && !Taken<const Tensor>);

#ifdef BROKEN
auto of_a_temporary(const Offsets& offsets) { return gqa::ragged(Tensor(3, 2, 4), offsets); }
#endif
