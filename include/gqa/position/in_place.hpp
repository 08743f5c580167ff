// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <type_traits>

#include "gqa/core/error.hpp"
#include "gqa/core/tensor.hpp"

namespace gqa::detail {

/// The view of a tensor whose heads are changed in place. Throws std::invalid_argument for another head_dim,
/// and for strides of 0, with which several heads would share memory.
template <TensorLike X>
auto in_place_view(X& x, Index head_dim) {
  auto view = as_view(x);
  static_assert(!std::is_const_v<typename decltype(view)::value_type>,
                "gqa: this tensor is changed in place, but it is const");
  GQA_CHECK(view.dim == head_dim, std::invalid_argument,
            "x: head_dim is " << view.dim << ", expected " << head_dim);
  const bool empty = view.batch == 0 || view.tokens == 0 || view.heads == 0;
  const bool shared = (view.batch > 1 && view.batch_stride == 0) ||
                      (view.tokens > 1 && view.token_stride == 0) ||
                      (view.heads > 1 && view.head_stride == 0);
  GQA_CHECK(empty || !shared, std::invalid_argument,
            "x: strides are " << view.batch_stride << ", " << view.token_stride << ", " << view.head_stride
                              << " (batch, token, head), expected none to be 0: x is changed in place");
  return view;
}

}  // namespace gqa::detail
