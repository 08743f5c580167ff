// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "gqa/convert/linear_algebra.hpp"

namespace gqa::convert {

/// What the inputs x of a layer look like: their second moments E[x x^T] and mean, of as many activations as
/// are added. Given to a conversion, errors are those of keys and values, E |W x - W' x|^2; without it they
/// are those of the weights, |W - W'|^2, which is the same for white inputs.
class Calibration {
 public:
  /// Throws std::invalid_argument unless the width is positive.
  explicit Calibration(Index width)
      : sums_((check_width(width), width), width), mean_sum_(static_cast<std::size_t>(width)) {}

  /// Adds tokens x width activations, which lie row after row: what the projections read, after the layer's
  /// norm. Throws std::invalid_argument for NaN or infinity, nothing added.
  template <Scalar T>
  void add(const T* activations, Index tokens) {
    const Matrix x(activations, tokens, width());
    detail::check_finite(x, "activations");
    // Dependent on T, so that it is compiled here alone.
    using Real = std::conditional_t<std::is_same_v<T, double>, T, double>;
    detail::Algebra<Real>::add_gram(x, sums_);
    for (Index t = 0; t < tokens; ++t)
      for (Index i = 0; i < width(); ++i) mean_sum_[static_cast<std::size_t>(i)] += x(t, i);
    tokens_ += tokens;
  }

  /// Adds `fraction` of the mean square of an input's elements to each of them, as if there were as much
  /// noise: what was seen too rarely to tell then counts for something. Throws std::invalid_argument for a
  /// negative one or where nothing has been added yet.
  void add_noise(double fraction) {
    GQA_CHECK(fraction >= 0 && std::isfinite(fraction), std::invalid_argument,
              "activations: noise is " << fraction << ", expected a finite number of at least 0");
    GQA_CHECK(tokens_ > 0, std::invalid_argument, "activations: tokens is 0, expected at least 1");
    double trace = 0;
    for (Index i = 0; i < width(); ++i) trace += sums_(i, i);
    for (Index i = 0; i < width(); ++i) sums_(i, i) += fraction * trace / static_cast<double>(width());
  }

  Index width() const { return sums_.rows(); }
  Index tokens() const { return tokens_; }

  /// E[x x^T], width x width.
  Matrix moments() const {
    Matrix moments = sums_;
    for (double& x : moments.values()) x /= static_cast<double>(tokens_);
    return moments;
  }
  /// E[x].
  std::vector<double> mean() const {
    std::vector<double> mean = mean_sum_;
    for (double& x : mean) x /= static_cast<double>(tokens_);
    return mean;
  }

  /// Throws std::invalid_argument unless there are activations and they have `inputs` elements.
  void check(Index inputs) const {
    GQA_CHECK(
        width() == inputs, std::invalid_argument,
        "activations: width is " << width() << ", expected " << inputs << ", the inputs of keys and values");
    GQA_CHECK(tokens_ > 0, std::invalid_argument, "activations: tokens is 0, expected at least 1");
  }

 private:
  static void check_width(Index width) {
    GQA_CHECK(width > 0, std::invalid_argument, "activations: width is " << width << ", expected at least 1");
  }

  Matrix sums_;
  std::vector<double> mean_sum_;
  Index tokens_ = 0;
};

namespace detail {

/// Throws std::invalid_argument unless activations span all directions of the inputs: where they do not,
/// what a factorisation does with the others is up to chance.
template <class Real>
void check_full_rank(const Calibration& calibration) {
  const Index width = calibration.width();
  const auto values = Algebra<Real>::symmetric_eigenvalues(calibration.moments());
  const double least = static_cast<double>(width) * std::numeric_limits<double>::epsilon() * values.back();
  const Index rank = std::count_if(values.begin(), values.end(), [&](double x) { return x > least; });
  GQA_CHECK(rank == width, std::invalid_argument,
            "activations: " << calibration.tokens() << " tokens have rank " << rank << ", expected " << width
                            << "; add more of them, or add_noise");
}

}  // namespace detail

}  // namespace gqa::convert
