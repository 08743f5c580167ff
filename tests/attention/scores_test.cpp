// SPDX-License-Identifier: Apache-2.0
// Every score function and learned sinks through every placement: prefill, decode, MHA, GQA, MQA, every
// dtype, against the oracle.
#include <gtest/gtest.h>

#include "gqa/position/qk_norm.hpp"
#include "score/placements.hpp"

namespace gqa {
namespace {

template <class T>
class EveryScore : public ::testing::Test {};
TYPED_TEST_SUITE(EveryScore, test::AllScalars, test::ScalarNames);

TYPED_TEST(EveryScore, IsTheOraclesEverywhere) {
  for (const test::Sizes& sizes : test::placed_heads()) {
    test::Placements<TypeParam> placements(sizes, 1);
    const test::CaseExtent extent = test::extent_of(sizes);
    const auto masks = test::mask_cases(extent);
    // Keys after the query too, for what looks both ways; then another mask for each.
    const test::MaskCase ahead{"", window(-1, 40),
                               [](Index, Index, Index q, Index kv) { return kv <= q + 40; }};
    std::size_t next = 0;
    for (const test::ScoreCase& s : test::score_cases(extent)) {
      next += 5;
      for (const test::MaskCase& m : {ahead, masks[next % masks.size()]}) {
        SCOPED_TRACE(s.name + ", mask " + m.name);
        const auto none = std::vector<double>(static_cast<std::size_t>(sizes.num_q_heads),
                                              -std::numeric_limits<double>::infinity());
        const SinkLogits sinks(s.sink_logits.empty() ? none : s.sink_logits);
        placements.expect_oracle(
            [&](std::optional<Index> seq) {
              return std::tuple(seq ? m.mask.of_seq(*seq) : m.mask, seq ? s.score.of_seq(*seq) : s.score,
                                sinks);
            },
            [&](reference::Problem& problem, Index seq) {
              problem.visible = [&m, seq](Index h, Index q, Index kv) { return m.visible(seq, h, q, kv); };
              problem.modify = [&s, seq](double x, Index h, Index q, Index kv) {
                return s.modify(x, seq, h, q, kv);
              };
              problem.sink_logits = s.sink_logits;
            });
      }
    }
  }
}

/// A head normalised and multiplied by weights, written out.
template <class T>
std::vector<double> normalised(const std::vector<double>& x, const std::vector<T>& weights) {
  const std::size_t D = weights.size();
  std::vector<double> y(x.size());
  for (std::size_t head = 0; head < x.size(); head += D) {
    double squares = 0;
    for (std::size_t d = 0; d < D; ++d) squares += x[head + d] * x[head + d];
    for (std::size_t d = 0; d < D; ++d)
      y[head + d] =
          x[head + d] / std::sqrt(squares / static_cast<double>(D) + 1e-6) * static_cast<double>(weights[d]);
  }
  return y;
}

TYPED_TEST(EveryScore, QKNormBeforeTheCall) {
  using T = TypeParam;
  for (test::Sizes sizes : test::placed_heads()) {
    for (const test::Lengths& length : test::placed_lengths) {
      sizes.num_q_tokens = length.queries, sizes.num_kv_tokens = length.keys;
      test::AttentionCase<T> c(sizes, 5);
      const auto q_weights = test::random_values<T>(7, sizes.head_dim),
                 k_weights = test::random_values<T>(8, sizes.head_dim);
      const auto q = normalised(test::to_double<T>(c.q), q_weights),
                 k = normalised(test::to_double<T>(c.k), k_weights);
      QKNorm(NormWeights::plain, q_weights)
          .apply(TensorView<T>(c.q.data(), length.queries, sizes.num_q_heads, sizes.head_dim));
      QKNorm(NormWeights::plain, k_weights)
          .apply(TensorView<T>(c.k.data(), length.keys, sizes.num_kv_heads, sizes.head_dim));
      auto problem = test::problem_of(c, {.mask = causal()});
      problem.q = q;
      problem.k = k;
      const auto exact = reference::attention(problem);
      const auto naive = test::naive_attention<T>(problem);
      EXPECT_TRUE(test::within_bound(test::run(c, {.mask = causal()}), problem, exact, naive))
          << sizes.name();
      EXPECT_TRUE(test::within_bound(test::run_cached(c, {.mask = causal()}), problem, exact, naive))
          << "cache: " << sizes.name();
    }
  }
}

}  // namespace
}  // namespace gqa
