// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <memory>

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
  std::array<int, 3> patterns = {};  ///< the fastest in L2, L3 and memory, by its place in read_patterns()
};

/// What one kind of work is held to: bytes and operations per second.
struct Speeds {
  double bytes = 0;
  double flops = 0;
};

class Buffer;

/// The machine, as measured when the program starts, and as it is at any moment: its neighbours on the same
/// host come and go.
class Machine {
 public:
  /// Takes about four seconds, and 1 GiB or twice the last cache from then on.
  static Machine measure();
  /// Nothing measured: every limit is 0, every floor unknown.
  static Machine unmeasured();
  bool measured() const { return limits_[0].read_memory != 0; }

  const Limits& limits(int threads) const { return limits_[threads > 1 ? 1 : 0]; }
  int all_threads() const { return limits_[1].threads; }
  std::size_t last_cache() const { return last_cache_; }
  std::size_t free_memory() const { return free_memory_; }

  /// At best, for work that cycles through `footprint` bytes, in f32 or in the faster of f32 and bf16.
  Speeds best(int threads, double footprint, bool bf16) const;

  /// The same right now, from a few milliseconds of each: the pattern and the unit that were best at the
  /// start.
  Speeds now(int threads, double footprint, bool bf16);

  /// Puts everything in the benchmark's JSON context.
  void describe() const;

 private:
  enum class Level { l2, l3, memory };
  Level level(int threads, double footprint) const;
  /// What fits well inside the level, of the two that are caches.
  std::size_t bytes_in(Level level) const;

  std::array<Limits, 2> limits_;  ///< one thread, all threads
  std::size_t l2_ = 0, last_cache_ = 0, free_memory_ = 0, footprint_ = 0;
  std::shared_ptr<Buffer> buffer_;
  std::size_t next_ = 0;  ///< where in the buffer memory was not read for longest
};

}  // namespace bench
