// SPDX-License-Identifier: Apache-2.0
#include "conversion.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace convert {
namespace {

using gqa::HeadGrouping;
using gqa::convert::Matrix;
using gqa::convert::Weights;

constexpr Index D = 6, Dv = 4, inputs = 10, tokens = 7;

Matrix random_matrix(Index rows, Index cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0, 0.7);
  Matrix m(rows, cols);
  for (double& x : m.values()) x = normal(random);
  return m;
}

Weights random_weights(Index H, Index G, unsigned seed = 1) {
  Weights w(random_matrix(H * D, inputs, seed), random_matrix(G * D, inputs, seed + 1),
            random_matrix(G * Dv, inputs, seed + 2), random_matrix(inputs, H * Dv, seed + 3), H, G);
  w.bk = random_matrix(1, G * D, seed + 4).values();
  w.bv = random_matrix(1, G * Dv, seed + 5).values();
  w.bq = random_matrix(1, H * D, seed + 6).values();
  return w;
}

/// Attention as the papers write it: what the layer gives for each of some tokens, each seeing all.
Matrix outputs(const Weights& w, const Matrix& x) {
  const auto project = [&](const Matrix& m, const std::vector<double>& bias, Index row, Index t) {
    double sum = bias.empty() ? 0 : bias[static_cast<std::size_t>(row)];
    for (Index c = 0; c < x.cols(); ++c) sum += m(row, c) * x(t, c);
    return sum;
  };
  Matrix out(x.rows(), w.wo.rows());
  for (Index t = 0; t < x.rows(); ++t)
    for (Index h = 0; h < w.num_q_heads(); ++h) {
      const Index g = w.heads.kv_head(h);
      std::vector<double> p;
      double total = 0;
      for (Index s = 0; s < x.rows(); ++s) {
        double score = 0;
        for (Index i = 0; i < D; ++i)
          score += project(w.wq, w.bq, h * D + i, t) * project(w.wk, w.bk, g * D + i, s);
        p.push_back(std::exp(score / std::sqrt(static_cast<double>(D))));
        total += p.back();
      }
      for (Index i = 0; i < Dv; ++i) {
        double value = 0;
        for (Index s = 0; s < x.rows(); ++s)
          value += p[static_cast<std::size_t>(s)] / total * project(w.wv, w.bv, g * Dv + i, s);
        for (Index o = 0; o < w.wo.rows(); ++o) out(t, o) += w.wo(o, h * Dv + i) * value;
      }
    }
  return out;
}

void expect_near(const Matrix& a, const Matrix& b) {
  ASSERT_EQ(a.values().size(), b.values().size());
  for (std::size_t i = 0; i < a.values().size(); ++i) ASSERT_NEAR(a.values()[i], b.values()[i], 1e-12);
}

void expect_as_in_files(const Weights& w) {
  for (Index h = 0; h < w.num_q_heads(); ++h)
    ASSERT_EQ(w.heads.kv_head(h), h / (w.num_q_heads() / w.num_kv_heads()));
}

Settings joined(Index groups, Grouping grouping, std::vector<Index> map = {}) {
  Settings settings{.num_kv_heads = groups, .grouping = grouping, .map = std::move(map)};
  settings.basis = gqa::convert::KeyBasis::rope(gqa::RopeLayout::interleaved, 4);
  return settings;
}

