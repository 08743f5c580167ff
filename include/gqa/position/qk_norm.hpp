// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "gqa/core/error.hpp"
#include "gqa/core/rounded.hpp"
#include "gqa/core/scalar.hpp"
#include "gqa/core/shape.hpp"
#include "gqa/core/tensor.hpp"
#include "gqa/position/in_place.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa {

/// What the stored weights of an RMS normalisation multiply by.
enum class NormWeights {
  plain,     ///< w: Qwen 3 and most
  one_plus,  ///< 1 + w: Gemma as published (its GGUF files hold 1 + w already, hence plain)
};

/// QK-norm: each head of queries or keys divided by its root mean square, before the rotary embedding,
///   y[d] = x[d] / sqrt(mean(x^2) + epsilon) * w[d]     (or 1 + w[d]),
/// with the same head_dim weights for every head. Computed in double, so no finite head of floats overflows.
///
///   const gqa::QKNorm q_norm(gqa::NormWeights::plain, weights);
///   q_norm.apply(q);
///   rope.apply(q, position);
class QKNorm {
 public:
  /// Throws std::invalid_argument for no weights or an epsilon that is not positive.
  template <Scalar W>
  QKNorm(NormWeights convention, std::span<const W> weights, double epsilon = 1e-6) : epsilon_(epsilon) {
    scale_.reserve(weights.size());
    for (const W weight : weights)
      scale_.push_back(static_cast<double>(weight) + (convention == NormWeights::one_plus ? 1 : 0));
    finish();
  }
  template <Scalar W>
  QKNorm(NormWeights convention, const std::vector<W>& weights, double epsilon = 1e-6)
      : QKNorm(convention, std::span<const W>(weights), epsilon) {}

  /// Without weights: y = x / rms(x).
  static QKNorm unweighted(Index head_dim, double epsilon = 1e-6) {
    GQA_CHECK(head_dim > 0, std::invalid_argument,
              "qk_norm: head_dim is " << head_dim << ", expected at least 1");
    return QKNorm(NormWeights::plain, std::vector<double>(static_cast<std::size_t>(head_dim), 1), epsilon);
  }

  Index head_dim() const { return static_cast<Index>(scale_.size()); }
  double epsilon() const { return epsilon_; }

  /// Normalises every head of x (tokens x heads x head_dim, or batch first) in place. Throws
  /// std::invalid_argument for another head_dim, x unchanged.
  template <TensorLike X>
  void apply(X&& x) const {
    using T = TensorScalar<X>;
    using Acc = Accumulator<T>;
    const auto view = detail::in_place_view(x, head_dim());
    const auto for_each_head = [&](auto&& normalise_at) {
      for (Index b = 0; b < view.batch; ++b)
        for (Index t = 0; t < view.tokens; ++t)
          for (Index h = 0; h < view.heads; ++h) normalise_at(view.at(b, t, h));
    };
    if constexpr (std::is_same_v<T, Acc>) {
      for_each_head([&](T* head) { normalise(head); });
    } else {
      const simd::ConvertKernels<Accumulator<T>> convert = simd::convert_kernels<T>(isa());
      std::vector<Acc> wide(scale_.size());
      for_each_head([&](T* head) {
        convert.widen(head, head_dim(), 1, wide.data());
        normalise(wide.data());
        convert.narrow(wide.data(), head_dim(), 1, head);
      });
    }
  }

