// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <type_traits>

#include "gqa/core/eigen.hpp"

namespace gqa {

// Declared alone: values of them need <Eigen/Core>.
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

/// Of an element, also where Eigen's types are declared alone.
template <Scalar T>
inline constexpr int scalar_bytes = std::is_same_v<T, double>  ? 8
                                    : std::is_same_v<T, float> ? 4
                                                               : 2;

/// x as the nearest To, ties to even. Eigen turns a double into 16 bits by way of a float, and so rounds
/// twice. Here the float between is rounded to odd, which leaves the last rounding what it has to know.
template <Scalar To, Scalar From>
To rounded_to(From x) {
  if constexpr (std::is_same_v<From, double> && scalar_bytes<To> == 2) {
    float between = static_cast<float>(x);
    const auto bits = std::bit_cast<std::uint32_t>(between);
    const bool exact = static_cast<double>(between) == x || x != x;
    if (!exact && (bits & 1) == 0) {
      const bool is_nearer_to_0 = std::abs(static_cast<double>(between)) < std::abs(x);
      between = std::bit_cast<float>(is_nearer_to_0 ? bits + 1 : bits - 1);
    }
    return static_cast<To>(between);
  } else {
    return static_cast<To>(x);
  }
}

template <Scalar T>
constexpr const char* scalar_name() {
  if constexpr (std::is_same_v<T, float>) return "f32";
  if constexpr (std::is_same_v<T, double>) return "f64";
  if constexpr (std::is_same_v<T, half>) return "f16";
  return "bf16";
}

}  // namespace gqa
