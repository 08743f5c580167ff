// SPDX-License-Identifier: Apache-2.0
// Once a call has been made with a caller's workspace, calls of the same size allocate nothing: by no form of
// operator new, and by no function of malloc's family.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>
#include <vector>

#include "attention/attend.hpp"
#include "gqa/gqa.hpp"
#include "gqa/score.hpp"
#include "laws/allocations.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::Sizes;

TEST_F(Allocations, AreCounted) {
  void* volatile kept = nullptr;
  const auto counts = [&](auto allocate, auto release) {
    EXPECT_GE(allocations_of([&] { kept = allocate(); }), 1);
    release(kept);
  };
  constexpr std::align_val_t line{64};
  counts([] { return ::operator new(8); }, [](void* p) { ::operator delete(p); });
  counts([] { return ::operator new[](8); }, [](void* p) { ::operator delete[](p); });
  counts([] { return ::operator new(8, std::nothrow); }, [](void* p) { ::operator delete(p); });
  counts([] { return ::operator new[](8, std::nothrow); }, [](void* p) { ::operator delete[](p); });
  counts([=] { return ::operator new(64, line); }, [=](void* p) { ::operator delete(p, line); });
  counts([=] { return ::operator new[](64, line); }, [=](void* p) { ::operator delete[](p, line); });
  counts([=] { return ::operator new(64, line, std::nothrow); },
         [=](void* p) { ::operator delete(p, line); });
  counts([] { return std::malloc(8); }, [](void* p) { std::free(p); });
  counts([] { return std::calloc(8, 8); }, [](void* p) { std::free(p); });
  counts([] { return std::realloc(nullptr, 8); }, [](void* p) { std::free(p); });
  counts([] { return std::aligned_alloc(64, 64); }, [](void* p) { std::free(p); });
}

template <class T>
class AllocationsOf : public Allocations {};
using ServedScalars = ::testing::Types<float, bfloat16>;
TYPED_TEST_SUITE(AllocationsOf, ServedScalars, test::ScalarNames);

/// Decode and prefill, small enough for one thread and large enough for many: the keys, the queries, the
/// heads are cut.
const std::vector<Sizes> shapes = {{1, 70, 4, 2, 40},
                                   {1, 6000, 4, 1, 32},
                                   {3, 4100, 6, 3, 40, 24},
                                   {200, 200, 4, 2, 32},
                                   {130, 900, 8, 2, 24}};

/// What a server calls over and over: tensors and a cache, with lse, masks and score functions.
template <class T, class Executor>
void expect_no_allocations(Executor& executor, const char* name) {
  for (const Sizes& sizes : shapes) {
    const AttentionCase<T> c(sizes, 1);
    KVCache<T> cache({.max_tokens = sizes.num_kv_tokens,
                      .num_kv_heads = sizes.num_kv_heads,
                      .head_dim = sizes.head_dim,
                      .value_dim = sizes.value_dim});
    cache.append(c.k_view(), c.v_view());
    const auto rows = static_cast<std::size_t>(sizes.num_q_tokens * sizes.num_q_heads);
    std::vector<T> out(rows * static_cast<std::size_t>(sizes.value_dim));
    std::vector<Accumulator<T>> lse(rows);
    const TensorView<T> out_view(out.data(), sizes.num_q_tokens, sizes.num_q_heads, sizes.value_dim);
    const Index seq_rows = sizes.num_q_tokens * sizes.num_q_heads;
    const LseOutput<Accumulator<T>> lse_view{
        {lse.data(), 1, sizes.num_q_tokens, sizes.num_q_heads, seq_rows, sizes.num_q_heads, 1}};
    const SoftCap cap = soft_cap(20);
    Workspace workspace;
    const AttentionOptions options{.workspace = &workspace};

    const auto expect_none = [&](const char* what, auto&& call) {
      call();
      EXPECT_EQ(allocations_of(call), 0) << what << ", " << name << ", " << sizes.name();
    };
    expect_none("tensors", [&] {
      attention(executor, c.q_view(), c.k_view(), c.v_view(), out_view, causal(), lse_view, options);
    });
    expect_none("cache", [&] { attention(executor, c.q_view(), cache, out_view, causal(), options); });
    expect_none("score function", [&] {
      attention(executor, c.q_view(), cache.layer(0), out_view, causal() & sliding_window(500), cap, options);
    });
  }
}

