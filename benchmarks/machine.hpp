// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <string>

namespace bench {

/// What the memory and the arithmetic units give `threads` threads: bytes and operations per second, the best
/// of several tries. 0 where the processor has no such unit.
struct Limits {
  int threads = 1;
  double read_memory = 0;  ///< footprint past the last cache
  double read_l3 = 0;      ///< footprint well inside the last cache
  double read_l2 = 0;      ///< footprint well inside each core's own cache
  double fma_f32 = 0;
  double dot_bf16 = 0;
  double matrix_bf16 = 0;
  std::string best_pattern;  ///< the one that read memory fastest
};

/// The machine, as measured when the program starts.
class Machine {
 public:
  /// Takes about four seconds.
  static Machine measure();
  /// Nothing measured: every limit is 0, every floor unknown.
  static Machine unmeasured();

  const Limits& limits(int threads) const { return limits_[threads > 1 ? 1 : 0]; }
  int all_threads() const { return limits_[1].threads; }
  std::size_t last_cache() const { return last_cache_; }
  std::size_t free_memory() const { return free_memory_; }

  /// Bytes per second of reads that cycle through `footprint` bytes.
  double bandwidth(int threads, double footprint) const;

  /// Puts everything in the benchmark's JSON context.
  void describe() const;

 private:
  std::array<Limits, 2> limits_;  ///< one thread, all threads
  std::size_t l2_ = 0, last_cache_ = 0, free_memory_ = 0, footprint_ = 0;
};

}  // namespace bench
