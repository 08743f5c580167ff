// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <random>

#include "gqa/core/shape.hpp"

namespace uptrain {

/// Draws that are the same with every standard library: its engine is fixed by the standard, its
/// distributions are not.
class Random {
 public:
  /// The draws of one purpose: streams of different numbers have nothing in common.
  Random(std::uint64_t seed, std::uint64_t stream) : engine_(mix(seed + 0x9E3779B97F4A7C15 * (stream + 1))) {}

  /// In [0, n).
  gqa::Index below(gqa::Index n) {
    return static_cast<gqa::Index>(engine_() % static_cast<std::uint64_t>(n));
  }
  /// In [-1, 1).
  double symmetric() { return static_cast<double>(engine_() >> 11) * 0x1p-52 - 1; }

 private:
  /// SplitMix64's (Steele et al. 2014): neighbouring numbers become far ones.
  static std::uint64_t mix(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
  }

  std::mt19937_64 engine_;
};

}  // namespace uptrain
