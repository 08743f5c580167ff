// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace bench {

/// Arithmetic and nothing else: `run(n)` does `n` rounds and returns the floating-point operations done, a
/// multiply-add counting two. Null where the processor has none.
using Arithmetic = double (*)(long rounds);

/// f32 multiply-adds in the widest vectors.
Arithmetic fma_f32();
/// Products of bf16 pairs added to f32 lanes (vdpbf16ps).
Arithmetic dot_bf16();
/// bf16 tiles multiplied into f32 tiles by a matrix unit (AMX), if the operating system grants it to us.
Arithmetic matrix_bf16();

/// A way to read memory once: as this many streams side by side, each prefetching this many bytes ahead.
struct ReadPattern {
  int streams;
  std::size_t prefetch;
  void (*run)(std::span<const std::byte> memory);
  std::string name() const;
};

/// The patterns worth trying, in the widest vectors.
std::span<const ReadPattern> read_patterns();

}  // namespace bench
