// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <concepts>
#include <type_traits>

#include "gqa/core/toolchain.hpp"

namespace gqa {

using half = Eigen::half;          ///< IEEE binary16
using bfloat16 = Eigen::bfloat16;  ///< the upper half of a binary32

/// Element types of queries, keys, values and outputs.
template <class T>
concept Scalar =
    std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, half> || std::same_as<T, bfloat16>;

/// The type in which products of T are summed: double for double, float for
/// everything narrower.
template <Scalar T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <Scalar T>
constexpr const char* scalar_name() {
  if constexpr (std::is_same_v<T, float>) return "f32";
  if constexpr (std::is_same_v<T, double>) return "f64";
  if constexpr (std::is_same_v<T, half>) return "f16";
  return "bf16";
}

}  // namespace gqa
