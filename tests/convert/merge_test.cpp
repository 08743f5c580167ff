// SPDX-License-Identifier: Apache-2.0
#include "gqa/convert/merge.hpp"

#include "convert/layer_case.hpp"
#include "support/message_of.hpp"

namespace gqa::test {
namespace {

using convert::Calibration;
using convert::HeadWeights;
using convert::KeyBasis;
using convert::Matrix;
using convert::merge_heads;
using convert::Method;
using convert::Weights;

RopeConfig rope_of(RopeLayout layout, Index rotary_dim = 8) {
  return {.layout = layout, .head_dim = 8, .rotary_dim = rotary_dim, .theta = 50};
}

/// Factors 1 / group size: the mean as learned weights.
HeadWeights uniform(HeadWeights::Along along, Index keys, Index values, double factor) {
  return {along, std::vector<double>(static_cast<std::size_t>(keys), factor),
          std::vector<double>(static_cast<std::size_t>(values), factor)};
}

/// Every method that keeps what heads share; factors are for 4 heads in pairs.
std::vector<Method> methods() {
  return {Method::mean(),
          Method::first(),
          Method::medoid(),
          Method::weighted(uniform(HeadWeights::Along::heads, 4, 4, 0.5)),
          Method::weighted(uniform(HeadWeights::Along::rows, 4 * 8, 4 * 6, 0.5)),
          Method::aligned_mean(KeyBasis::rope(rope_of(RopeLayout::half))),
          Method::aligned_mean(KeyBasis::fixed())};
}

double largest_difference(const Matrix& a, const Matrix& b) {
  EXPECT_EQ(a.rows(), b.rows());
  double largest = 0;
  for (std::size_t i = 0; i < a.values().size(); ++i)
    largest = std::max(largest, std::abs(a.values()[i] - b.values()[i]));
  return largest;
}

void expect_same(const Weights& a, const Weights& b) {
  EXPECT_EQ(a.wq, b.wq);
  EXPECT_EQ(a.wk, b.wk);
  EXPECT_EQ(a.wv, b.wv);
  EXPECT_EQ(a.wo, b.wo);
  EXPECT_EQ(a.bq, b.bq);
  EXPECT_EQ(a.bk, b.bk);
  EXPECT_EQ(a.bv, b.bv);
  for (Index h = 0; h < a.num_q_heads(); ++h) EXPECT_EQ(a.heads.kv_head(h), b.heads.kv_head(h));
}

/// Turns head h by a rotation that commutes with RoPE, a different one for each pair, and its reader back.
void turn_head(Weights& w, Index h, const RopeConfig& rope, Random& random) {
  const KeyBasis basis = KeyBasis::rope(rope);
  for (Index i = 0; i < rope.rotary_dim / 2; ++i) {
    const auto [a, b] = basis.pair(i);
    const double angle = random.uniform(0, 6), c = std::cos(angle), s = std::sin(angle);
    for (Matrix* m : {&w.wk, &w.wq})
      for (Index j = 0; j < m->cols(); ++j) {
        const double x = (*m)(h * 8 + a, j), y = (*m)(h * 8 + b, j);
        (*m)(h * 8 + a, j) = c * x - s * y;
        (*m)(h * 8 + b, j) = s * x + c * y;
      }
  }
}

TEST(Merge, AsManyGroupsAsHeadsIsTheIdentity) {
  for (const bool biases : {false, true})
    for (const Method& method : methods()) {
      if (method.kind() == Method::Kind::weighted) continue;
      const Weights w = random_weights({.biases = biases}, 1);
      for (const bool keep_norms : {false, true}) {
        const auto merged =
            merge_heads(w, HeadGrouping::contiguous(4, 4), method, {.keep_norms = keep_norms});
        expect_same(merged.weights, w);
        EXPECT_EQ(merged.report.error(), 0);
        EXPECT_EQ(merged.report.cache_ratio(), 1);
      }
    }
}

TEST(Merge, IdenticalHeadsLoseNothing) {
  for (const Method& method : methods()) {
    Weights w = random_weights({.biases = true}, 2);
    const auto grouping = HeadGrouping({0, 1, 0, 1}, 2);
    for (const Index h : {0, 1}) {
      copy_head(w.wk, w.bk, 8, h, h + 2);
      copy_head(w.wv, w.bv, 6, h, h + 2);
    }
    const auto merged = merge_heads(w, grouping, method);
    const auto x = activations<double>(13, w.kv_inputs(), 3);
    const auto rope = rope_of(RopeLayout::half);
    EXPECT_LE(relative_distance(run_layer(merged.weights, x, rope), run_layer(w, x, rope)), 1e-12)
        << method.name();
    EXPECT_LE(merged.report.relative_error(), 1e-28) << method.name();
    if (method.kind() != Method::Kind::aligned_mean) {
      EXPECT_EQ(merged.report.error(), 0) << method.name();
    }
  }
}

// The decisive one: what training does to heads freely, turn them, costs an aligned mean nothing.
TEST(Merge, HeadsThatDifferByARotationLoseNothingAlignedAndMuchPlain) {
  for (const RopeLayout layout : {RopeLayout::half, RopeLayout::interleaved})
    for (const Index rotary_dim : {8, 6}) {
      const auto rope = rope_of(layout, rotary_dim);
      Random random(4);
      Weights w = random_weights({}, 5);
      for (Index h = 1; h < 4; ++h) {
        copy_head(w.wk, w.bk, 8, 0, h);
        copy_head(w.wv, w.bv, 6, 0, h);
        turn_head(w, h, rope, random);
        // Values: any permutation and signs of their elements.
        for (Index i = 0; i < 6; ++i)
          for (Index c = 0; c < w.wv.cols(); ++c)
            w.wv(h * 6 + i, c) = (i % 2 ? 1 : -1) * w.wv((i + h) % 6, c);
      }
      const auto x = activations<double>(13, w.kv_inputs(), 6);
      const auto exact = run_layer(w, x, rope);
      const auto all = HeadGrouping::contiguous(4, 1);
      const auto aligned = merge_heads(w, all, Method::aligned_mean(KeyBasis::rope(rope)));
      EXPECT_LE(relative_distance(run_layer(aligned.weights, x, rope), exact), 1e-12);
      EXPECT_LE(aligned.report.relative_error(), 1e-28);
      const auto plain = merge_heads(w, all, Method::mean());
      EXPECT_GT(relative_distance(run_layer(plain.weights, x, rope), exact), 0.3);
      EXPECT_GT(plain.report.relative_error(), 0.3);
    }
}

TEST(Merge, OfGroupedWeightsToFewer) {
  Weights w = random_weights({.num_q_heads = 6, .num_kv_heads = 3, .biases = true}, 7);
  w.heads = HeadGrouping({2, 0, 1, 1, 0, 2}, 3);
  const auto merged = merge_heads(w, HeadGrouping({1, 0, 1}, 2), Method::mean()).weights;
  const Index expected[] = {1, 1, 0, 0, 1, 1};
  for (Index h = 0; h < 6; ++h) EXPECT_EQ(merged.heads.kv_head(h), expected[h]);
  for (Index c = 0; c < w.kv_inputs(); ++c) {
    EXPECT_EQ(merged.wk(0, c), w.wk(8, c));
    EXPECT_NEAR(merged.wk(8, c), (w.wk(0, c) + w.wk(16, c)) / 2, 1e-15);
  }
  EXPECT_NEAR(merged.bv[6], (w.bv[0] + w.bv[12]) / 2, 1e-15);
  EXPECT_EQ(merged.wq, w.wq);
  EXPECT_EQ(merged.wo, w.wo);
}

TEST(Merge, FirstAndMedoidAreHeadsOfTheGroup) {
  Weights w = random_weights({.num_q_heads = 3, .num_kv_heads = 3, .biases = true}, 8);
  // Head 1 stands between the other two.
  for (auto* m : {&w.wk, &w.wv}) {
    const Index size = m->rows() / 3 * m->cols();
    for (Index i = 0; i < size; ++i) m->row(0)[size + i] = (m->row(0)[i] + m->row(0)[2 * size + i]) / 2;
  }
  const auto all = HeadGrouping::contiguous(3, 1);
  const auto first = merge_heads(w, all, Method::first()), medoid = merge_heads(w, all, Method::medoid());
  for (Index i = 0; i < 8; ++i)
    for (Index c = 0; c < w.kv_inputs(); ++c) {
      EXPECT_EQ(first.weights.wk(i, c), w.wk(i, c));
      EXPECT_EQ(medoid.weights.wk(i, c), w.wk(8 + i, c));
    }
  EXPECT_EQ(first.report.keys.errors[0], 0);
  EXPECT_EQ(medoid.report.keys.errors[1], 0);
  EXPECT_LT(medoid.report.error(), first.report.error());
}

TEST(Merge, RandomDependsOnTheSeedAloneAndHasTheSourcesSize) {
  const Weights w = random_weights({.num_q_heads = 8, .num_kv_heads = 8, .biases = true}, 9);
  const auto pairs = HeadGrouping::contiguous(8, 4);
  const auto a = merge_heads(w, pairs, Method::random(1)), b = merge_heads(w, pairs, Method::random(1));
  EXPECT_EQ(a.weights.wk, b.weights.wk);
  EXPECT_NE(a.weights.wk, merge_heads(w, pairs, Method::random(2)).weights.wk);
  const auto mean_square = [](const Matrix& m) {
    double sum = 0;
    for (double x : m.values()) sum += x * x;
    return sum / static_cast<double>(m.values().size());
  };
  // 640 draws: their mean square is within 5 standard errors, 0.89 / sqrt(640) each.
  EXPECT_NEAR(mean_square(a.weights.wk) / mean_square(w.wk), 1, 0.18);
  EXPECT_EQ(a.weights.bk, std::vector<double>(32));
  // The engine is the standard's, the mapping ours: the same on every machine.
  EXPECT_DOUBLE_EQ(gqa::detail::Random(1).uniform(), 0.13387664401253274);
}

TEST(Merge, LearnedWeightsAreFoldedIn) {
  const Weights w = random_weights({}, 10);
  const auto pairs = HeadGrouping::strided(4, 2);
  const auto mean = merge_heads(w, pairs, Method::mean()).weights;
  Random random(11);
  for (const auto along :
       {HeadWeights::Along::heads, HeadWeights::Along::rows, HeadWeights::Along::columns}) {
    const bool rows = along == HeadWeights::Along::rows, columns = along == HeadWeights::Along::columns;
    HeadWeights factors = uniform(along,
                                  4 * (rows      ? 8
                                       : columns ? 20
                                                 : 1),
                                  4 * (rows      ? 6
                                       : columns ? 20
                                                 : 1),
                                  0.5);
    EXPECT_LE(largest_difference(merge_heads(w, pairs, Method::weighted(factors)).weights.wk, mean.wk),
              1e-15);
    for (double& x : factors.keys) x = random.uniform(-1, 1);
    const auto folded = merge_heads(w, pairs, Method::weighted(factors)).weights;
    // Unfolded: the keys of the source's heads, times their factors.
    const auto x = activations<double>(3, 20, 12);
    const auto keys = project(x, folded.wk, {});
    for (Index t = 0; t < 3; ++t)
      for (Index i = 0; i < 8; ++i) {
        double sum = 0;
        for (const Index h : {1, 3})
          for (Index c = 0; c < 20; ++c) {
            const Index at = rows ? h * 8 + i : columns ? h * 20 + c : h;
            sum += factors.keys[static_cast<std::size_t>(at)] * w.wk(h * 8 + i, c) *
                   x[static_cast<std::size_t>(t * 20 + c)];
          }
        EXPECT_NEAR(keys[static_cast<std::size_t>(t * 16 + 8 + i)], sum, 1e-13);
      }
  }
}

// Rotations are linear and the same for all heads: joined before or after, keys are the same.
TEST(Merge, TheMeanOfRotatedKeysIsTheRotatedMean) {
  const Weights w = random_weights({.biases = true}, 13);
  const auto merged = merge_heads(w, HeadGrouping::contiguous(4, 1), Method::mean()).weights;
  const auto x = activations<double>(7, 20, 14);
  const Rope rope(rope_of(RopeLayout::interleaved));
  auto all = project(x, w.wk, w.bk), one = project(x, merged.wk, merged.bk);
  rope.apply(TensorView<double>(all.data(), 7, 4, 8), 100);
  rope.apply(TensorView<double>(one.data(), 7, 1, 8), 100);
  for (std::size_t t = 0; t < 7; ++t)
    for (std::size_t i = 0; i < 8; ++i) {
      double sum = 0;
      for (std::size_t h = 0; h < 4; ++h) sum += all[(t * 4 + h) * 8 + i];
      EXPECT_NEAR(one[t * 8 + i], sum / 4, 1e-13);
    }
}

TEST(Merge, KeepsNormsWhereAsked) {
  for (const bool calibrated : {false, true}) {
    const Weights w = random_weights({.biases = true}, 15);
    Calibration calibration(20);
    const auto x = activations<double>(50, 20, 16);
    calibration.add(x.data(), 50);
    const auto pairs = HeadGrouping::contiguous(4, 2);
    const auto* c = calibrated ? &calibration : nullptr;
    const auto plain = merge_heads(w, pairs, Method::mean(), {.calibration = c});
    const auto kept = merge_heads(w, pairs, Method::mean(), {.calibration = c, .keep_norms = true});
    for (const auto& [before, after] : {std::pair{&plain.report.keys, &kept.report.keys},
                                        std::pair{&plain.report.values, &kept.report.values}})
      for (std::size_t g = 0; g < 2; ++g) {
        const double wanted = (before->norms[2 * g] + before->norms[2 * g + 1]) / 2;
        EXPECT_LT(before->new_norms[g], 0.95 * wanted);
        EXPECT_NEAR(after->new_norms[g], wanted, 1e-13 * wanted);
      }
    const double factor = kept.weights.wk(0, 0) / plain.weights.wk(0, 0);
    EXPECT_NEAR(kept.weights.bk[3] / plain.weights.bk[3], factor, 1e-12);
  }
  // Heads that cancel each other have no norm to restore.
  Weights w = random_weights({.num_q_heads = 2, .num_kv_heads = 2}, 17);
  for (Index i = 0; i < 8; ++i)
    for (Index c = 0; c < 20; ++c) w.wk(8 + i, c) = -w.wk(i, c);
  const auto merged =
      merge_heads(w, HeadGrouping::contiguous(2, 1), Method::mean(), {.keep_norms = true}).weights;
  EXPECT_EQ(merged.wk, Matrix(8, 20));
}

TEST(Merge, ReportsTheErrorOfActivations) {
  const Weights w = random_weights({.biases = true}, 18);
  const auto x = activations<double>(30, 20, 19);
  Calibration calibration(20);
  calibration.add(x.data(), 10);
  calibration.add(x.data() + 200, 20);
  const auto grouping = HeadGrouping({0, 0, 0, 1}, 2);
  for (const Method& method : {Method::mean(), Method::first(), Method::random(3)}) {
    const auto merged = merge_heads(w, grouping, method, {.calibration = &calibration});
    const auto keys = project(x, w.wk, w.bk), shared = project(x, merged.weights.wk, merged.weights.bk);
    for (std::size_t h = 0; h < 4; ++h) {
      double error = 0, square = 0;
      for (std::size_t t = 0; t < 30; ++t)
        for (std::size_t i = 0; i < 8; ++i) {
          const double k = keys[(t * 4 + h) * 8 + i], s = shared[(t * 2 + h / 3) * 8 + i];
          error += (k - s) * (k - s) / 30;
          square += k * k / 30;
        }
      EXPECT_NEAR(merged.report.keys.errors[h], error, 1e-12 * square) << method.name() << " head " << h;
      EXPECT_NEAR(merged.report.keys.norms[h], std::sqrt(square), 1e-12 * square);
    }
  }
  // The mean is the best there is in either metric; aligned, better.
  const auto error = [&](const Method& method) {
    return merge_heads(w, grouping, method, {.calibration = &calibration}).report.error();
  };
  EXPECT_LT(error(Method::mean()), error(Method::medoid()));
  EXPECT_LT(error(Method::aligned_mean(KeyBasis::unrestricted())), error(Method::mean()));
}

TEST(Merge, CountsTheCache) {
  const Weights w = random_weights({}, 20);
  const auto report = merge_heads(w, HeadGrouping::contiguous(4, 1), Method::mean()).report;
  EXPECT_EQ(report.cache_before.elements_per_token, 4 * (8 + 6));
  EXPECT_EQ(report.cache_after.bytes(1000, 2), 14 * 2000);
  EXPECT_EQ(report.cache_ratio(), 4);
  EXPECT_THROW(report.cache_after.bytes(max_position, 2), std::length_error);
}

}  // namespace
}  // namespace gqa::test
