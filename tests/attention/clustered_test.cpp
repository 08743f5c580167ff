// SPDX-License-Identifier: Apache-2.0
#include "attention/attend.hpp"
#include "gqa/clustered_attention.hpp"
#include "support/message_of.hpp"

namespace gqa::test {
namespace {

struct Outcome {
  std::vector<float> out;
  ClusteredReport report;
};

Outcome clustered(const AttentionCase<float>& c, const ClusteredOptions& options) {
  const auto& s = c.sizes;
  Outcome result{
      std::vector<float>(static_cast<std::size_t>(s.num_q_tokens * s.num_q_heads * s.value_dim), 7), {}};
  result.report = clustered_attention(
      c.q_view(), c.k_view(), c.v_view(),
      TensorView<float>(result.out.data(), s.num_q_tokens, s.num_q_heads, s.value_dim), options);
  return result;
}

constexpr Sizes usual{.num_q_tokens = 65,
                      .num_kv_tokens = 71,
                      .num_q_heads = 6,
                      .num_kv_heads = 2,
                      .head_dim = 9,
                      .value_dim = 5};

/// Queries that fall into `kinds` kinds in every head, each a little off its kind.
AttentionCase<float> alike(Index kinds, double noise, std::uint64_t seed) {
  AttentionCase<float> c(usual, seed);
  Random random(seed);
  const std::size_t row = static_cast<std::size_t>(usual.num_q_heads * usual.head_dim);
  for (std::size_t i = static_cast<std::size_t>(kinds) * row; i < c.q.size(); ++i)
    c.q[i] = c.q[i % (static_cast<std::size_t>(kinds) * row)] + static_cast<float>(noise * random.normal());
  return c;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / norm);
}

// Each query is the centre of its own cluster, and rows do not depend on their neighbours in any bit.
TEST(Clustered, AsManyClustersAsQueriesIsExactAttention) {
  AttentionCase<float> c(usual, 1);
  for (const Index clusters : {65, 66, 1000}) {
    const auto result = clustered(c, {.num_clusters = clusters, .measure_error = true});
    EXPECT_EQ(result.out, run(c, {}).out);
    EXPECT_EQ(result.report.distortion, 0);
    EXPECT_EQ(result.report.max_error, 0);
    EXPECT_EQ(result.report.relative_error, 0);
    EXPECT_EQ(result.report.multiply_adds, result.report.exact_multiply_adds);
  }
}

TEST(Clustered, AsManyClustersAsDifferentQueriesIsExactAttention) {
  const auto c = alike(7, 0, 2);
  const auto result = clustered(c, {.num_clusters = 7});
  EXPECT_LE(distance(result.out, run(c, {}).out), 1e-6);  // a centre of equals is rounded once
  EXPECT_LE(result.report.distortion, 1e-25);
  EXPECT_EQ(result.report.multiply_adds, 6.0 * 7 * 71 * (9 + 5));
}

TEST(Clustered, OneClusterIsAttentionOfTheMeanQuery) {
  AttentionCase<float> c(usual, 3);
  const auto result = clustered(c, {.num_clusters = 1});
  AttentionCase<float> mean({.num_q_tokens = 1,
                             .num_kv_tokens = 71,
                             .num_q_heads = 6,
                             .num_kv_heads = 2,
                             .head_dim = 9,
                             .value_dim = 5},
                            3);
  mean.k = c.k;
  mean.v = c.v;
  for (std::size_t i = 0; i < 54; ++i) {
    double sum = 0;
    for (std::size_t t = 0; t < 65; ++t) sum += static_cast<double>(c.q[t * 54 + i]);
    mean.q[i] = static_cast<float>(sum / 65);
  }
  const auto expected = run(mean, {}).out;
  for (std::size_t i = 0; i < result.out.size(); ++i) EXPECT_EQ(result.out[i], expected[i % 30]);
}

TEST(Clustered, AllKeysOnTopIsExactAttention) {
  AttentionCase<float> c(usual, 4);
  for (const Index top : {71, 500}) {
    const auto result = clustered(c, {.num_clusters = 3, .top_keys = top, .measure_error = true});
    EXPECT_LE(distance(result.out, run(c, {}).out), 2e-6);
    EXPECT_LE(*result.report.relative_error, 2e-6);
  }
}

// The definition, in double: the centre's weights choose the keys and their mass, the query weighs them.
TEST(Clustered, TopKeysAreWeighedByEachQuery) {
  const auto c = alike(3, 0.3, 5);
  const auto result = clustered(c, {.num_clusters = 1, .top_keys = 4, .scale = 0.7});
  const Index H = 6, G = 2, D = 9, Dv = 5, keys = 71, n = 65;
  for (const Index h : {0, 2, 5}) {
    const auto key = [&](Index j) { return c.k.data() + (j * G + h / 3) * D; };
    const auto value = [&](Index j) { return c.v.data() + (j * G + h / 3) * Dv; };
    std::vector<double> centre(9);
    for (Index t = 0; t < n; ++t)
      for (Index d = 0; d < D; ++d)
        centre[static_cast<std::size_t>(d)] +=
            static_cast<double>(c.q[static_cast<std::size_t>((t * H + h) * D + d)]) / 65;
    const auto weights = [&](const auto& q, const std::vector<Index>& of) {
      std::vector<double> p;
      double sum = 0;
      for (const Index j : of) {
        double s = 0;
        for (Index d = 0; d < D; ++d)
          s += static_cast<double>(q[static_cast<std::size_t>(d)]) * static_cast<double>(key(j)[d]);
        p.push_back(std::exp(0.7 * s));
        sum += p.back();
      }
      for (double& x : p) x /= sum;
      return p;
    };
    std::vector<Index> all(static_cast<std::size_t>(keys));
    std::iota(all.begin(), all.end(), Index{0});
    const auto p = weights(centre, all);
    std::vector<Index> top = all;
    std::sort(top.begin(), top.end(), [&](Index i, Index j) {
      return p[static_cast<std::size_t>(i)] > p[static_cast<std::size_t>(j)];
    });
    top.resize(4);
    double mass = 0;
    for (const Index j : top) mass += p[static_cast<std::size_t>(j)];
    for (const Index t : {0, 13, 64}) {
      const auto own = weights(std::span(c.q.data() + (t * H + h) * D, 9), top);
      for (Index d = 0; d < Dv; ++d) {
        double expected = 0;
        for (const Index j : all)
          if (std::find(top.begin(), top.end(), j) == top.end())
            expected += p[static_cast<std::size_t>(j)] * static_cast<double>(value(j)[d]);
        for (std::size_t i = 0; i < 4; ++i) expected += mass * own[i] * static_cast<double>(value(top[i])[d]);
        EXPECT_NEAR(result.out[static_cast<std::size_t>((t * H + h) * Dv + d)], expected, 3e-6);
      }
    }
  }
}

TEST(Clustered, ErrsLessWithMoreClustersAndWithTopKeys) {
  const auto error = [](Index clusters, Index top) {
    double sum = 0;
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
      const auto c = alike(20, 0.2, seed);
      const auto result = clustered(c, {.num_clusters = clusters, .top_keys = top, .measure_error = true});
      EXPECT_NEAR(*result.report.relative_error, distance(result.out, run(c, {}).out), 1e-12);
      sum += *result.report.relative_error;
    }
    return sum / 4;
  };
  const double one = error(1, 0), four = error(4, 0), twenty = error(20, 0);
  EXPECT_LT(four, 0.95 * one);
  EXPECT_LT(twenty, 0.5 * four);
  EXPECT_LT(error(4, 16), 0.95 * four);
}

