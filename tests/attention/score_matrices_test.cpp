// SPDX-License-Identifier: Apache-2.0
// Whole matrices of scores after each step against the oracle's, in batches, ragged, padded and on threads.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "attention/attend.hpp"
#include "gqa/gqa.hpp"

namespace gqa {
namespace {

constexpr std::size_t at(Index i) { return static_cast<std::size_t>(i); }
constexpr double inf = std::numeric_limits<double>::infinity();

template <class T>
class Scores : public ::testing::Test {
 protected:
  static constexpr Index B = 2, Sq = 9, Sk = 133, H = 6, G = 2, D = 24, Dv = 8;
  const std::vector<T> q = test::random_values<T>(1, B*Sq*H*D), k = test::random_values<T>(2, B*Sk*G*D),
                       v = test::random_values<T>(3, B*Sk*G*Dv);
  const std::vector<float> bias = test::random_values<float>(4, H* Sq* Sk);

  TensorView<const T> q_view() const { return {q.data(), B, Sq, H, D}; }
  TensorView<const T> k_view() const { return {k.data(), B, Sk, G, D}; }
  TensorView<const T> v_view() const { return {v.data(), B, Sk, G, Dv}; }

  double raw(Index b, Index h, Index i, Index j) const {
    double dot = 0;
    for (Index d = 0; d < D; ++d)
      dot += static_cast<double>(q[at(((b * Sq + i) * H + h) * D + d)]) *
             static_cast<double>(k[at(((b * Sk + j) * G + h / (H / G)) * D + d)]);
    return dot / std::sqrt(static_cast<double>(D));
  }
  static bool visible(Index i, Index j) {
    const Index q_pos = Sk - Sq + i;
    return j <= q_pos && q_pos - j < 70;
  }
  /// The definition, step by step.
  double expected(ScoresAfter after, Index b, Index h, Index i, Index j) const {
    const double s = raw(b, h, i, j), capped = 2 * std::tanh(s / 2);
    if (after == ScoresAfter::scale) return s;
    if (after == ScoresAfter::soft_cap) return capped;
    const double biased = capped + static_cast<double>(bias[at((h * Sq + i) * Sk + j)]);
    if (after == ScoresAfter::bias) return biased;
    return visible(i, j) ? biased : -inf;
  }

