// SPDX-License-Identifier: Apache-2.0
// Many sequences of different lengths in one call: the same bits as one by one, from packed tensors and from
// a list of caches.
#include <gtest/gtest.h>

#include "attention/ragged_case.hpp"
#include "gqa/gqa.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::How;
using test::Lengths;
using test::message_of;
using test::RaggedCase;
using test::Result;
using test::Sizes;
using test::Threads;

// Prefill, a later chunk of one, decode, more queries than keys, and all kinds of nothing, short beside long.
const std::vector<Lengths> mixed{{0, 40}, {70, 70}, {1, 1300}, {0, 0},   {33, 600}, {5, 0},
                                 {1, 1},  {9, 3},   {1, 512},  {65, 65}, {1, 4000}, {0, 0}};

template <class T>
class RaggedCall : public ::testing::Test {
 protected:
  static Result<T> attend(const RaggedCase<T>& c, const How& how) {
    return c.result_of([&](auto out, auto lse) {
      attention(*how.threads, c.q(), c.k(), c.v(), out, how.mask, lse,
                AttentionOptions{.scale = how.scale, .q_offset = how.q_offset, .workspace = how.workspace});
    });
  }
};

TYPED_TEST_SUITE(RaggedCall, test::AllScalars, test::ScalarNames);

TYPED_TEST(RaggedCall, IsOneByOneInEveryBit) {
  for (const Sizes& sizes : {Sizes{0, 0, 6, 2, 24, 20}, Sizes{0, 0, 7, 1, 16}, Sizes{0, 0, 3, 3, 40}}) {
    RaggedCase<TypeParam> c(mixed, sizes, 1);
    for (const How& asked : {How{.mask = causal()}, How{}, How{.mask = sliding_window(100)},
                             How{.mask = causal(), .scale = -0.3, .q_offset = 7}}) {
      How how = asked;
      const auto alone = c.one_by_one(how);
      for (int n : {1, 2, 3, 5}) {
        Threads threads(n);
        how.threads = &threads;
        EXPECT_TRUE(test::same(this->attend(c, how), alone)) << sizes.name() << ", threads " << n;
      }
    }
  }
}

TYPED_TEST(RaggedCall, IsTheOracle) {
  RaggedCase<TypeParam> c(mixed, Sizes{0, 0, 6, 2, 24, 20}, 100);
  Threads threads(2);
  const How how{.mask = causal(), .threads = &threads};
  const auto result = this->attend(c, how);
  for (std::size_t seq = 0; seq < c.each.size(); ++seq) {
    const auto problem = test::problem_of(c.each[seq], how);
    EXPECT_TRUE(test::within_bound(c.of(result, seq), problem, reference::attention(problem),
                                   test::naive_attention<TypeParam>(problem)))
        << "sequence " << seq;
  }
}

TYPED_TEST(RaggedCall, ListOfCachesIsPackedTensors) {
  const Sizes sizes{0, 0, 6, 2, 24, 20};
  RaggedCase<TypeParam> c(mixed, sizes, 200);
  std::vector<KVCache<TypeParam>> caches;
  caches.reserve(c.each.size());  // views refer to their caches
  std::vector<typename KVCache<TypeParam>::View> views;
  for (const auto& one : c.each) {
    caches.push_back(test::cache_of(one));
    views.push_back(caches.back().layer(0));
  }
  const KVList list(views);
  for (int n : {1, 3}) {
    Threads threads(n);
    const How how{.mask = causal(), .threads = &threads};
    const auto result =
        c.result_of([&](auto out, auto lse) { attention(threads, c.q(), list, out, how.mask, lse); });
    EXPECT_TRUE(test::same(result, this->attend(c, how))) << "threads " << n;
  }
}

TEST(RaggedBatch, MayHoldNothing) {
  for (const std::vector<Lengths>& lengths :
       {std::vector<Lengths>{}, {{0, 0}}, {{0, 5}, {0, 0}}, {{2, 0}, {3, 0}}}) {
    RaggedCase<float> c(lengths, Sizes{0, 0, 4, 2, 8}, 1);
    Threads threads(2);
    const auto result = c.result_of([&](auto out, auto lse) {
      attention(threads, c.q(), c.k(), c.v(), out, causal(), lse, AttentionOptions{});
    });
    EXPECT_EQ(result.out, std::vector<float>(result.out.size(), 0.0f));
    EXPECT_EQ(result.lse, std::vector<float>(result.lse.size(), -std::numeric_limits<float>::infinity()));
  }
}

