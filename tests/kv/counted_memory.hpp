// SPDX-License-Identifier: Apache-2.0
// Counts all memory that is taken, and fails when told to. Replaces operator new: for one file of a program.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <new>

namespace gqa::test {

inline std::int64_t aligned_bytes = 0, other_bytes = 0;
inline std::int64_t allocations_left = -1;  // until one fails; -1: none does

}  // namespace gqa::test

[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  if (gqa::test::allocations_left == 0) throw std::bad_alloc();
  if (gqa::test::allocations_left > 0) --gqa::test::allocations_left;
  const auto align = static_cast<std::size_t>(alignment);
  void* p = std::aligned_alloc(align, (size + 2 * align - 1) / align * align);
  if (p == nullptr) throw std::bad_alloc();
  gqa::test::aligned_bytes += static_cast<std::int64_t>(size);
  return p;
}
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (gqa::test::allocations_left == 0) throw std::bad_alloc();
  if (gqa::test::allocations_left > 0) --gqa::test::allocations_left;
  void* p = std::malloc(size);
  if (p == nullptr) throw std::bad_alloc();
  gqa::test::other_bytes += static_cast<std::int64_t>(size);
  return p;
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace gqa::test {

/// Fails each allocation that `f` makes, one after the other, until it gets by with none failing.
template <class F, class Check>
void fail_each_allocation(F&& f, Check&& expect_unchanged) {
  for (std::int64_t left = 0;; ++left) {
    bool thrown = false;
    allocations_left = left;
    try {
      f();
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    allocations_left = -1;
    if (!thrown) {
      EXPECT_GT(left, 1) << "nothing is counted";
      return;
    }
    expect_unchanged();
  }
}

}  // namespace gqa::test