TEST(Clustered, SequencesOfABatchAreClusteredApart) {
  const AttentionCase<float> c(usual, 6);
  const auto q = [&](Index batch) { return TensorView<const float>(c.q.data(), batch, 30 / batch, 6, 9); };
  const auto k = [&](Index batch) { return TensorView<const float>(c.k.data(), batch, 70 / batch, 2, 9); };
  const auto v = [&](Index batch) { return TensorView<const float>(c.v.data(), batch, 70 / batch, 2, 5); };
  std::vector<float> both(900), second(450);
  const ClusteredOptions options{.num_clusters = 4, .top_keys = 3};
  clustered_attention(q(2), k(2), v(2), TensorView<float>(both.data(), 2, 15, 6, 5), options);
  clustered_attention(TensorView<const float>(c.q.data() + 15 * 54, 15, 6, 9),
                      TensorView<const float>(c.k.data() + 35 * 18, 35, 2, 9),
                      TensorView<const float>(c.v.data() + 35 * 10, 35, 2, 5),
                      TensorView<float>(second.data(), 15, 6, 5), options);
  EXPECT_EQ(std::vector<float>(both.begin() + 450, both.end()), second);
}

TEST(Clustered, IsTheSameAgainAndDependsOnTheSeed) {
  const auto c = alike(20, 0.5, 7);
  const auto a = clustered(c, {.num_clusters = 5, .iterations = 1});
  EXPECT_EQ(a.out, clustered(c, {.num_clusters = 5, .iterations = 1}).out);
  EXPECT_NE(a.out, clustered(c, {.num_clusters = 5, .iterations = 1, .seed = 1}).out);
  EXPECT_LE(clustered(c, {.num_clusters = 5, .iterations = 30}).report.distortion, a.report.distortion);
}

