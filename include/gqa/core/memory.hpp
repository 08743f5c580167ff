// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
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

namespace detail {

/// Asks for memory that will be read or written soon. A caller's rows often lie pages apart, where the
/// processor does not foresee them. Always inlined: GCC takes a call that does nothing else for one of no
/// effect, and drops it.
[[gnu::always_inline]] inline void prefetch(const void* p, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(p) + i);
}

/// The size from which memory is worth placing on pages of its own.
inline constexpr std::size_t huge_page_bytes = std::size_t{2} << 20;

/// Asks Linux to place memory that will be touched soon on huge pages, as far as whole ones lie in it. A
/// wish: failing is no error.
inline void wish_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto begin = reinterpret_cast<std::uintptr_t>(memory);
  const auto first = (begin + huge_page_bytes - 1) / huge_page_bytes * huge_page_bytes;
  const auto last = (begin + bytes) / huge_page_bytes * huge_page_bytes;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace detail

/// `bytes` of memory aligned to a cache line (64 bytes); from 2 MiB on aligned
/// to huge pages, which Linux is asked for: read in one stream, they spare the
/// address translation a fifth of the time. Throws std::bad_alloc.
template <class T>
AlignedArray<T> allocate_aligned(std::size_t bytes) {
  const bool huge = bytes >= detail::huge_page_bytes;
  const std::align_val_t alignment{huge ? detail::huge_page_bytes : std::size_t{64}};
  void* memory = ::operator new(bytes, alignment);
  if (huge) detail::wish_huge_pages(memory, bytes);
  return AlignedArray<T>(static_cast<T*>(memory), AlignedFree{alignment});
}

}  // namespace gqa
