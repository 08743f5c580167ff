// SPDX-License-Identifier: Apache-2.0
#include "gqa/convert/expand.hpp"

#include "convert/layer_case.hpp"
#include "gqa/convert/merge.hpp"
#include "support/message_of.hpp"

namespace gqa::test {
namespace {

using convert::Method;
using convert::Weights;

const RopeConfig rope{.layout = RopeLayout::half, .head_dim = 8, .theta = 50};

Weights grouped(bool biases = true) {
  Weights w = random_weights({.num_q_heads = 12, .num_kv_heads = 2, .biases = biases}, 1);
  w.heads = HeadGrouping({0, 1, 1, 0, 0, 1, 0, 1, 0, 1, 0, 1}, 2);
  return w;
}

TEST(Expand, NoOutputChangesABit) {
  for (const bool biases : {false, true}) {
    const Weights w = grouped(biases);
    const auto x = activations<float>(15, w.kv_inputs(), 2);
    for (const Index heads : {2, 4, 6, 12}) {
      const Weights more = convert::expand_heads(w, heads);
      EXPECT_EQ(more.num_kv_heads(), heads);
      EXPECT_EQ(more.wk.rows(), heads * 8);
      EXPECT_EQ(run_layer(more, x, rope), run_layer(w, x, rope)) << heads;
    }
  }
}

TEST(Expand, CopiesOfContiguousHeadsStayContiguous) {
  const Weights w = random_weights({.num_q_heads = 12, .num_kv_heads = 2}, 3);
  for (const Index heads : {4, 6, 12}) {
    const Weights more = convert::expand_heads(w, heads);
    for (Index h = 0; h < 12; ++h) EXPECT_EQ(more.heads.kv_head(h), h / (12 / heads));
  }
}

// There and back: the copies are joined again, by any method that keeps what heads share.
TEST(Expand, AndMergingBackIsTheIdentity) {
  const Weights w = grouped();
  for (const Index heads : {4, 6, 12}) {
    const Weights more = convert::expand_heads(w, heads);
    std::vector<Index> copy_of(static_cast<std::size_t>(heads));
    for (Index h = 0; h < 12; ++h)
      copy_of[static_cast<std::size_t>(more.heads.kv_head(h))] = w.heads.kv_head(h);
    for (const Method& method : {Method::mean(), Method::first(), Method::medoid()}) {
      const auto back = convert::merge_heads(more, HeadGrouping(copy_of, 2), method);
      EXPECT_EQ(back.weights.wk, w.wk) << method.name();
      EXPECT_EQ(back.weights.wv, w.wv);
      EXPECT_EQ(back.weights.bk, w.bk);
      for (Index h = 0; h < 12; ++h) EXPECT_EQ(back.weights.heads.kv_head(h), w.heads.kv_head(h));
      EXPECT_EQ(back.report.error(), 0);
    }
  }
}

TEST(Expand, SaysWhatCannotBe) {
  const Weights w = grouped();
  for (const Index heads : {0, -2, 1, 3, 8 + 1, 14})
    EXPECT_EQ(message_of([&] { convert::expand_heads(w, heads); }),
              "num_kv_heads is " + std::to_string(heads) +
                  ", expected a multiple of the 2 KV heads below the 12 query heads, or as many as those");
  Weights uneven = w;
  uneven.heads = HeadGrouping({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 2);
  EXPECT_EQ(message_of([&] { convert::expand_heads(uneven, 4); }),
            "num_kv_heads is 4, which makes 2 of KV head 1, expected at most its 1 query heads");
  EXPECT_EQ(convert::expand_heads(uneven, 12).num_kv_heads(), 12);
}

TEST(ContiguousHeads, IsTheSameLayerInAnotherOrder) {
  const Weights w = grouped();
  std::vector<Index> order;
  const Weights sorted = convert::contiguous_heads(w, &order);
  for (Index h = 0; h < 12; ++h) {
    EXPECT_EQ(sorted.heads.kv_head(h), h / 6);
    EXPECT_EQ(w.heads.kv_head(order[static_cast<std::size_t>(h)]), h / 6);
    for (Index i = 0; i < 8; ++i)
      EXPECT_EQ(sorted.bq[static_cast<std::size_t>(h * 8 + i)],
                w.bq[static_cast<std::size_t>(order[static_cast<std::size_t>(h)] * 8 + i)]);
  }
  EXPECT_EQ(sorted.wk, w.wk);
  const auto x = activations<double>(15, w.kv_inputs(), 4);
  EXPECT_LE(relative_distance(run_layer(sorted, x, rope), run_layer(w, x, rope)), 1e-14);
}

TEST(ContiguousHeads, NeedGroupsOfOneSize) {
  Weights w = grouped();
  w.heads = HeadGrouping({0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1}, 2);
  EXPECT_EQ(message_of([&] { convert::contiguous_heads(w); }),
            "heads: KV head 0 has 7 query heads, expected as many as every other");
}

}  // namespace
}  // namespace gqa::test
