// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <new>

#include "gqa/core/toolchain.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gqa {

/// Gives back what allocate_aligned() took.
struct AlignedFree {
  std::align_val_t alignment{64};
  void operator()(void* p) const { ::operator delete(p, alignment); }
};

/// Uninitialised memory for numbers.
template <class T>
using AlignedArray = std::unique_ptr<T, AlignedFree>;

/// Asks for memory that will be read or written soon. A caller's rows often lie pages apart, where the
/// processor does not foresee them.
inline void prefetch(const void* p, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(p) + i);
}

/// The size from which memory is worth placing on pages of its own.
inline constexpr std::size_t huge_page_bytes = std::size_t{2} << 20;

/// `bytes` of memory aligned to a cache line (64 bytes); from 2 MiB on aligned
/// to huge pages, which Linux is asked for: read in one stream, they spare the
/// address translation a fifth of the time. Throws std::bad_alloc.
template <class T>
AlignedArray<T> allocate_aligned(std::size_t bytes) {
  const bool huge = bytes >= huge_page_bytes;
  const std::align_val_t alignment{huge ? huge_page_bytes : std::size_t{64}};
  void* memory = ::operator new(bytes, alignment);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (huge)
    ::madvise(memory, bytes / huge_page_bytes * huge_page_bytes,
              MADV_HUGEPAGE);  // a wish: failing is no error
#endif
  return AlignedArray<T>(static_cast<T*>(memory), AlignedFree{alignment});
}

}  // namespace gqa
