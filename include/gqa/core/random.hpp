// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "gqa/core/shape.hpp"

namespace gqa::detail {

/// Draws that are the same with every standard library: its engine is fixed by the standard, its
/// distributions are not.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  /// In [0, 1).
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  /// In [0, n).
  Index below(Index n) { return static_cast<Index>(engine_() % static_cast<std::uint64_t>(n)); }

  /// Every order equally likely (Fisher and Yates).
  void shuffle(std::vector<Index>& list) {
    for (std::size_t i = list.size(); i > 1; --i)
      std::swap(list[i - 1], list[static_cast<std::size_t>(below(static_cast<Index>(i)))]);
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace gqa::detail
