// SPDX-License-Identifier: Apache-2.0
// Counts a program's allocations: by any form of operator new, and by any function of malloc's family. For
// one source file of a program: it defines them.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <utility>

#include "support/sanitizers.hpp"

// A sanitizer brings an allocator of its own, which must not be replaced; other C libraries name theirs
// otherwise.
#if defined(__GLIBC__) && !GQA_TEST_SANITIZED
#define GQA_COUNTS_ALLOCATIONS 1
#else
#define GQA_COUNTS_ALLOCATIONS 0
#endif

namespace {

// Of all threads: what a pool's thread allocates for a call counts as well.
std::atomic<long> allocations{0};

}  // namespace

#if GQA_COUNTS_ALLOCATIONS

// glibc lets a program bring its own malloc family, and keeps its own under these names. libstdc++'s operator
// new, in all its forms, calls malloc or aligned_alloc; whoever replaces it calls something below as well.
extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* memory, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);

void* malloc(std::size_t size) {
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* memory, std::size_t size) {
  ++allocations;
  return __libc_realloc(memory, size);
}
void* memalign(std::size_t alignment, std::size_t size) {
  ++allocations;
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  ++allocations;
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** memory, std::size_t alignment, std::size_t size) {
  ++allocations;
  *memory = __libc_memalign(alignment, size);
  return *memory == nullptr && size != 0 ? ENOMEM : 0;
}
}

#endif

namespace gqa {
namespace {

long allocations_of(auto&& call) {
  const long before = allocations;
  call();
  return allocations - before;
}

class Allocations : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!GQA_COUNTS_ALLOCATIONS) GTEST_SKIP() << "a sanitizer's or another C library's allocator";
  }
};

/// Expects of every call that it allocates nothing the second time.
class Expectation {
 public:
  explicit Expectation(std::string where) : where_(std::move(where)) {}

  template <class Call>
  void operator()(const std::string& what, Call&& call) const {
    call();
    EXPECT_EQ(allocations_of(call), 0) << what << ", " << where_;
  }

 private:
  std::string where_;
};

}  // namespace
}  // namespace gqa