// The layer in a file's order computes what the one whose heads are merely mapped does.
TEST(ConvertLayer, ComputesWhatTheGroupsSay) {
  const Weights source = random_weights(12, 6);
  const Matrix x = random_matrix(tokens, inputs, 9);
  const struct {
    Settings settings;
    std::vector<Index> map;
    Index kv_heads;
  } cases[] = {
      {joined(3, Grouping::contiguous), {0, 0, 1, 1, 2, 2}, 3},
      {joined(3, Grouping::strided), {0, 1, 2, 0, 1, 2}, 3},
      {joined(1, Grouping::contiguous), {0, 0, 0, 0, 0, 0}, 1},
      {joined(6, Grouping::contiguous), {0, 1, 2, 3, 4, 5}, 6},
      {joined(2, Grouping::map, {1, 0, 0, 1, 1, 0}), {1, 0, 0, 1, 1, 0}, 2},
      {joined(2, Grouping::map, {0, 1, 1, 0, 1, 1}), {0, 1, 1, 0, 1, 1}, 3},  // groups of 2 and 4: runs of 2
      {joined(3, Grouping::map, {2, 0, 2, 1, 2, 0}), {2, 0, 2, 1, 2, 0}, 6},  // of 2, 1 and 3
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(testing::PrintToString(c.map));
    const auto converted = convert_layer(source, c.settings, 0);
    const auto merged = gqa::convert::merge_heads(source, HeadGrouping(c.map, c.settings.num_kv_heads),
                                                  gqa::convert::Method::mean());
    EXPECT_EQ(converted.groups, c.map);
    EXPECT_EQ(converted.weights.num_kv_heads(), c.kv_heads);
    EXPECT_EQ(resulting_kv_heads(c.settings, 12, 6), c.kv_heads);
    EXPECT_EQ(converted.report.cache_before.elements_per_token, 6 * (D + Dv));
    EXPECT_EQ(converted.report.cache_after.elements_per_token, c.kv_heads * (D + Dv));
    EXPECT_EQ(converted.report.error(), merged.report.error());
    expect_as_in_files(converted.weights);
    expect_near(outputs(converted.weights, x), outputs(merged.weights, x));
  }
}

TEST(ConvertLayer, CopiesHeads) {
  const Weights source = random_weights(12, 2);
  const Matrix x = random_matrix(tokens, inputs, 9), before = outputs(source, x);
  for (const Index copies : {4, 6, 12}) {
    const auto converted = convert_layer(source, {.num_kv_heads = copies}, 0);
    EXPECT_EQ(converted.weights.num_kv_heads(), copies);
    EXPECT_EQ(converted.report.cache_after.elements_per_token, copies * (D + Dv));
    EXPECT_TRUE(converted.groups.empty());
    expect_as_in_files(converted.weights);
    EXPECT_EQ(outputs(converted.weights, x), before);
  }
}

TEST(ConvertLayer, DoesWhatTheMethodIsCalled) {
  using Joining = gqa::convert::Method;
  const Weights source = random_weights(8, 4);
  const auto groups = HeadGrouping::contiguous(4, 2);
  Settings settings = joined(2, Grouping::contiguous);
  settings.seed = 40;
  const gqa::convert::HeadWeights factors{
      gqa::convert::HeadWeights::Along::heads, {1, 2, 3, 4}, {5, 6, 7, 8}};
  settings.factors = {{}, {}, factors};
  const std::pair<Method, Joining> methods[] = {
      {Method::mean, Joining::mean()},
      {Method::first, Joining::first()},
      {Method::medoid, Joining::medoid()},
      {Method::random, Joining::random(42)},
      {Method::weighted, Joining::weighted(factors)},
      {Method::aligned_mean, Joining::aligned_mean(settings.basis)}};
  for (const auto& [method, joining] : methods) {
    for (const bool keep_norms : {false, true}) {
      SCOPED_TRACE(name_of(method));
      settings.method = method;
      settings.keep_norms = keep_norms;
      const auto converted = convert_layer(source, settings, 2);
      const auto expected = gqa::convert::merge_heads(source, groups, joining, {.keep_norms = keep_norms});
      EXPECT_EQ(converted.weights.wq, expected.weights.wq);
      EXPECT_EQ(converted.weights.wk, expected.weights.wk);
      EXPECT_EQ(converted.weights.wv, expected.weights.wv);
      EXPECT_EQ(converted.weights.wo, expected.weights.wo);
      EXPECT_EQ(converted.weights.bk, expected.weights.bk);
    }
  }
}

