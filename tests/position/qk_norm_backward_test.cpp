// SPDX-License-Identifier: Apache-2.0
// The gradient of QK-norm, and of a rotation after it, against finite differences in double.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "gqa/position/qk_norm.hpp"
#include "gqa/position/rope.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

constexpr Index B = 2, S = 3, H = 2, D = 10, n = B * S * H * D;

template <class T>
TensorView<T> view(std::vector<T>& x) {
  return TensorView<T>(x.data(), B, S, H, D);
}

/// sum_i r_i f(x)_i, where f is norm and rotation.
double loss(const QKNorm& norm, const Rope* rope, std::vector<double> x, const std::vector<double>& r) {
  norm.apply(view(x));
  if (rope != nullptr) rope->apply(view(x), 5);
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += r[i] * x[i];
  return sum;
}

void expect_near(double got, double expected, const char* what, Index i) {
  // Of central differences with a step of 1e-5, 1e-10 of the third derivative and 1e-11 by rounding remain.
  EXPECT_NEAR(got, expected, 1e-6 * std::max(1.0, std::abs(expected))) << what << " " << i;
}

TEST(QKNormBackward, IsFiniteDifferences) {
  const auto x = test::random_values<double>(1, n), r = test::random_values<double>(2, n);
  const auto weights = test::random_values<double>(3, D);
  const Rope rope({.layout = RopeLayout::half, .head_dim = D, .theta = 50});
  for (const NormWeights convention : {NormWeights::plain, NormWeights::one_plus})
    for (const Rope* rotation : {static_cast<const Rope*>(nullptr), &rope})
      for (const double epsilon : {1e-6, 0.5}) {
        const QKNorm norm(convention, weights, epsilon);
        std::vector<double> d = r, of_weights(D, 10);
        if (rotation != nullptr) rotation->apply_transpose(view(d), 5);
        auto argument = x;
        norm.backward(view(argument), view(d), of_weights);
        const double step = 1e-5;
        for (Index i = 0; i < n; i += 7) {
          auto more = x, less = x;
          more[static_cast<std::size_t>(i)] += step;
          less[static_cast<std::size_t>(i)] -= step;
          expect_near(d[static_cast<std::size_t>(i)],
                      (loss(norm, rotation, more, r) - loss(norm, rotation, less, r)) / (2 * step), "x", i);
        }
        for (std::size_t i = 0; i < D; ++i) {
          auto more = weights, less = weights;
          more[i] += step;
          less[i] -= step;
          expect_near(of_weights[i] - 10,  // added to what was there
                      (loss(QKNorm(convention, more, epsilon), rotation, x, r) -
                       loss(QKNorm(convention, less, epsilon), rotation, x, r)) /
                          (2 * step),
                      "weight", static_cast<Index>(i));
        }
      }
}

TEST(QKNormBackward, OfFloatIsThatOfDoubleRounded) {
  auto x = test::random_values<float>(1, n), d = test::random_values<float>(2, n);
  std::vector<double> wide_x(x.begin(), x.end()), wide_d(d.begin(), d.end()), sums(D), wide_sums(D);
  const QKNorm norm(NormWeights::plain, test::random_values<float>(3, D));
  norm.backward(view(x), view(d), sums);
  norm.backward(view(wide_x), view(wide_d), wide_sums);
  for (std::size_t i = 0; i < d.size(); ++i) EXPECT_EQ(d[i], static_cast<float>(wide_d[i]));
  EXPECT_EQ(sums, wide_sums);
}

TEST(QKNormBackward, RefusesOtherSizes) {
  const QKNorm norm = QKNorm::unweighted(D);
  std::vector<double> x(n), d(n), sums(D - 1);
  EXPECT_EQ(test::message_of([&] { norm.backward(view(x), view(d), sums); }),
            "of_weights: size is 9, expected 10");
  sums.resize(D);
  EXPECT_EQ(test::message_of([&] { norm.backward(TensorView<double>(x.data(), B, S, 1, D), view(d), sums); }),
            "x: sizes are 2 x 3 x 1 x 10, expected 2 x 3 x 2 x 10 as in d");
}

}  // namespace
}  // namespace gqa