  /// Takes the gradient of apply()'s result to that of its argument, in place, where x is the argument: with
  /// x^ = x / sqrt(mean(x^2) + epsilon) and u = w d,
  ///   d <- (u - x^ mean(u x^)) / sqrt(mean(x^2) + epsilon),
  /// and adds that of the weights to `of_weights`, d x^ of every head, tokens in ascending order and their
  /// heads one after another. Throws std::invalid_argument for other sizes, nothing changed.
  template <TensorLike X, TensorLike D>
  void backward(const X& x, D&& d, std::span<double> of_weights) const {
    const auto from = as_view(x);
    const auto view = detail::in_place_view(d, head_dim());
    GQA_CHECK(from.batch == view.batch && from.tokens == view.tokens && from.heads == view.heads &&
                  from.dim == view.dim,
              std::invalid_argument,
              "x: sizes are " << from.batch << " x " << from.tokens << " x " << from.heads << " x "
                              << from.dim << ", expected " << view.batch << " x " << view.tokens << " x "
                              << view.heads << " x " << view.dim << " as in d");
    GQA_CHECK(std::ssize(of_weights) == head_dim(), std::invalid_argument,
              "of_weights: size is " << of_weights.size() << ", expected " << head_dim());
    double few[512];  // two heads of most models
    std::vector<double> more(2 * scale_.size() <= std::size(few) ? 0 : 2 * scale_.size());
    double* const wide_x = more.empty() ? few : more.data();
    double* const wide_d = wide_x + head_dim();
    using TD = TensorScalar<D>;
    for (Index b = 0; b < view.batch; ++b)
      for (Index t = 0; t < view.tokens; ++t)
        for (Index h = 0; h < view.heads; ++h) {
          const auto* const head = from.at(b, t, h);
          TD* const gradient = view.at(b, t, h);
          for (Index i = 0; i < head_dim(); ++i) {
            wide_x[i] = static_cast<double>(head[i]);
            wide_d[i] = static_cast<double>(gradient[i]);
          }
          turn_back(wide_x, wide_d, of_weights.data());
          for (Index i = 0; i < head_dim(); ++i) gradient[i] = rounded_to<TD>(wide_d[i]);
        }
  }

 private:
  // As normalise() below: one copy for all.
  [[gnu::noinline]] void turn_back(const double* x, double* d, double* of_weights) const {
    const Index n = head_dim();
    double squares = 0, along = 0;  // sums of x^2 and of u x
    for (Index i = 0; i < n; ++i) {
      squares += detail::rounded(x[i] * x[i]);
      along += detail::rounded(detail::rounded(d[i] * scale_[static_cast<std::size_t>(i)]) * x[i]);
    }
    const double factor = 1 / std::sqrt(squares / static_cast<double>(n) + epsilon_);
    const double mean = along * factor / static_cast<double>(n);
    for (Index i = 0; i < n; ++i) {
      const double unit = detail::rounded(x[i] * factor);
      of_weights[i] += detail::rounded(d[i] * unit);
      d[i] = (detail::rounded(d[i] * scale_[static_cast<std::size_t>(i)]) - detail::rounded(unit * mean)) *
             factor;
    }
  }

  void finish() {
    GQA_CHECK(!scale_.empty(), std::invalid_argument, "qk_norm: weights is empty, expected head_dim of them");
    GQA_CHECK(std::isfinite(epsilon_) && epsilon_ > 0, std::invalid_argument,
              "qk_norm: epsilon is " << epsilon_ << ", expected a positive number");
  }

  // Never inlined, for the same bits from every call. Four sums, because additions to one would wait for each
  // other; about a nanosecond an element, far below what the projection before it costs.
  template <class Acc>
  [[gnu::noinline]] void normalise(Acc* x) const {
    const Index n = head_dim();
    using Pair [[gnu::vector_size(16)]] = double;
    Pair first = {}, second = {};
    Index d = 0;
    for (; d + 4 <= n; d += 4) {
      const Pair a = {static_cast<double>(x[d]), static_cast<double>(x[d + 1])};
      const Pair b = {static_cast<double>(x[d + 2]), static_cast<double>(x[d + 3])};
      first += detail::rounded(a * a);
      second += detail::rounded(b * b);
    }
    for (; d < n; ++d) {
      const double value = static_cast<double>(x[d]);
      first[0] += detail::rounded(value * value);
    }
    const double sum = (first[0] + first[1]) + (second[0] + second[1]);
    const double factor = 1 / std::sqrt(sum / static_cast<double>(n) + epsilon_);
    const double* const scale = scale_.data();
    for (d = 0; d < n; ++d) x[d] = static_cast<Acc>(static_cast<double>(x[d]) * factor * scale[d]);
  }

  double epsilon_;
  std::vector<double> scale_;
};

}  // namespace gqa
