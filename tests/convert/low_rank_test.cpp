// SPDX-License-Identifier: Apache-2.0
#include "gqa/convert/low_rank.hpp"

#include "convert/layer_case.hpp"
#include "gqa/convert/merge.hpp"
#include "support/message_of.hpp"

namespace gqa::test {
namespace {

using convert::Calibration;
using convert::low_rank;
using convert::LowRank;
using convert::Weights;

const RopeConfig rope{.layout = RopeLayout::half, .head_dim = 8, .theta = 50};

Calibration calibration_of(const std::vector<double>& x, Index width) {
  Calibration c(width);
  c.add(x.data(), static_cast<Index>(x.size()) / width);
  return c;
}

// 4 (8 + 6) = 56 rows: fewer than inputs, and more.
TEST(LowRank, FullRankIsExact) {
  for (const Index inputs : {20, 70}) {
    const Weights w = random_weights({.inputs = inputs, .biases = true}, 1);
    const auto x = activations<double>(150, inputs, 2);
    const Calibration c = calibration_of(x, inputs);
    for (const Calibration* given : {static_cast<const Calibration*>(nullptr), &c}) {
      const LowRank full = low_rank(w, std::min<Index>(56, inputs), given);
      EXPECT_LE(relative_distance(full.weights.wk.values(), w.wk.values()), 1e-12);
      EXPECT_LE(relative_distance(full.weights.wv.values(), w.wv.values()), 1e-12);
      const std::vector<double> few(x.begin(), x.begin() + 11 * inputs);
      EXPECT_LE(relative_distance(run_layer(full.weights, few, rope), run_layer(w, few, rope)), 1e-12);
      const std::vector<float> few32(few.begin(), few.end());
      EXPECT_LE(relative_distance(run_layer(full.weights, few32, rope), run_layer(w, few32, rope)), 1e-5);
      EXPECT_LE(full.report.relative_error(), 1e-24);
    }
  }
}

// Eckart and Young: what is lost is the tail of the singular values, whose squares are all there is.
TEST(LowRank, LosesTheTailOfTheSingularValues) {
  const Weights w = random_weights({}, 3);
  const auto x = activations<double>(100, 20, 4);
  const Calibration c = calibration_of(x, 20);
  for (const Calibration* given : {static_cast<const Calibration*>(nullptr), &c}) {
    double all = 0;
    for (double s : low_rank(w, 1, given).singular_values) all += s * s;
    for (Index rank = 1; rank <= 20; ++rank) {
      const LowRank low = low_rank(w, rank, given);
      ASSERT_EQ(low.singular_values.size(), 20u);
      double tail = 0;
      for (Index i = rank; i < 20; ++i) tail += std::pow(low.singular_values[static_cast<std::size_t>(i)], 2);
      EXPECT_NEAR(low.report.error(), tail, 1e-13 * all) << rank;
      EXPECT_NEAR(low.report.keys.energy() + low.report.values.energy(), all, 1e-12 * all);
      EXPECT_TRUE(std::is_sorted(low.singular_values.rbegin(), low.singular_values.rend()));
    }
  }
}

// The error of keys and values over the very activations, of which no rank-r projection has less.
TEST(LowRank, IsBestOverTheActivationsItIsGiven) {
  const Weights w = random_weights({.biases = true}, 5);
  const auto x = activations<double>(100, 20, 6);
  const Calibration c = calibration_of(x, 20);
  const auto seen_error = [&](const LowRank& low) {
    double sum = 0;
    for (const auto& [a, b] : {std::pair{project(x, w.wk, w.bk), project(x, low.weights.wk, low.weights.bk)},
                               std::pair{project(x, w.wv, w.bv), project(x, low.weights.wv, low.weights.bv)}})
      for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]) / 100;
    return sum;
  };
  const LowRank aware = low_rank(w, 6, &c), blind = low_rank(w, 6);
  EXPECT_NEAR(aware.report.error(), seen_error(aware), 1e-12 * seen_error(aware));
  EXPECT_LT(seen_error(aware), 0.9 * seen_error(blind));
  EXPECT_LT(blind.report.error(),
            convert::merge_heads(w, HeadGrouping::contiguous(4, 1), convert::Method::mean()).report.error());
}

