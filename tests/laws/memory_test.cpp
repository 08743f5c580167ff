// SPDX-License-Identifier: Apache-2.0
// Memory that is not the tensors' is neither read nor interpreted: guard pages at their ends, signalling NaN
// between their rows and in every fresh allocation, garbage in the workspace. And after the first call none
// is allocated.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "gqa/simd/isa.hpp"
#include "laws/slices.hpp"

namespace {

std::atomic<long> num_allocations{0};

/// All memory comes filled with 0xff: NaN of every scalar type, an absurd size of every other.
void* allocate(std::size_t size, std::size_t align) {
  ++num_allocations;
  void* p = std::aligned_alloc(align, (size + align) / align * align);
  if (p == nullptr) throw std::bad_alloc();
  return std::memset(p, 0xff, size);
}

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t size) { return allocate(size, 16); }
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t align) {
  return allocate(size, static_cast<std::size_t>(align));
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace gqa {
namespace {

using test::AttentionCase;
using test::How;
using test::Result;
using test::Sizes;

/// Values in pages of their own, between two that may not be touched: against the last of them or the first.
template <class T>
class Guarded {
 public:
  Guarded(const std::vector<T>& values, bool at_the_end) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE)), bytes = values.size() * sizeof(T);
    const std::size_t inner = (bytes + page - 1) / page * page;
    size_ = inner + 2 * page;
    memory_ = static_cast<std::byte*>(mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_NE(static_cast<void*>(memory_), MAP_FAILED);
    EXPECT_TRUE(inner == 0 || mprotect(memory_ + page, inner, PROT_READ | PROT_WRITE) == 0);
    data_ = reinterpret_cast<T*>(memory_ + page + (at_the_end ? inner - bytes : 0));
    std::copy(values.begin(), values.end(), data_);
  }
  ~Guarded() { munmap(memory_, size_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data() const { return data_; }

 private:
  std::byte* memory_ = nullptr;
  std::size_t size_ = 0;
  T* data_ = nullptr;
};

template <class T>
class Memory : public ::testing::Test {};
TYPED_TEST_SUITE(Memory, test::AllScalars, test::ScalarNames);

TYPED_TEST(Memory, OfTheTensorsIsAllThatIsTouched) {
  using T = TypeParam;
  using Acc = Accumulator<T>;
  std::uint64_t seed = 1;
  for (const Sizes& s :
       {Sizes{1, 1, 1, 1, 1}, Sizes{1, 70, 4, 2, 7, 5}, Sizes{9, 65, 6, 2, 40, 24}, Sizes{1, 600, 7, 1, 64},
        Sizes{70, 70, 2, 1, 16}, Sizes{3, 515, 2, 2, 33, 17}, Sizes{13, 129, 3, 1, 128, 48}}) {
    const AttentionCase<T> c(s, seed++);
    const auto expected = test::run(c, {.mask = causal()});
    for (bool at_the_end : {false, true}) {
      const Guarded<T> q(c.q, at_the_end), k(c.k, at_the_end), v(c.v, at_the_end),
          out(std::vector<T>(expected.out.size()), at_the_end);
      const Guarded<Acc> lse(std::vector<Acc>(expected.lse.size()), at_the_end);
      test::attend<T>({.mask = causal()},
                      TensorView<const T>(q.data(), s.num_q_tokens, s.num_q_heads, s.head_dim),
                      TensorView<const T>(k.data(), s.num_kv_tokens, s.num_kv_heads, s.head_dim),
                      TensorView<const T>(v.data(), s.num_kv_tokens, s.num_kv_heads, s.value_dim),
                      TensorView<T>(out.data(), s.num_q_tokens, s.num_q_heads, s.value_dim),
                      {lse.data(), 1, s.num_q_tokens, s.num_q_heads, 0, s.num_q_heads, 1});
      const Result<T> result{{out.data(), out.data() + expected.out.size()},
                             {lse.data(), lse.data() + expected.lse.size()}};
      EXPECT_TRUE(same(result, expected)) << s.name();
    }
  }
}

TYPED_TEST(Memory, BetweenTheRowsIsNeverInterpreted) {
  using T = TypeParam;
  for (const Sizes& s : {Sizes{1, 600, 4, 2, 40, 24}, Sizes{66, 66, 6, 2, 33, 17}}) {
    const AttentionCase<T> c(s, 20);
    const auto spread = [&](const std::vector<T>& x, Index heads, Index dim) {
      std::vector<T> y;
      for (std::size_t row = 0; row < x.size() / static_cast<std::size_t>(dim); ++row) {
        y.insert(y.end(), x.begin() + static_cast<Index>(row) * dim,
                 x.begin() + (static_cast<Index>(row) + 1) * dim);
        y.resize(y.size() + 16, std::numeric_limits<T>::signaling_NaN());
        if (static_cast<Index>(row) % heads == heads - 1)
          y.resize(y.size() + 5, std::numeric_limits<T>::signaling_NaN());
      }
      return y;
    };
    const auto q = spread(c.q, s.num_q_heads, s.head_dim), k = spread(c.k, s.num_kv_heads, s.head_dim),
               v = spread(c.v, s.num_kv_heads, s.value_dim);
    const auto view = [](const std::vector<T>& x, Index tokens, Index heads, Index dim) {
      return TensorView<const T>(x.data(), {1, tokens, heads, dim}, {0, heads * (dim + 16) + 5, dim + 16});
    };
    const auto result = test::run<T>({.mask = causal()}, view(q, s.num_q_tokens, s.num_q_heads, s.head_dim),
                                     s.value_dim, view(k, s.num_kv_tokens, s.num_kv_heads, s.head_dim),
                                     view(v, s.num_kv_tokens, s.num_kv_heads, s.value_dim));
    EXPECT_TRUE(same(result, test::run(c, {.mask = causal()}))) << s.name();
  }
}

TYPED_TEST(Memory, OfAFreshCacheIsNeverInterpreted) {
  // Every allocation here is NaN to begin with.
  using T = TypeParam;
  for (Index Sk : {1, 2, 31, 63, 65, 130, 511, 513}) {
    for (Index dim : {7, 16, 33}) {
      AttentionCase<T> c(Sizes{5, Sk, 4, 2, dim, dim + 2}, 30);
      for (const Window mask : {no_mask(), causal()}) test::expect_oracle(c, {.mask = mask});
    }
  }
}

TYPED_TEST(Memory, OfTheWorkspaceIsNeverInterpreted) {
  test::Threads threads(3);
  for (std::uint64_t seed : test::seeds(15)) {
    test::Random random(seed);
    const Sizes sizes{random.integer(1, 100), random.integer(1, 1500), 4, 2,
                      random.integer(1, 70),  random.integer(1, 70)};
    const AttentionCase<TypeParam> c(sizes, seed);
    const Index large = Index{1} << 24;
    Workspace workspace;
    How how{.mask = random.flip() ? causal() : sliding_window(random.integer(1, 900))};
    const auto expected = test::run(c, how);
    how.workspace = &workspace;
    for (int fill : {0x00, 0x7f, 0xff, 0x55}) {
      std::byte* memory = workspace.reserve(large);
      std::memset(memory, fill, static_cast<std::size_t>(large));
      how.threads = fill == 0xff ? &threads : nullptr;
      EXPECT_TRUE(same(test::run(c, how), expected)) << "seed " << seed << ", filled with " << fill;
      ASSERT_EQ(workspace.reserve(1), memory) << "the call needed more memory than was filled";
    }
  }
}

TYPED_TEST(Memory, IsNotAllocatedAfterTheFirstCall) {
  using T = TypeParam;
  for (int n : {1, 3}) {
    test::Threads threads(n);
    Workspace workspace;
    const How how{.mask = causal(), .workspace = &workspace, .threads = &threads};
    for (const Sizes& s : {Sizes{1, 3000, 8, 2, 64}, Sizes{150, 150, 4, 2, 32}, Sizes{4, 2000, 4, 1, 40}}) {
      const AttentionCase<T> c(s, 40);
      const auto cache = test::cache_of(c);
      auto result = test::run(c, how);
      const TensorView<T> out(result.out.data(), s.num_q_tokens, s.num_q_heads, s.value_dim);
      const RowsView<Accumulator<T>> lse{result.lse.data(), 1, s.num_q_tokens, s.num_q_heads, 0,
                                         s.num_q_heads,     1};
      test::attend<T>(how, c.q_view(), cache.layer(0), out, lse);
      const long before = num_allocations;
      for (int round = 0; round < 3; ++round) {
        test::attend<T>(how, c.q_view(), c.k_view(), c.v_view(), out, lse);
        test::attend<T>(how, c.q_view(), cache.layer(0), out, lse);
      }
      EXPECT_EQ(num_allocations - before, 0) << n << " threads, " << s.name();
    }
  }
}

TEST(Allocations, AreCounted) {
  const long before = num_allocations;
  const Workspace none;
  std::vector<float> some(10);
  asm volatile("" ::"r"(some.data()) : "memory");  // else Clang does without it
  Workspace workspace;
  workspace.reserve(100);
  EXPECT_EQ(num_allocations - before, 2);
}

}  // namespace
}  // namespace gqa
