// SPDX-License-Identifier: Apache-2.0
#include "gqa/convert/similarity.hpp"

#include "convert/layer_case.hpp"
#include "gqa/convert/merge.hpp"
#include "gqa/convert/partition.hpp"

namespace gqa::test {
namespace {

using convert::Calibration;
using convert::head_distances;
using convert::HeadDistance;
using convert::KeyBasis;
using convert::Matrix;
using convert::Method;
using convert::Weights;

constexpr HeadDistance all_kinds[] = {HeadDistance::plain, HeadDistance::aligned,
                                      HeadDistance::aligned_cosine, HeadDistance::cka};

Calibration calibration_of(Index inputs) {
  const auto x = activations<double>(60, inputs, 2);
  Calibration c(inputs);
  c.add(x.data(), 60);
  return c;
}

TEST(HeadDistances, ArePlainDifferencesOfWeights) {
  const Weights w = random_weights({.biases = true}, 1);
  const Matrix d = head_distances(w, HeadDistance::plain, KeyBasis::fixed());
  for (Index h = 0; h < 4; ++h)
    for (Index k = 0; k < 4; ++k) {
      double sum = 0;
      for (const auto& [m, bias] : {std::pair{&w.wk, &w.bk}, std::pair{&w.wv, &w.bv}}) {
        const Index dim = m->rows() / 4;
        for (Index i = 0; i < dim; ++i) {
          for (Index c = 0; c < 20; ++c) sum += std::pow((*m)(h * dim + i, c) - (*m)(k * dim + i, c), 2);
          sum += std::pow(bias->at(static_cast<std::size_t>(h * dim + i)) -
                              bias->at(static_cast<std::size_t>(k * dim + i)),
                          2);
        }
      }
      EXPECT_NEAR(d(h, k), sum, 1e-13 * (1 + sum));
    }
}

TEST(HeadDistances, OfTheSameHeadAreZero) {
  Weights w = random_weights({.biases = true}, 3);
  copy_head(w.wk, w.bk, 8, 0, 2);
  copy_head(w.wv, w.bv, 6, 0, 2);
  const Calibration c = calibration_of(20);
  for (const HeadDistance kind : all_kinds)
    for (const Calibration* given : {static_cast<const Calibration*>(nullptr), &c}) {
      const Matrix d = head_distances(w, kind, KeyBasis::rope(RopeLayout::half, 8), given);
      EXPECT_LE(d(0, 2), 1e-13);
      EXPECT_GT(d(0, 1), 0.1);
      EXPECT_NO_THROW(convert::detail::check_distances(d));
    }
}

// A turned head is the same head to all but the plain distance; a longer one to those that are blind to size.
TEST(HeadDistances, SeeThroughWhatTheyAreToSeeThrough) {
  Weights w = random_weights({}, 4);
  copy_head(w.wk, w.bk, 8, 0, 1);
  copy_head(w.wv, w.bv, 6, 0, 1);
  for (Index c = 0; c < 20; ++c)
    for (Index i = 0; i < 4; ++i) {  // a quarter turn of every pair
      const double a = w.wk(8 + i, c), b = w.wk(8 + i + 4, c);
      w.wk(8 + i, c) = -2 * b;
      w.wk(8 + i + 4, c) = 2 * a;
    }
  for (Index c = 0; c < 20; ++c) std::swap(w.wv(6, c), w.wv(9, c));
  const auto distance = [&](HeadDistance kind, const KeyBasis& basis) {
    return head_distances(w, kind, basis)(0, 1);
  };
  const auto rope = KeyBasis::rope(RopeLayout::half, 8);
  EXPECT_GT(distance(HeadDistance::plain, rope), 1);
  EXPECT_LE(distance(HeadDistance::aligned_cosine, rope), 1e-13);
  EXPECT_LE(distance(HeadDistance::cka, KeyBasis::fixed()), 1e-13);
  EXPECT_GT(distance(HeadDistance::aligned_cosine, KeyBasis::rope(RopeLayout::interleaved, 8)), 0.1);
  double norm = 0;  // (2 - 1)^2 |K|^2 is left
  for (Index i = 0; i < 8 * 20; ++i) norm += w.wk.row(0)[i] * w.wk.row(0)[i];
  EXPECT_NEAR(distance(HeadDistance::aligned, rope), norm, 1e-12 * norm);
}

TEST(HeadDistances, OfAHeadOfZeros) {
  Weights w = random_weights({.num_q_heads = 3, .num_kv_heads = 3}, 5);
  for (Index i = 0; i < 8 * 20; ++i) w.wk.row(0)[i] = 0;
  for (Index i = 0; i < 6 * 20; ++i) w.wv.row(0)[i] = 0;
  for (const HeadDistance kind : {HeadDistance::aligned_cosine, HeadDistance::cka})
    EXPECT_EQ(head_distances(w, kind, KeyBasis::unrestricted())(0, 1), 2);
}

// What a grouping costs in plain distances is what its mean loses; aligned, no more than the aligned mean
// loses, and that exactly where groups are pairs.
TEST(GroupingCost, IsTheErrorOfTheMean) {
  const Calibration c = calibration_of(20);
  const auto basis = KeyBasis::rope(RopeLayout::interleaved, 6);
  for (const Calibration* given : {static_cast<const Calibration*>(nullptr), &c}) {
    const Weights w = random_weights({.num_q_heads = 6, .num_kv_heads = 6, .biases = true}, 6);
    const Matrix plain = head_distances(w, HeadDistance::plain, basis, given);
    const Matrix aligned = head_distances(w, HeadDistance::aligned, basis, given);
    for (const auto& grouping : {HeadGrouping::contiguous(6, 3), HeadGrouping::strided(6, 2),
                                 HeadGrouping({1, 0, 1, 1, 1, 2}, 3), HeadGrouping::contiguous(6, 6)}) {
      const auto error = [&](const Method& method) {
        return convert::merge_heads(w, grouping, method, {.calibration = given}).report.error();
      };
      const double mean = error(Method::mean());
      EXPECT_NEAR(convert::grouping_cost(plain, grouping), mean, 1e-12 * (1 + mean));
      const double best = error(Method::aligned_mean(basis)),
                   cost = convert::grouping_cost(aligned, grouping);
      EXPECT_LE(cost, best + 1e-12);
      if (grouping.num_kv_heads() == 3 && grouping.kv_head(0) == 0) {
        EXPECT_NEAR(cost, best, 1e-10 * best);
      }
      EXPECT_LE(best, mean + 1e-12);
    }
  }
}

}  // namespace
}  // namespace gqa::test