TEST(RaggedBatch, NoSequenceReadsItsNeighbours) {
  // NaN in every other sequence stays there.
  RaggedCase<float> c({{3, 90}, {2, 70}, {40, 130}}, Sizes{0, 0, 4, 2, 8}, 5);
  const auto alone = c.one_by_one({.mask = causal()});
  auto bad = c;
  for (auto* x : {&bad.each[1].q, &bad.each[1].k, &bad.each[1].v})
    std::fill(x->begin(), x->end(), std::numeric_limits<float>::quiet_NaN());
  std::vector<float> q, k, v;
  for (const auto& one : bad.each) {
    q.insert(q.end(), one.q.begin(), one.q.end());
    k.insert(k.end(), one.k.begin(), one.k.end());
    v.insert(v.end(), one.v.begin(), one.v.end());
  }
  Threads threads(2);
  const auto result = c.result_of([&](auto out, auto lse) {
    attention(threads, ragged(TensorView<const float>(q.data(), 45, 4, 8), c.q_offsets),
              ragged(TensorView<const float>(k.data(), 290, 2, 8), c.kv_offsets),
              ragged(TensorView<const float>(v.data(), 290, 2, 8), c.kv_offsets), out, causal(), lse,
              AttentionOptions{});
  });
  for (std::size_t seq : {0u, 2u})
    EXPECT_TRUE(test::same(c.of(result, seq), c.of(alone, seq))) << "sequence " << seq;
  for (float x : c.of(result, 1).out) EXPECT_TRUE(std::isnan(x));
}

TEST(RaggedBatch, GivesATensorOfItsOwn) {
  RaggedCase<float> c({{3, 9}, {2, 7}}, Sizes{0, 0, 4, 2, 8, 6}, 5);
  const Eigen::Tensor<float, 3, Eigen::RowMajor> out = attention(c.q(), c.k(), c.v(), causal());
  EXPECT_EQ(out.dimension(0), 5);
  EXPECT_EQ(out.dimension(2), 6);
  const auto alone = c.one_by_one({.mask = causal()});
  EXPECT_EQ(std::vector<float>(out.data(), out.data() + out.size()), alone.out);
}

TEST(RaggedBatch, AWorkspaceIsPaidForOnce) {
  for (const std::vector<Lengths>& lengths : {mixed, {{1, 6000}}, {{700, 700}}, {{0, 0}}}) {
    for (int n : {1, 2, 4}) {
      RaggedCase<float> c(lengths, Sizes{0, 0, 6, 2, 16}, 1);
      Threads threads(n);
      Workspace workspace;
      const AttentionOptions options{.workspace = &workspace};
      const Index needed = workspace_bytes(threads, c.q(), c.k(), c.v(), causal(), options);
      EXPECT_EQ(threads.calls(), 0) << "computed something";
      const auto call = [&] {
        return c.result_of([&](auto out, auto lse) {
          attention(threads, c.q(), c.k(), c.v(), out, causal(), lse, options);
        });
      };
      const auto first = call();
      const Index held = workspace.bytes();
      EXPECT_EQ(held, needed);
      const auto* memory = workspace.reserve(0);
      EXPECT_TRUE(test::same(call(), first));
      EXPECT_EQ(workspace.bytes(), held);
      EXPECT_EQ(workspace.reserve(0), memory);
    }
  }
}

TEST(RaggedBatch, AWorkspaceThatHoldsMoreIsCountedAsItIs) {
  RaggedCase<float> large({{30, 3000}, {1, 2000}}, Sizes{0, 0, 6, 2, 32}, 1),
      small({{1, 9}}, Sizes{0, 0, 2, 1, 8}, 2);
  Workspace workspace;
  const AttentionOptions options{.workspace = &workspace};
  attention(large.q(), large.k(), large.v(), causal(), options);
  const Index held = workspace.bytes();
  EXPECT_EQ(workspace_bytes(small.q(), small.k(), small.v(), causal(), options), held);
  EXPECT_LT(workspace_bytes(small.q(), small.k(), small.v(), causal()), held);
  EXPECT_LT(workspace_bytes(Serial{}, small.q(), small.k(), small.v()), held);
}