TEST(ConvertLayer, GroupsByDistanceAndChance) {
  // Heads 0 and 3 are alike, and 1 and 2.
  Weights source = random_weights(8, 4);
  for (const auto& [to, from] : {std::pair(3, 0), std::pair(2, 1)}) {
    std::copy_n(source.wk.row(from * D), D * inputs, source.wk.row(to * D));
    std::copy_n(source.wv.row(from * Dv), Dv * inputs, source.wv.row(to * Dv));
    std::copy_n(source.bk.begin() + from * D, D, source.bk.begin() + to * D);
    std::copy_n(source.bv.begin() + from * Dv, Dv, source.bv.begin() + to * Dv);
  }
  const Matrix x = random_matrix(tokens, inputs, 9);
  using enum gqa::convert::HeadDistance;
  for (const auto distance : {plain, aligned, aligned_cosine, cka}) {
    Settings settings = joined(2, Grouping::clustered);
    settings.distance = distance;
    const auto converted = convert_layer(source, settings, 0);
    EXPECT_EQ(converted.groups, (std::vector<Index>{0, 1, 1, 0}));
    EXPECT_EQ(converted.report.error(), 0);
    expect_near(outputs(converted.weights, x), outputs(source, x));
  }
  Settings settings = joined(2, Grouping::random);
  std::set<std::vector<Index>> seen;
  for (Index layer = 0; layer < 20; ++layer) {
    const auto groups = convert_layer(source, settings, layer).groups;
    EXPECT_EQ(std::ranges::count(groups, 0), 2);
    EXPECT_EQ(groups, convert_layer(source, settings, layer).groups);
    seen.insert(groups);
  }
  EXPECT_GT(seen.size(), 3U) << "each layer draws anew";
}

// Heads 0, 1 and 3 are alike in the first layer, none in the other.
TEST(ConvertLayer, GroupsByFreeSizesWithinABudget) {
  Weights alike = random_weights(8, 4);
  for (const Index to : {1, 3}) {
    std::copy_n(alike.wk.row(0), D * inputs, alike.wk.row(to * D));
    std::copy_n(alike.wv.row(0), Dv * inputs, alike.wv.row(to * Dv));
    std::copy_n(alike.bk.begin(), D, alike.bk.begin() + to * D);
    std::copy_n(alike.bv.begin(), Dv, alike.bv.begin() + to * Dv);
  }
  const Weights different = random_weights(8, 4);
  const Matrix x = random_matrix(tokens, inputs, 9);
  Settings settings = joined(2, Grouping::asymmetric);
  settings.layer_groups = choose_groups({group_choices(alike, settings, 0)}, settings);
  EXPECT_EQ(resulting_kv_heads(settings, 8, 4), 4);  // of 3 and 1: a file has each as often as it is read
  const auto two = convert_layer(alike, settings, 0);
  EXPECT_EQ(two.groups, (std::vector<Index>{0, 0, 1, 0}));
  EXPECT_EQ(two.report.error(), 0);
  expect_as_in_files(two.weights);
  expect_near(outputs(two.weights, x), outputs(alike, x));

  settings.budget = 6;
  settings.num_kv_heads = 1;
  const std::vector<Choices> choices{group_choices(alike, settings, 0),
                                     group_choices(different, settings, 1)};
  ASSERT_EQ(choices[0].groups.size(), 4U);
  EXPECT_GT(choices[0].errors[0], 0.1);
  EXPECT_EQ(choices[0].errors[1], 0);
  EXPECT_GT(choices[1].errors[2], 0.05);
  settings.layer_groups = choose_groups(choices, settings);
  EXPECT_EQ(settings.layer_groups[0].num_kv_heads(), 2);
  EXPECT_EQ(settings.layer_groups[1].num_kv_heads(), 4);
  expect_near(outputs(convert_layer(different, settings, 1).weights, x), outputs(different, x));
  // All layers of a file have as many: the greatest common divisor of 8, and of 2 each, query heads of a KV
  // head.
  settings.budget = 5;
  settings.layer_groups = {HeadGrouping::contiguous(4, 1), HeadGrouping::contiguous(4, 4)};
  EXPECT_EQ(resulting_kv_heads(settings, 8, 4), 4);
  EXPECT_EQ(convert_layer(alike, settings, 0).weights.num_kv_heads(), 4);
  settings.budget = 1;
  EXPECT_THROW(choose_groups(choices, settings), std::invalid_argument);
}