TYPED_TEST(AllocationsOf, SerialCalls) {
  Serial serial;
  expect_no_allocations<TypeParam>(serial, "serial");
}

TYPED_TEST(AllocationsOf, CallsOnAPool) {
  for (const int threads : {1, 2, 3}) {
    Eigen::ThreadPool pool(threads);
    expect_no_allocations<TypeParam>(pool, (std::to_string(threads) + " threads").c_str());
  }
}

TYPED_TEST(AllocationsOf, ReadingACacheBack) {
  const AttentionCase<TypeParam> c(Sizes{1, 700, 4, 2, 40, 24}, 6);
  const auto cache = test::cache_of(c);
  Tensor3<float> k(600, 2, 40);
  Tensor3<TypeParam> v(600, 2, 24);
  EXPECT_EQ(allocations_of([&] { cache.read(0, {50, 650}, k, v); }), 0);
}

TYPED_TEST(AllocationsOf, ACallNoLargerThanOneBefore) {
  const Sizes large{1, 5000, 8, 2, 64}, small{4, 900, 4, 2, 40};
  Workspace workspace;
  const auto run = [&](const Sizes& sizes) {
    const AttentionCase<TypeParam> c(sizes, 2);
    std::vector<TypeParam> out(
        static_cast<std::size_t>(sizes.num_q_tokens * sizes.num_q_heads * sizes.value_dim));
    const TensorView<TypeParam> out_view(out.data(), sizes.num_q_tokens, sizes.num_q_heads, sizes.value_dim);
    return allocations_of([&] {
      attention(c.q_view(), c.k_view(), c.v_view(), out_view, causal(),
                AttentionOptions{.workspace = &workspace});
    });
  };
  EXPECT_GT(run(large), 0) << "nothing is counted";
  EXPECT_EQ(run(small), 0);
  EXPECT_EQ(run(large), 0);
}

/// What a mask is for a sequence and head lies in the workspace.
TEST_F(Allocations, MasksOfSequencesAndHeads) {
  const Index B = 2, H = 4, G = 2, n = 700, D = 16;
  Eigen::Tensor<float, 4, Eigen::RowMajor> q(B, 9, H, D), k(B, n, G, D), v(B, n, G, D), out(B, 9, H, D);
  q.setRandom(), k.setRandom(), v.setRandom();
  Eigen::Tensor<bool, 4, Eigen::RowMajor> allowed(B, H, 9, n);
  for (Index i = 0; i < allowed.size(); ++i) allowed.data()[i] = i % 3 != 0;
  Workspace workspace;
  const AttentionOptions options{.workspace = &workspace};
  Eigen::ThreadPool pool(2);
  const auto expect_none = [&](const char* what, const auto&... extras) {
    const auto call = [&] { attention(pool, q, k, v, out, options, extras...); };
    call();
    EXPECT_EQ(allocations_of(call), 0) << what;
  };
  const auto tensor = tensor_mask(allowed);
  const auto list = per_head({causal(), tensor, sinks(3) | sliding_window(90), AnyMask(tensor & dilated(2))});
  const auto function = per_head([](Index h) { return sliding_window(100 * h + 1); });
  expect_none("tensor", tensor);
  expect_none("composition", causal() & ((!tensor) | sinks(2)));
  expect_none("list", list);
  expect_none("compositions of heads", list | (function & tensor));
  expect_none("any of a tensor", AnyMask(causal() & tensor));
  expect_none("any of any", AnyMask(AnyMask(causal()) & AnyMask(dilated(3))));
  expect_none("any of heads", AnyMask(list));
}

TEST_F(Allocations, WeightsAllocateTheirResultAlone) {
  const Sizes sizes{5, 1500, 4, 2, 40};
  const AttentionCase<float> c(sizes, 3);
  Eigen::Tensor<float, 2, Eigen::RowMajor> lse(5, 4);
  Workspace workspace;
  const AttentionOptions options{.workspace = &workspace};
  const WeightRows all;
  const auto look = [&] {
    return attention_weights(c.q_view(), c.k_view(), c.v_view(), all, causal(), options, lse_into(lse));
  };
  look();
  EXPECT_EQ(allocations_of(look), 1);
  const auto measure = [&] { workspace_bytes(c.q_view(), c.k_view(), c.v_view(), causal(), options); };
  measure();
  EXPECT_EQ(allocations_of(measure), 0);
}

}  // namespace
}  // namespace gqa
