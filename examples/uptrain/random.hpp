// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "gqa/core/random.hpp"

namespace uptrain {

/// The library's draws, those of one purpose: streams of different numbers have nothing in common.
class Random : public gqa::detail::Random {
 public:
  Random(std::uint64_t seed, std::uint64_t stream)
      : gqa::detail::Random(mix(seed + 0x9E3779B97F4A7C15 * (stream + 1))) {}

  /// In [-1, 1).
  double symmetric() { return 2 * uniform() - 1; }

 private:
  /// SplitMix64's (Steele et al. 2014): neighbouring numbers become far ones.
  static std::uint64_t mix(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
  }
};

}  // namespace uptrain
