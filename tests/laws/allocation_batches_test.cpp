// SPDX-License-Identifier: Apache-2.0
// Batches and cascades allocate nothing once a workspace has grown, however they are said.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "attention/cascade_case.hpp"
#include "gqa/gqa.hpp"
#include "laws/allocations.hpp"

namespace gqa {
namespace {

using test::Sizes;

/// Batches of sequences of different lengths, decoding and being prefilled, in all the ways to say them.
template <class T>
void expect_no_allocations_of_batches(Eigen::ThreadPool& pool, const std::string& name) {
  const Expectation expect_none(name);
  const Sizes heads{0, 0, 4, 2, 40, 24};
  const test::RaggedCase<T> c({{1, 3000}, {5, 70}, {0, 9}, {130, 600}}, heads, 3);
  std::vector<KVCache<T>> caches;
  std::vector<typename KVCache<T>::View> views;
  for (const auto& each : c.each) {
    caches.push_back(test::cache_of(each));
    views.push_back(caches.back().layer(0));
  }
  const KVList list(views);
  const auto q = c.q(), k = c.k(), v = c.v();
  const Index tokens = c.q_offsets.back();
  std::vector<T> out(static_cast<std::size_t>(tokens * heads.num_q_heads * heads.value_dim));
  const TensorView<T> out_view(out.data(), tokens, heads.num_q_heads, heads.value_dim);
  Workspace workspace;
  const AttentionOptions options{.workspace = &workspace};

  expect_none("list", [&] { attention(pool, q, list, out_view, causal(), options); });
  expect_none("list without a mask", [&] { attention(pool, q, list, out_view, options); });
  expect_none("ragged tensors", [&] { attention(pool, q, k, v, out_view, causal(), options); });
  expect_none("ragged() at the call", [&] {
    attention(pool, ragged(q.tensor, c.q_offsets), ragged(k.tensor, c.kv_offsets),
              ragged(v.tensor, c.kv_offsets), out_view, causal(), options);
  });
  const HeadGrouping grouping({1, 0, 1, 1}, 2);
  expect_none("HeadGrouping", [&] { attention(pool, q, list, out_view, causal(), grouping, options); });
  const auto strided = HeadGrouping::strided(4, 2);
  expect_none("strided heads", [&] { attention(pool, q, k, v, out_view, strided, causal(), options); });
}

/// Prefixes that sequences share, in one and in two levels, read together and apart.
template <class T>
void expect_no_allocations_of_cascades(Eigen::ThreadPool& pool, const std::string& name) {
  const Expectation expect_none(name);
  const Sizes heads = test::cascade_heads;
  for (const Index shared : {512, 700}) {
    const test::CascadeCase<T> c({{{shared}, {0, 5}}, {{64, 0, 33}, {0, 2, 3, 5}}, test::tails},
                                 test::cascade_queries, heads, 4);
    const auto q = c.unshared.q();
    const Index tokens = c.unshared.q_offsets.back();
    std::vector<T> out(static_cast<std::size_t>(tokens * heads.num_q_heads * heads.value_dim));
    const TensorView<T> out_view(out.data(), tokens, heads.num_q_heads, heads.value_dim);
    Workspace workspace;
    const AttentionOptions options{.workspace = &workspace};
    const SoftCap cap = soft_cap(20);
    const SinkLogits logits(std::vector<float>(6, 1.f));
    expect_none("cascade", [&] { cascade_attention(pool, q, c.levels, out_view, causal(), options); });
    expect_none("cascade that is read apart", [&] {
      cascade_attention(pool, q, c.levels, out_view, sliding_window(300), cap, logits, options);
    });
  }
}

template <class T>
class AllocationsOf : public Allocations {};
using ServedScalars = ::testing::Types<float, bfloat16>;
TYPED_TEST_SUITE(AllocationsOf, ServedScalars, test::ScalarNames);

TYPED_TEST(AllocationsOf, Batches) {
  for (const int threads : {1, 3}) {
    Eigen::ThreadPool pool(threads);
    expect_no_allocations_of_batches<TypeParam>(pool, std::to_string(threads) + " threads");
  }
}

TYPED_TEST(AllocationsOf, Cascades) {
  for (const int threads : {1, 3}) {
    Eigen::ThreadPool pool(threads);
    expect_no_allocations_of_cascades<TypeParam>(pool, std::to_string(threads) + " threads");
  }
}

}  // namespace
}  // namespace gqa
