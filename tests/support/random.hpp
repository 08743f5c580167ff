// SPDX-License-Identifier: Apache-2.0
// Random numbers that are the same in every run and on every machine.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <vector>

#include "gqa/core/shape.hpp"

namespace gqa::test {

/// mt19937_64 with the few draws tests need. The standard's distributions differ between libraries; these do
/// not.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  /// In [0, 1).
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// In [low, high], both possible.
  Index integer(Index low, Index high) {
    return low + static_cast<Index>(engine_() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool flip(double probability = 0.5) { return uniform() < probability; }
  /// Standard normal, by Box and Muller.
  double normal() {
    return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(2 * 3.14159265358979323846 * uniform());
  }
  template <class List>
  const auto& pick(const List& list) {
    return list[static_cast<std::size_t>(integer(0, static_cast<Index>(std::size(list)) - 1))];
  }

 private:
  std::mt19937_64 engine_;
};

/// `n` normal values of type T with the given standard deviation.
template <class T>
std::vector<T> random_values(std::uint64_t seed, Index n, double deviation = 1) {
  Random random(seed);
  std::vector<T> values(static_cast<std::size_t>(n));
  for (T& value : values) value = static_cast<T>(deviation * random.normal());
  return values;
}

/// The seeds a randomised test runs over: 1 to `count`, or to GQA_TEST_SEEDS where that is set and larger.
inline std::vector<std::uint64_t> seeds(std::uint64_t count) {
  if (const char* more = std::getenv("GQA_TEST_SEEDS")) {
    count = std::max<std::uint64_t>(count, std::strtoull(more, nullptr, 10));
  }
  std::vector<std::uint64_t> list(count);
  for (std::uint64_t i = 0; i < count; ++i) list[i] = i + 1;
  return list;
}

}  // namespace gqa::test