TEST(LowRank, FactorsMakeTheWeights) {
  const Weights w = random_weights({.biases = true}, 7);
  const LowRank low = low_rank(w, 5);
  EXPECT_EQ(low.rank(), 5);
  EXPECT_EQ(low.down.cols(), 20);
  EXPECT_EQ(low.weights.bk, w.bk);
  EXPECT_EQ(low.weights.wq, w.wq);
  const auto x = activations<double>(3, 20, 8);
  const auto latent = project(x, low.down, {});
  EXPECT_LE(relative_distance(project(latent, low.key_up, w.bk), project(x, low.weights.wk, w.bk)), 1e-14);
  EXPECT_LE(relative_distance(project(latent, low.value_up, w.bv), project(x, low.weights.wv, w.bv)), 1e-14);
}

TEST(LowRank, CountsTheCache) {
  const Weights w = random_weights({.inputs = 70}, 9);
  EXPECT_EQ(convert::rank_of_budget(w, 2), 28);
  const auto report = low_rank(w, convert::rank_of_budget(w, 2)).report;
  EXPECT_EQ(report.cache_before.elements_per_token, 56);
  EXPECT_EQ(report.cache_after.elements_per_token, 28);
}

TEST(LowRank, SaysWhatDoesNotFit) {
  const Weights w = random_weights({}, 10);
  for (const Index rank : {0, 21})
    EXPECT_EQ(message_of([&] { low_rank(w, rank); }),
              "rank is " + std::to_string(rank) + ", expected 1 to 20");
  for (const Index heads : {0, 5})
    EXPECT_EQ(message_of([&] { convert::rank_of_budget(w, heads); }),
              "num_kv_heads is " + std::to_string(heads) + ", expected 1 to 4");
  const auto x = activations<double>(19, 20, 11);
  Calibration few = calibration_of(x, 20);
  EXPECT_EQ(message_of([&] { low_rank(w, 3, &few); }),
            "activations: 19 tokens have rank 19, expected 20; add more of them, or add_noise");
  few.add_noise(1e-6);
  EXPECT_EQ(low_rank(w, 3, &few).rank(), 3);
  // As many tokens as inputs, but one twice: what rounding leaves of the last eigenvalue has either sign.
  for (const std::uint64_t seed : seeds(8)) {
    const auto some = activations<double>(19, 20, seed);
    Calibration twice = calibration_of(some, 20);
    twice.add(some.data(), 1);
    EXPECT_EQ(message_of([&] { low_rank(w, 3, &twice); }),
              "activations: 20 tokens have rank 19, expected 20; add more of them, or add_noise");
  }
  const std::vector<double> zeros(400);
  const Calibration nothing = calibration_of(zeros, 20);
  EXPECT_EQ(message_of([&] { low_rank(w, 3, &nothing); }),
            "activations: 20 tokens have rank 0, expected 20; add more of them, or add_noise");
  const Calibration narrow = calibration_of(zeros, 10);
  EXPECT_EQ(message_of([&] { low_rank(w, 3, &narrow); }),
            "activations: width is 10, expected 20, the inputs of keys and values");
}

// Weights of zero have nothing to lose, and no first direction.
TEST(LowRank, OfZeros) {
  Weights w = random_weights({}, 12);
  w.wk = convert::Matrix(32, 20);
  w.wv = convert::Matrix(24, 20);
  const LowRank low = low_rank(w, 2);
  EXPECT_EQ(low.report.error(), 0);
  EXPECT_EQ(low.report.relative_error(), 0);
}

}  // namespace
}  // namespace gqa::test