  template <class Scores4>
  void expect_steps(const Scores4& scores, ScoresAfter after) const {
    const double error =
        64 * test::detail::unit_roundoff<Accumulator<T>>() + (sizeof(scores(0, 0, 0, 0)) == 4 ? 1e-6 : 0);
    ASSERT_EQ(scores.size(), B * H * Sq * Sk);
    for (Index b = 0; b < B; ++b)
      for (Index h = 0; h < H; ++h)
        for (Index i = 0; i < Sq; ++i) {
          double sum = std::exp(0.5);  // the sink
          if (after == ScoresAfter::softmax)
            for (Index j = 0; j < Sk; ++j) sum += std::exp(expected(ScoresAfter::mask, b, h, i, j));
          for (Index j = 0; j < Sk; ++j) {
            const double e = expected(after, b, h, i, j), s = static_cast<double>(scores(b, h, i, j));
            if (after == ScoresAfter::softmax)
              ASSERT_NEAR(s, std::exp(e) / sum, error) << b << ", " << h << ", " << i << ", " << j;
            else if (e == -inf)
              ASSERT_EQ(s, -inf);
            else
              ASSERT_NEAR(s, e, error * 8) << b << ", " << h << ", " << i << ", " << j;
          }
        }
  }
};
TYPED_TEST_SUITE(Scores, test::AllScalars, test::ScalarNames);

constexpr ScoresAfter all_steps[] = {ScoresAfter::scale, ScoresAfter::soft_cap, ScoresAfter::bias,
                                     ScoresAfter::mask, ScoresAfter::softmax};

TYPED_TEST(Scores, AreTheDefinitionsAfterEachStep) {
  const auto biases = tensor_bias(ScoreTensor<float>(this->bias.data(), {1, this->H, this->Sq, this->Sk}));
  const SinkLogits sinks(std::vector<double>(at(this->H), 0.5));
  Eigen::ThreadPool pool(3);
  Workspace workspace;
  for (const ScoresAfter after : all_steps) {
    const auto scores =
        attention_scores<Dynamic, Dynamic, double>(this->q_view(), this->k_view(), this->v_view(), after,
                                                   sliding_window(70), biases | soft_cap(2), sinks);
    this->expect_steps(scores, after);
    this->expect_steps(attention_scores(this->q_view(), this->k_view(), this->v_view(), after, sinks,
                                        AnyMask(sliding_window(70)), AnyScoreMod(biases | soft_cap(2))),
                       after);
    const auto on_threads = attention_scores<Dynamic, Dynamic, double>(
        pool, this->q_view(), this->k_view(), this->v_view(), after, sliding_window(70), biases | soft_cap(2),
        sinks, AttentionOptions{.workspace = &workspace});
    for (Index i = 0; i < scores.size(); ++i) ASSERT_EQ(scores.data()[i], on_threads.data()[i]);
  }
  EXPECT_GT(workspace.bytes(), 0);
}

TYPED_TEST(Scores, ProbabilitiesAreThoseOfAttentionWeights) {
  const auto p = attention_scores<Dynamic, Dynamic, double>(this->q_view(), this->k_view(), this->v_view(),
                                                            ScoresAfter::softmax, causal());
  for (Index b = 0; b < this->B; ++b) {
    const auto weights = attention_weights<Dynamic, Dynamic, double>(this->q_view(), this->k_view(),
                                                                     this->v_view(), {.seq = b}, causal());
    for (Index i = 0; i < this->Sq; ++i)
      for (Index h = 0; h < this->H; ++h)
        for (Index j = 0; j < this->Sk; ++j)
          ASSERT_NEAR(p(b, h, i, j), weights(i, h, j), 4 * test::detail::unit_roundoff<double>());
  }
}

TYPED_TEST(Scores, OfRaggedAndPaddedBatches) {
  using T = TypeParam;
  // Sequence 0 has 30 keys and 2 queries, sequence 1 133 and 9, of the same tensors.
  const std::vector<Index> lengths{30, 133};
  const auto view = padded(this->k_view(), this->v_view(), lengths);
  const auto padded_scores =
      attention_scores<Dynamic, Dynamic, double>(this->q_view(), view, ScoresAfter::mask, causal());
  ASSERT_EQ(padded_scores.dimension(3), this->Sk);
  for (Index h = 0; h < this->H; ++h)
    for (Index i = 0; i < this->Sq; ++i)
      for (Index j = 0; j < this->Sk; ++j) {
        if (j <= 30 - this->Sq + i)
          ASSERT_NEAR(padded_scores(0, h, i, j), this->raw(0, h, i, j), 1e-4);
        else
          ASSERT_EQ(padded_scores(0, h, i, j), -inf) << i << ", " << j;
      }
  const std::vector<Index> q_offsets{0, 2, 11}, kv_offsets{0, 30, 163};
  const TensorView<const T> queries(this->q.data(), 11, this->H, this->D),
      keys(this->k.data(), 163, this->G, this->D), values(this->v.data(), 163, this->G, this->Dv);
  const auto scores =
      attention_scores<Dynamic, Dynamic, double>(ragged(queries, q_offsets), ragged(keys, kv_offsets),
                                                 ragged(values, kv_offsets), ScoresAfter::softmax, causal());
  ASSERT_EQ(scores.dimension(0), 2);
  ASSERT_EQ(scores.dimension(2), 9);
  ASSERT_EQ(scores.dimension(3), 133);
  for (Index h = 0; h < this->H; ++h)
    for (Index i = 0; i < 9; ++i)
      for (Index j = 0; j < 133; ++j) {
        if (i >= 2 || j > 28 + i) {
          ASSERT_EQ(scores(0, h, i, j), 0);
        }
      }
  const auto alone = attention_weights<Dynamic, Dynamic, double>(
      ragged(queries, q_offsets), ragged(keys, kv_offsets), ragged(values, kv_offsets), {.seq = 1}, causal());
  for (Index i = 0; i < 9; ++i)
    for (Index h = 0; h < this->H; ++h)
      for (Index j = 0; j < 133; ++j)
        ASSERT_NEAR(scores(1, h, i, j), alone(i, h, j), 4 * test::detail::unit_roundoff<double>());
}

TYPED_TEST(Scores, OfCachesMasksByHeadAndGroupings) {
  using T = TypeParam;
  const TensorView<const T> keys(this->k.data(), this->Sk, this->G, this->D),
      values(this->v.data(), this->Sk, this->G, this->Dv),
      queries(this->q.data(), this->Sq, this->H, this->D);
  KVCache<T> cache(
      {.max_tokens = this->Sk, .num_kv_heads = this->G, .head_dim = this->D, .value_dim = this->Dv});
  cache.append(keys, values);
  const HeadGrouping grouping({1, 1, 1, 1, 1, 0}, 2);
  const auto masks = per_head([](Index h) { return sliding_window(h + 1); });
  const auto scores =
      attention_scores<Dynamic, Dynamic, double>(queries, cache, ScoresAfter::softmax, grouping, masks);
  const auto weights =
      attention_weights<Dynamic, Dynamic, double>(queries, keys, values, WeightRows{}, grouping, masks);
  for (Index i = 0; i < this->Sq; ++i)
    for (Index h = 0; h < this->H; ++h)
      for (Index j = 0; j < this->Sk; ++j)
        ASSERT_NEAR(scores(0, h, i, j), weights(i, h, j), 4 * test::detail::unit_roundoff<double>()) << h;
}

TEST(ScoresOf, NothingIsEmpty) {
  const std::vector<float> x(100, 1.0f);
  const TensorView<const float> none(x.data(), 0, 2, 8), two(x.data(), 2, 2, 8);
  EXPECT_EQ(attention_scores(none, two, two, ScoresAfter::softmax).size(), 0);
  const auto without_keys = attention_scores(two, none, none, ScoresAfter::mask);
  EXPECT_EQ(without_keys.dimension(2), 2);
  EXPECT_EQ(without_keys.dimension(3), 0);
}

}  // namespace
}  // namespace gqa
