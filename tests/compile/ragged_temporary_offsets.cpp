// SPDX-License-Identifier: Apache-2.0
// Offsets that own their memory are gone before the sequences are read.
// error: deleted function .*ragged
#include <array>
#include <gqa/core/ragged.hpp>
#include <unsupported/Eigen/CXX11/Tensor>
#include <utility>
#include <vector>

using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;
using Offsets = std::vector<gqa::Index>;

auto of_a_vector(const Tensor& tensor, const Offsets& offsets) { return gqa::ragged(tensor, offsets); }
auto of_a_span(const Tensor& tensor, const Offsets& offsets) {
  return gqa::ragged(tensor, std::span(offsets).first(2));
}
auto of_an_array(const Tensor& tensor, const gqa::Index (&offsets)[2]) {
  return gqa::ragged(tensor, offsets);
}

template <class X>
concept Taken = requires(const Tensor& tensor, X x) {
  gqa::ragged(tensor, std::forward<X>(x));
};
static_assert(Taken<Offsets&> && Taken<const Offsets&> && !Taken<Offsets> && !Taken<const Offsets>);
static_assert(Taken<std::array<gqa::Index, 3>&> && !Taken<std::array<gqa::Index, 3>>);

#ifdef BROKEN
auto of_a_list(const Tensor& tensor) { return gqa::ragged(tensor, {0, 3}); }
#endif
