// SPDX-License-Identifier: Apache-2.0
// What attention refuses: each message names the argument, the dimension, its value and the expected one, and
// nothing has been written.
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "attention/attend.hpp"
#include "gqa/gqa.hpp"
#include "support/message_of.hpp"
#include "support/sanitizers.hpp"

namespace gqa {
namespace {

using test::message_of;

class BadInput : public ::testing::Test {
 protected:
  std::vector<float> memory = std::vector<float>(5000, 1.0f), output = std::vector<float>(5000, -7.0f);

  TensorView<const float> in(Index tokens, Index heads, Index dim, Index batch = 1) const {
    return {memory.data(), batch, tokens, heads, dim};
  }
  TensorView<float> out(Index tokens, Index heads, Index dim, Index batch = 1) {
    return {output.data(), batch, tokens, heads, dim};
  }

  /// The message of a call with these, after a look at the output.
  template <class E = std::invalid_argument, class... X>
  std::string refused(const TensorView<const float>& q, const TensorView<const float>& k,
                      const TensorView<const float>& v, const TensorView<float>& o, const X&... extras) {
    const auto message = message_of<E>([&] { attention(q, k, v, o, extras...); });
    EXPECT_EQ(output, std::vector<float>(5000, -7.0f)) << "something was written";
    return message;
  }
};

TEST_F(BadInput, Heads) {
  EXPECT_EQ(refused(in(2, 5, 8), in(3, 2, 8), in(3, 2, 8), out(2, 5, 8)),
            "q: heads is 5, expected a multiple of the 2 heads of k");
  EXPECT_EQ(refused(in(2, 0, 8), in(3, 2, 8), in(3, 2, 8), out(2, 0, 8)),
            "q: heads is 0, expected at least 1");
  EXPECT_EQ(refused(in(2, 4, 8), in(3, 0, 8), in(3, 0, 8), out(2, 4, 8)),
            "k: heads is 0, expected at least 1");
  EXPECT_EQ(message_of<std::invalid_argument>(
                [&] { attention<8, 2>(in(2, 4, 8), in(3, 2, 8), in(3, 2, 8), out(2, 4, 8)); }),
            "q: heads is 4, expected 8");
  EXPECT_EQ(message_of<std::invalid_argument>(
                [&] { attention<4, 4>(in(2, 4, 8), in(3, 2, 8), in(3, 2, 8), out(2, 4, 8)); }),
            "k: heads is 2, expected 4");
}

TEST_F(BadInput, KeysAndValues) {
  EXPECT_EQ(refused(in(2, 4, 8), in(3, 2, 8), in(4, 2, 8), out(2, 4, 8)),
            "v: tokens is 4, expected 3 as in k");
  EXPECT_EQ(refused(in(2, 4, 8), in(3, 2, 8), in(3, 4, 8), out(2, 4, 8)),
            "v: heads is 4, expected 2 as in k");
  EXPECT_EQ(refused(in(2, 4, 8), in(3, 2, 8), in(3, 2, 8, 2), out(2, 4, 8)),
            "v: batch is 2, expected 1 as in k");
}

TEST_F(BadInput, HeadDim) {
  EXPECT_EQ(refused(in(2, 4, 8), in(3, 2, 9), in(3, 2, 8), out(2, 4, 8)),
            "q: head_dim is 8, expected 9 as in k");
  EXPECT_EQ(refused(in(2, 4, 0), in(3, 2, 0), in(3, 2, 8), out(2, 4, 8)),
            "q: head_dim is 0, expected at least 1");
}

TEST_F(BadInput, Batch) {
  EXPECT_EQ(refused(in(2, 4, 8, 2), in(3, 2, 8), in(3, 2, 8), out(2, 4, 8, 2)),
            "q: batch is 2, expected 1 as in k");
}

TEST_F(BadInput, Output) {
  EXPECT_EQ(refused(in(2, 4, 8), in(3, 2, 8), in(3, 2, 6), out(2, 4, 8)),
            "out: sizes are 1 x 2 x 4 x 8, expected 1 x 2 x 4 x 6");
  EXPECT_EQ(refused(in(2, 4, 8), in(3, 2, 8), in(3, 2, 8), out(1, 4, 8)),
            "out: sizes are 1 x 1 x 4 x 8, expected 1 x 2 x 4 x 8");
  EXPECT_EQ(refused(in(2, 4, 8), in(3, 2, 8), in(3, 2, 8), out(2, 2, 8)),
            "out: sizes are 1 x 2 x 2 x 8, expected 1 x 2 x 4 x 8");
  EXPECT_EQ(refused(in(2, 4, 8), in(3, 2, 8), in(3, 2, 8), out(2, 4, 8, 2)),
            "out: sizes are 2 x 2 x 4 x 8, expected 1 x 2 x 4 x 8");
}

TEST_F(BadInput, Lse) {
  Eigen::Tensor<float, 2, Eigen::RowMajor> lse(4, 2);
  EXPECT_EQ(refused(in(2, 4, 8), in(3, 2, 8), in(3, 2, 8), out(2, 4, 8), lse_into(lse)),
            "lse: sizes are 1 x 4 x 2, expected 1 x 2 x 4");
}

TEST_F(BadInput, Scale) {
  for (double scale : {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_NE(refused(in(2, 4, 8), in(3, 2, 8), in(3, 2, 8), out(2, 4, 8), AttentionOptions{.scale = scale})
                  .find("expected a finite number"),
              std::string::npos);
  }
}

TEST_F(BadInput, Tuning) {
  const auto message = [&](const Tuning& tuning) {
    return refused(in(2, 4, 8), in(3, 2, 8), in(3, 2, 8), out(2, 4, 8), AttentionOptions{.tuning = tuning});
  };
  EXPECT_EQ(message({.threads = -1}), "tuning: threads is -1, expected 0 to 1048576");
  EXPECT_EQ(message({.block_rows = -5}), "tuning: block_rows is -5, expected 0 to 1048576");
  EXPECT_EQ(message({.task_rows = 1 << 21}), "tuning: task_rows is 2097152, expected 0 to 1048576");
  EXPECT_EQ(message({.tasks_per_thread = std::numeric_limits<Index>::max()}),
            "tuning: tasks_per_thread is 9223372036854775807, expected 0 to 1048576");
  EXPECT_EQ(message_of<std::invalid_argument>([&] {
              attention_weights(in(2, 4, 8), ContiguousKV<float>(in(3, 2, 8), in(3, 2, 8)), WeightRows{},
                                AttentionOptions{.tuning = {.threads = 1}});
            }),
            "tuning: given, expected none: attention_weights cuts its work in its own way");
}

TEST_F(BadInput, QOffsetsThatOverflow) {
  for (Index offset : {std::numeric_limits<Index>::max(), std::numeric_limits<Index>::max() - 1,
                       std::numeric_limits<Index>::min(), max_position + 1, -max_position - 1}) {
    EXPECT_NE(refused(in(2, 4, 8), in(3, 2, 8), in(3, 2, 8), out(2, 4, 8), causal(),
                      AttentionOptions{.q_offset = offset})
                  .find("q_offset is " + std::to_string(offset)),
              std::string::npos)
        << offset;
  }
  attention(in(2, 4, 8), in(3, 2, 8), in(3, 2, 8), out(2, 4, 8), causal(),
            AttentionOptions{.q_offset = max_position - 2});
  attention(in(2, 4, 8), in(3, 2, 8), in(3, 2, 8), out(2, 4, 8), causal(),
            AttentionOptions{.q_offset = -max_position});
}

TEST_F(BadInput, SizesThatOverflow) {
  const Index huge = std::numeric_limits<Index>::max();
  EXPECT_THROW(in(huge, 2, 8), std::length_error);
  // A tensor of no tokens may claim any head_dim; it must not be multiplied into nonsense.
  const Index dim = Index{1} << 61;
  EXPECT_EQ(refused<std::length_error>(in(0, 1, dim), in(0, 1, dim), in(0, 1, 8), out(0, 1, 8)),
            "nothing thrown");
#if !GQA_TEST_ADDRESS_SANITIZER
  EXPECT_THROW(attention(in(1, 1, dim), in(0, 1, dim), in(0, 1, dim)), std::exception);
#endif
}

TEST_F(BadInput, EmptyIsNotBad) {
  EXPECT_EQ(refused(in(0, 4, 8), in(3, 2, 8), in(3, 2, 8), out(0, 4, 8)), "nothing thrown");
  EXPECT_EQ(refused(in(2, 4, 8, 0), in(3, 2, 8, 0), in(3, 2, 8, 0), out(2, 4, 8, 0)), "nothing thrown");
  EXPECT_EQ(refused(in(2, 4, 8), in(3, 2, 8), in(3, 2, 0), out(2, 4, 0)), "nothing thrown");
}

TEST_F(BadInput, EmptyQueriesWithoutMemory) {
  // Strides that would lead anywhere from nowhere.
  const TensorView<const float> none(nullptr, {3, 0, 4, 8}, {1000, 100, 8});
  const TensorView<float> out_none(nullptr, {3, 0, 4, 8}, {1000, 100, 8});
  EXPECT_EQ(refused(none, in(3, 2, 8, 3), in(3, 2, 8, 3), out_none, causal()), "nothing thrown");
  const std::vector<Index> offsets{0, 0, 2, 2};
  const TensorView<const float> sparse(memory.data(), {1, 2, 4, 8}, {0, 2000, 8});
  const TensorView<float> sparse_out(output.data(), {1, 2, 4, 8}, {0, 2000, 8});
  attention(ragged(sparse, offsets), ragged(in(2, 2, 8), offsets), ragged(in(2, 2, 8), offsets), sparse_out);
  EXPECT_EQ(output[0], 1);
  EXPECT_EQ(output[2000], 1);
}

TEST_F(BadInput, MoreThreadsThanThereAre) {
  struct Boaster {
    Index claimed;
    Index num_threads() const { return claimed; }
    void parallel_for(Index n, TaskRef task) { Serial::parallel_for(n, task); }
  };
  std::vector<float> keys(40000 * 2 * 8, 0.5f), expected(64);
  const TensorView<const float> k(keys.data(), 40000, 2, 8);
  attention(in(2, 4, 8), k, k, TensorView<float>(expected.data(), 2, 4, 8));
  for (const Index claimed : {std::numeric_limits<Index>::max(), std::numeric_limits<Index>::max() / 2,
                              std::numeric_limits<Index>::min(), Index{-1}, Index{0}}) {
    std::vector<float> result(64);
    Boaster boaster{claimed};
    attention(boaster, in(2, 4, 8), k, k, TensorView<float>(result.data(), 2, 4, 8));
    EXPECT_EQ(result, expected) << claimed;
  }
}

TEST_F(BadInput, ViewsOfPositionsThatNoMaskCanMeet) {
  for (const Range positions :
       {Range{-1, 3}, Range{4, 2}, Range{0, max_position + 1},
        Range{std::numeric_limits<Index>::min(), std::numeric_limits<Index>::max()}}) {
    const test::FunctionKV<float> view{.kv_heads = 2, .key_dim = 8, .values_dim = 8, .positions = positions};
    const auto message =
        message_of<std::invalid_argument>([&] { attention(in(2, 4, 8), view, out(2, 4, 8), causal()); });
    EXPECT_EQ(message.find("retained: positions "), 0u) << message;
  }
}

TEST_F(BadInput, ClearedCaches) {
  KVCache<float> cache({.max_tokens = 8, .num_kv_heads = 2, .head_dim = 8});
  cache.append(in(3, 2, 8), in(3, 2, 8));
  const auto view = cache.layer(0);
  cache.clear();
  EXPECT_EQ(message_of<std::invalid_argument>([&] { attention(in(2, 4, 8), view, out(2, 4, 8)); }),
            "view: the cache was cleared after the view of layer 0 was taken");
  EXPECT_EQ(message_of<std::invalid_argument>([&] { attention(in(2, 4, 9), cache.layer(0), out(2, 4, 8)); }),
            "q: head_dim is 9, expected 8 as in k");
  EXPECT_EQ(message_of<std::invalid_argument>([&] { attention(in(2, 3, 8), cache.layer(0), out(2, 3, 8)); }),
            "q: heads is 3, expected a multiple of the 2 heads of k");
  EXPECT_EQ(output, std::vector<float>(5000, -7.0f));
}

}  // namespace
}  // namespace gqa