TEST(RaggedBatch, OffsetsThatAreWrong) {
  const std::vector<float> memory(1000);
  const TensorView<const float> x(memory.data(), 10, 2, 8);
  const auto refused = [&](const std::vector<Index>& offsets) {
    return message_of([&] { ragged(x, offsets); });
  };
  EXPECT_EQ(refused({}), "ragged: no offsets, expected one more than sequences");
  EXPECT_EQ(refused({1, 10}), "ragged: offsets begin at 1, expected 0");
  EXPECT_EQ(refused({-1, 10}), "ragged: offsets begin at -1, expected 0");
  EXPECT_EQ(refused({0, 5, 4, 10}), "ragged: offsets[2] is 4, expected at least the 5 before it");
  EXPECT_EQ(refused({0, 5, 11}), "ragged: offsets end at 11, expected the 10 tokens of the tensor");
  EXPECT_EQ(refused({0, 5, 9}), "ragged: offsets end at 9, expected the 10 tokens of the tensor");
  EXPECT_EQ(refused({0}), "ragged: offsets end at 0, expected the 10 tokens of the tensor");
  EXPECT_EQ(refused({0, 5, 5, 10}), "nothing thrown");
  const std::vector<Index> offsets{0, 5};
  EXPECT_EQ(message_of([&] { ragged(TensorView<const float>(memory.data(), 2, 5, 2, 8), offsets); }),
            "ragged: batch is 2, expected 1");
}

TEST(RaggedBatch, PartsThatDoNotFit) {
  const std::vector<float> memory(2000);
  std::vector<float> results(1000, 7);
  const std::vector<Index> two{0, 3, 10}, other{0, 4, 10}, one{0, 10};
  const auto in = [&](const std::vector<Index>& offsets, Index heads = 2, Index dim = 8) {
    return ragged(TensorView<const float>(memory.data(), 10, heads, dim), offsets);
  };
  const auto refused = [&](const auto& q, const auto& k, const auto& v, Index tokens = 10) {
    return message_of([&] {
      Threads threads(1);
      std::vector<float> lse(100);
      attention(threads, q, k, v, TensorView<float>(results.data(), tokens, q.tensor.heads, v.tensor.dim),
                causal(), LseOutput<float>{{lse.data(), 1, tokens, 2, 2 * tokens, 2, 1}}, AttentionOptions{});
    });
  };
  EXPECT_EQ(refused(in(two), in(two), in(other)), "v: offsets differ from those of k");
  EXPECT_EQ(refused(in(two), in(two), in(one)), "v: offsets differ from those of k");
  EXPECT_EQ(refused(in(two), in(two), in(two, 1)), "v: heads is 1, expected 2 as in k");
  EXPECT_EQ(refused(in(one), in(two), in(two)), "q: batch is 1, expected 2 as in k");
  EXPECT_EQ(refused(in(two), in(two, 2, 6), in(two)), "q: head_dim is 8, expected 6 as in k");
  EXPECT_EQ(refused(in(two), in(two), in(two), 9), "out: sizes are 1 x 9 x 2 x 8, expected 1 x 10 x 2 x 8");
  EXPECT_EQ(results, std::vector<float>(1000, 7.0f)) << "something was written";
}

TEST(RaggedBatch, ListsThatDoNotFit) {
  using View = KVCache<float>::View;
  EXPECT_EQ(message_of([] { KVList<View>({}); }), "KVList: no views, expected at least 1");
  const KVCache<float> a({.max_tokens = 4, .num_kv_heads = 2, .head_dim = 8});
  const KVCache<float> b({.max_tokens = 4, .num_kv_heads = 2, .head_dim = 8, .value_dim = 6});
  EXPECT_EQ(message_of([&] {
              KVList<View>({a.layer(0), b.layer(0)});
            }),
            "KVList: view 1 is 2 x 8 and x 6, expected 2 x 8 and x 8 as in view 0");
  const std::vector<float> memory(64);
  const ContiguousKV<float> pair(TensorView<const float>(memory.data(), 2, 2, 2, 8),
                                 TensorView<const float>(memory.data(), 2, 2, 2, 8));
  EXPECT_EQ(message_of([&] { KVList<ContiguousKV<float>>({pair}); }),
            "KVList: view 0 has 2 sequences, expected 1");
}

}  // namespace
}  // namespace gqa
