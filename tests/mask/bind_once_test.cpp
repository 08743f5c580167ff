// SPDX-License-Identifier: Apache-2.0
// What per_head(f) builds is built once for a task and head, besides the checks of a call and its plan.
#include <gtest/gtest.h>

#include <atomic>

#include "gqa/gqa.hpp"
#include "support/attention_case.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::Sizes;

/// Counts the calls of f, and of how many heads.
struct Counter {
  std::shared_ptr<std::atomic<Index>> calls = std::make_shared<std::atomic<Index>>(0);

  auto mask() const {
    return per_head([c = calls](Index h) {
      ++*c;
      return sliding_window(100 + 60 * h) | sinks(h);
    });
  }
  Index take() const { return calls->exchange(0); }
};

/// The tasks of a call on this many threads.
Index num_items(const Sizes& s, Index num_seqs, Index num_threads) {
  const detail::PlanSizes sizes{
      .num_kv_heads = s.num_kv_heads,
      .group_size = s.num_q_heads / s.num_kv_heads,
      .head_dim = s.head_dim,
      .value_dim = s.value_dim,
      .kv_bytes = sizeof(float),
      .num_threads = num_threads,
      .blocks = detail::tuning::block_sizes(s.head_dim, s.value_dim, sizeof(float))};
  detail::Plan plan;
  const auto sequence = [&](Index) {
    return detail::PlanSequence{s.num_q_tokens, Range{0, s.num_kv_tokens}};
  };
  make_plan(sizes, num_seqs, sequence, plan);
  return static_cast<Index>(plan.items.size());
}

TEST(BindOnce, ATaskAndHead) {
  Eigen::ThreadPool pool(2);
  const std::vector<Sizes> shapes = {{1, 70, 4, 2, 16},     {1, 9000, 4, 1, 64}, {300, 900, 6, 3, 40, 24},
                                     {1500, 1500, 4, 2, 8}, {3, 2000, 7, 1, 16}, {40, 40, 4, 4, 16}};
  for (const Sizes& s : shapes) {
    SCOPED_TRACE(s.name());
    AttentionCase<float> c(s, 1);
    Counter count;
    const Index checks = s.num_q_heads, group = s.num_q_heads / s.num_kv_heads;
    const auto expected = attention(c.q_view(), c.k_view(), c.v_view(), count.mask());
    EXPECT_EQ(count.take(), checks + num_items(s, 1, 1) * group);
    const auto out = attention(pool, c.q_view(), c.k_view(), c.v_view(), count.mask());
    EXPECT_EQ(count.take(), checks + num_items(s, 1, 2) * group);
    for (Index i = 0; i < out.size(); ++i) ASSERT_EQ(out.data()[i], expected.data()[i]);
    // Inside other masks too.
    attention(c.q_view(), c.k_view(), c.v_view(), causal() & count.mask());
    EXPECT_EQ(count.take(), checks + num_items(s, 1, 1) * group);
    attention(c.q_view(), c.k_view(), c.v_view(), AnyMask(!count.mask()));
    EXPECT_EQ(count.take(), checks + num_items(s, 1, 1) * group);
    attention(c.q_view(), c.k_view(), c.v_view(), AnyMask(AnyMask(count.mask()) & causal()));
    EXPECT_EQ(count.take(), checks + num_items(s, 1, 1) * group);
  }
}

TEST(BindOnce, BatchesAndHeadsOfUnequalGroups) {
  const Index B = 3, H = 5, G = 2, n = 130, D = 8;
  Eigen::Tensor<float, 4, Eigen::RowMajor> q(B, n, H, D), k(B, n, G, D), v(B, n, G, D);
  q.setRandom(), k.setRandom(), v.setRandom();
  Counter count;
  const HeadGrouping heads({1, 1, 0, 1, 1}, G), idle({0, 0, 0, 0, 0}, G);
  attention(q, k, v, count.mask(), heads);
  EXPECT_EQ(count.take(), B * H + B * H);  // checks, and one task a sequence and KV head
  attention(q, k, v, count.mask(), idle);  // nobody reads KV head 1
  EXPECT_EQ(count.take(), B * H + B * H);
}

TEST(BindOnce, CascadesToo) {
  const Index H = 4, G = 2, D = 8, prefix = 512, own = 70;
  Eigen::Tensor<float, 3, Eigen::RowMajor> q(6, H, D), k(prefix, G, D), v(prefix, G, D), k2(2 * own, G, D),
      v2(2 * own, G, D), out(6, H, D);
  q.setRandom(), k.setRandom(), v.setRandom(), k2.setRandom(), v2.setRandom();
  const std::vector<Index> offsets = {0, 3, 6}, one = {0, prefix}, two = {0, own, 2 * own};
  using View = ContiguousKV<float>;
  const std::vector<CascadeLevel<View>> levels = {
      {detail::as_kv(ragged(k, one), ragged(v, one)), {0, 2}},
      {detail::as_kv(ragged(k2, two), ragged(v2, two)), {0, 1, 2}}};
  Counter count;
  cascade_attention(Serial{}, ragged(q, offsets), levels, out, count.mask());
  EXPECT_EQ(count.take(), 2 * H + 2 * (2 * H));  // a check a sequence; a task a level, sequence and KV head
}

TEST(BindOnce, AThrowingFunctionLeavesTheCallWithNothingHeld) {
  AttentionCase<float> c({40, 40, 4, 2, 16}, 1);
  const auto table = std::make_shared<int>(0);
  std::atomic<Index> calls = 0;
  const auto mask = per_head([&, table](Index h) {
    if (++calls > 4 && h == 1) throw std::runtime_error("head 1");  // not yet in the check
    return causal() & [table](Index, Index) { return true; };
  });
  const auto held = table.use_count();
  EXPECT_THROW(attention(c.q_view(), c.k_view(), c.v_view(), mask), std::runtime_error);
  EXPECT_EQ(table.use_count(), held);
}

}  // namespace
}  // namespace gqa