TEST(ConvertLayer, Factorises) {
  const Weights source = random_weights(8, 4);
  Settings settings{.num_kv_heads = 1, .method = Method::low_rank};
  // Rank 10, that of one head's cache, is all that inputs of 10 elements have.
  const auto whole = convert_layer(source, settings, 0);
  const Matrix x = random_matrix(tokens, inputs, 9);
  for (std::size_t i = 0; i < source.wk.values().size(); ++i)
    ASSERT_NEAR(whole.weights.wk.values()[i], source.wk.values()[i], 1e-12);
  EXPECT_EQ(whole.weights.num_kv_heads(), 4);
  EXPECT_EQ(whole.report.cache_after.elements_per_token, D + Dv);
  EXPECT_EQ(resulting_kv_heads(settings, 8, 4), 4);
  settings.num_kv_heads = 2;
  EXPECT_THROW(convert_layer(source, settings, 0), std::invalid_argument) << "rank 20";
}

// What it says is what the library does with it, which is another thing than without.
TEST(ConvertLayer, LooksAtTheCalibration) {
  const Weights source = random_weights(8, 4);
  gqa::convert::Calibration calibration(inputs);
  Matrix x = random_matrix(50, inputs, 20);
  for (Index t = 0; t < x.rows(); ++t)
    for (Index i = 0; i < inputs; ++i) x(t, i) *= static_cast<double>(1 + i);
  calibration.add(x.row(0), x.rows());
  Settings settings = joined(2, Grouping::clustered);
  settings.method = Method::aligned_mean;
  const auto converted = convert_layer(source, settings, 0, &calibration);
  const auto distances =
      gqa::convert::head_distances(source, settings.distance, settings.basis, &calibration);
  const auto expected = gqa::convert::merge_heads(source, gqa::convert::clustered_groups(distances, 2),
                                                  gqa::convert::Method::aligned_mean(settings.basis),
                                                  {.calibration = &calibration});
  EXPECT_EQ(converted.report.error(), expected.report.error());
  EXPECT_NE(converted.report.error(), convert_layer(source, settings, 0).report.error());

  settings = {.num_kv_heads = 1, .method = Method::low_rank};
  const Weights wide(random_matrix(8 * D, 40, 1), random_matrix(4 * D, 40, 2), random_matrix(4 * Dv, 40, 3),
                     random_matrix(inputs, 8 * Dv, 4), 8, 4);
  gqa::convert::Calibration of_wide(40);
  of_wide.add(random_matrix(90, 40, 5).row(0), 90);
  EXPECT_EQ(convert_layer(wide, settings, 0, &of_wide).weights.wk,
            gqa::convert::low_rank(wide, D + Dv, &of_wide).weights.wk);
  EXPECT_NE(convert_layer(wide, settings, 0, &of_wide).weights.wk,
            convert_layer(wide, settings, 0).weights.wk);
}

TEST(ResultingKvHeads, RefusesWhatThereCannotBe) {
  const auto refused = [](const Settings& settings, Index H, Index G, const std::string& part) {
    try {
      resulting_kv_heads(settings, H, G);
      ADD_FAILURE() << "expected: " << part;
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  refused(joined(0, Grouping::contiguous), 8, 4, "expected at least 1");
  refused(joined(3, Grouping::contiguous), 8, 4, "expected a divisor of the 4 KV heads");
  refused(joined(2, Grouping::contiguous), 9, 3, "expected a divisor of the 3 KV heads");
  refused(joined(6, Grouping::contiguous), 9, 3, "a multiple of the 3 KV heads there are that divides the 9");
  refused(joined(18, Grouping::contiguous), 9, 3, "divides the 9");
  refused(joined(6, Grouping::contiguous), 12, 4, "a multiple of the 4");
  refused(joined(2, Grouping::map, {0, 1}), 9, 3, "the map has 2 groups, expected one for each of the 3");
  refused(joined(3, Grouping::map, {0, 2, 2}), 9, 3, "leaves group 1 empty");
  EXPECT_EQ(resulting_kv_heads(joined(9, Grouping::contiguous), 9, 3), 9);
}

}  // namespace
}  // namespace convert