TEST(Clustered, NothingToAttendTo) {
  const AttentionCase<float> c(usual, 8);
  std::vector<float> out(30, 7);
  const TensorView<float> o(out.data(), 1, 6, 5);
  const TensorView<const float> q(c.q.data(), 1, 6, 9), k(c.k.data(), 0, 2, 9), v(c.v.data(), 0, 2, 5);
  for (const Index top : {0, 3}) {
    clustered_attention(q, k, v, o, {.num_clusters = 2, .top_keys = top});
    EXPECT_EQ(out, std::vector<float>(30, 0));
  }
  const TensorView<const float> none(c.q.data(), 0, 6, 9);
  const auto report =
      clustered_attention(none, c.k_view(), c.v_view(), TensorView<float>(out.data(), 0, 6, 5),
                          {.num_clusters = 2, .measure_error = true});
  EXPECT_EQ(report.multiply_adds, 0);
}

// Every query sees every key, so it is NaN as in exact attention; nothing else breaks.
TEST(Clustered, AKeyThatIsNoNumberMakesItsHeadsNone) {
  AttentionCase<float> c(usual, 10);
  c.k[18 * 40 + 9] = NAN;  // KV head 1
  for (const Index top : {0, 1, 5, 71}) {
    const auto out = clustered(c, {.num_clusters = 4, .top_keys = top}).out;
    for (std::size_t i = 0; i < out.size(); ++i)
      ASSERT_EQ(std::isnan(out[i]), i % 30 >= 15) << "top_keys " << top << ", element " << i;
  }
}

TEST(Clustered, SaysWhatDoesNotFit) {
  AttentionCase<float> c(usual, 9);
  std::vector<float> out(65 * 30, 7);
  const auto call = [&](const ClusteredOptions& options, Index tokens = 65, Index dim = 5) {
    return message_of([&] {
      clustered_attention(c.q_view(), c.k_view(), c.v_view(), TensorView<float>(out.data(), tokens, 6, dim),
                          options);
    });
  };
  EXPECT_EQ(call({.num_clusters = 0}), "num_clusters is 0, expected at least 1");
  EXPECT_EQ(call({.num_clusters = 1, .top_keys = -1}), "top_keys is -1, expected at least 0");
  EXPECT_EQ(call({.num_clusters = 1, .iterations = 0}), "iterations is 0, expected at least 1");
  EXPECT_EQ(call({.num_clusters = 1, .scale = NAN}).substr(0, 12), "scale is nan");
  EXPECT_EQ(call({.num_clusters = 1}, 64), "out: sizes are 1 x 64 x 6 x 5, expected 1 x 65 x 6 x 5");
  c.q[54 * 3 + 9] = NAN;
  EXPECT_EQ(call({.num_clusters = 1}), "q: token 3 of head 1 holds nan, expected finite numbers");
  EXPECT_EQ(out, std::vector<float>(65 * 30, 7));
  EXPECT_EQ(message_of([&] {
              clustered_attention(c.q_view(), TensorView<const float>(c.k.data(), 5, 4, 9),
                                  TensorView<const float>(c.v.data(), 5, 4, 5),
                                  TensorView<float>(out.data(), 65, 6, 5), {.num_clusters = 1});
            }),
            "q: heads is 6, expected a multiple of the 4 heads of k");
}

}  // namespace
}  // namespace gqa::test
