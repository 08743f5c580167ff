// SPDX-License-Identifier: Apache-2.0
// Probabilities a few tokens at a time: those of a softmax in double precision, whatever is held at once.
#include "gqa/inspect/probability_rows.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <unsupported/Eigen/CXX11/Tensor>

#include "gqa/inspect/head_measures.hpp"
#include "gqa/kv/cache.hpp"
#include "gqa/mask.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

constexpr Index num_tokens = 71, num_q_heads = 6, num_kv_heads = 2, head_dim = 40, num_keys = 130;

struct Case {
  std::vector<float> q, k;

  Case() {
    test::Random random(1);
    for (Index i = 0; i < num_tokens * num_q_heads * head_dim; ++i)
      q.push_back(static_cast<float>(random.normal()));
    for (Index i = 0; i < num_keys * num_kv_heads * head_dim; ++i)
      k.push_back(static_cast<float>(random.normal()));
  }
  TensorView<const float> queries() const { return {q.data(), num_tokens, num_q_heads, head_dim}; }
  TensorView<const float> keys() const { return {k.data(), num_keys, num_kv_heads, head_dim}; }

  /// Row i of head h in a window of 50 keys.
  std::vector<double> exact(Index i, Index h) const {
    std::vector<double> p(num_keys, 0);
    double sum = 0;
    const Index pos = num_keys - num_tokens + i;
    for (Index j = std::max<Index>(0, pos - 49); j <= pos; ++j) {
      double dot = 0;
      for (Index d = 0; d < head_dim; ++d)
        dot += static_cast<double>(q[static_cast<std::size_t>((i * num_q_heads + h) * head_dim + d)]) *
               static_cast<double>(k[static_cast<std::size_t>((j * num_kv_heads + h / 3) * head_dim + d)]);
      sum += p[static_cast<std::size_t>(j)] = std::exp(dot / std::sqrt(40.0));
    }
    for (double& x : p) x /= sum;
    return p;
  }
};

TEST(ForProbabilities, GivesEachRowOnceWhateverIsHeld) {
  const Case c;
  std::vector<float> first;
  for (const Index memory : {Index{1}, Index{10000}, Index{1} << 22}) {
    Index next = num_keys - num_tokens, most = 0;
    std::vector<float> all;
    for_probabilities(
        c.queries(), c.keys(), c.keys(), {.memory = memory},
        [&](const ProbabilityRows& rows) {
          EXPECT_EQ(rows.first_position, next);
          EXPECT_EQ(rows.first_key, 0);
          ASSERT_EQ(rows.num_heads, num_q_heads);
          ASSERT_EQ(rows.num_keys, num_keys);
          next += rows.num_tokens;
          most = std::max(most, rows.num_tokens);
          all.insert(all.end(), rows.data, rows.data + rows.num_tokens * num_q_heads * num_keys);
        },
        sliding_window(50));
    EXPECT_EQ(next, num_keys);
    EXPECT_EQ(most, std::clamp<Index>(memory / (num_q_heads * num_keys * 4), 1, num_tokens));
    if (first.empty()) first = all;
    EXPECT_EQ(all, first);
  }
  // A score of about 3 in float over 40 products, and its exponential.
  for (Index i = 0; i < num_tokens; i += 7)
    for (Index h = 0; h < num_q_heads; ++h) {
      const auto exact = c.exact(i, h);
      for (std::size_t j = 0; j < exact.size(); ++j)
        ASSERT_NEAR(static_cast<double>(first[static_cast<std::size_t>(i * num_q_heads + h) * num_keys + j]),
                    exact[j], 2e-5);
    }
}

TEST(ForProbabilities, RefusesWhatIsNotThere) {
  const Case c;
  const auto run = [&](ProbabilityOptions options) {
    for_probabilities(
        c.queries(), c.keys(), c.keys(), options, [](const ProbabilityRows&) { FAIL(); }, sliding_window(50));
  };
  EXPECT_NE(test::message_of<std::invalid_argument>([&] { run({.memory = 0}); }).find("memory is 0"),
            std::string::npos);
  EXPECT_NE(test::message_of<std::invalid_argument>([&] { run({.seq = 1}); }).find("seq is 1"),
            std::string::npos);
}

}  // namespace
}  // namespace gqa
