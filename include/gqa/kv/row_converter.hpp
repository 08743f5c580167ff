// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <type_traits>

#include "gqa/core/scalar.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa::detail {

/// Converts runs of elements, each to the nearest To as rounded_to does, every bit kept where the types
/// agree. A NaN that is rounded becomes the quiet one of its sign.
template <Scalar From, Scalar To>
class RowConverter {
 public:
  /// Throws std::invalid_argument where isa() does.
  RowConverter() : from_(simd::convert_kernels<From>(isa())), to_(simd::convert_kernels<To>(isa())) {}

  void operator()(const From* x, Index n, To* y) const {
    if constexpr (std::is_same_v<From, To>) {
      std::copy_n(x, n, y);
    } else if constexpr (std::is_same_v<From, double> || std::is_same_v<To, double>) {
      for (Index i = 0; i < n; ++i) y[i] = rounded_to<To>(x[i]);
    } else if constexpr (std::is_same_v<To, float>) {
      from_.widen(x, n, 1, y);
    } else if constexpr (std::is_same_v<From, float>) {
      to_.round(x, n, y);
    } else {
      constexpr Index most = 64;
      float wide[most];
      for (Index begin = 0; begin < n; begin += most) {
        const Index count = std::min(most, n - begin);
        from_.widen(x + begin, count, 1, wide);
        to_.round(wide, count, y + begin);
      }
    }
  }

 private:
  simd::ConvertKernels<Accumulator<From>> from_;
  simd::ConvertKernels<Accumulator<To>> to_;
};

}  // namespace gqa::detail
