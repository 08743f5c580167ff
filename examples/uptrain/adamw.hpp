// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "gqa/core/shape.hpp"

namespace uptrain {

/// Moving averages of the gradient and of its square.
struct Moments {
  std::vector<float> first, second;

  Moments() = default;
  explicit Moments(std::size_t parameters) : first(parameters), second(parameters) {}
};

/// AdamW (Loshchilov and Hutter 2019).
struct AdamW {
  float beta1 = 0.9F, beta2 = 0.98F, epsilon = 1e-8F, decay = 0.1F;
  double max_norm = 1;  ///< a longer gradient is shortened to this

  /// Step number `step`, from 1, with moments m and v, which were 0 before step 1. From `decayed` on,
  /// parameters decay.
  ///
  ///     m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,
  ///     p <- p - rate (m / (1 - b1^step) / (sqrt(v / (1 - b2^step)) + epsilon) + decay p)
  ///
  /// Returns the gradient's norm before it was shortened; where that is no number, nothing changes.
  double update(std::span<float> parameters, std::span<const float> gradient, Moments& moments,
                gqa::Index step, double rate, gqa::Index decayed) const {
    using Map = Eigen::Map<Eigen::ArrayXf>;
    const auto size = static_cast<gqa::Index>(parameters.size());
    const Eigen::Map<const Eigen::ArrayXf> g(gradient.data(), size);
    // In double and in order: a float's sum of a million squares would depend on how it is vectorised.
    double squares = 0;
    for (const float x : gradient) squares += static_cast<double>(x) * static_cast<double>(x);
    const double norm = std::sqrt(squares);
    if (!std::isfinite(norm)) return norm;
    const auto factor = static_cast<float>(norm > max_norm ? max_norm / norm : 1);
    Map p(parameters.data(), size), m(moments.first.data(), size), v(moments.second.data(), size);
    m = beta1 * m + (1 - beta1) * factor * g;
    v = beta2 * v + (1 - beta2) * (factor * g).square();
    const auto t = static_cast<double>(step);
    const double unbias1 = 1 / (1 - std::pow(static_cast<double>(beta1), t));
    const double unbias2 = 1 / (1 - std::pow(static_cast<double>(beta2), t));
    const auto rate1 = static_cast<float>(rate * unbias1), unbias = static_cast<float>(unbias2);
    p.tail(size - decayed) *= 1 - static_cast<float>(rate) * decay;
    p -= rate1 * m / ((unbias * v).sqrt() + epsilon);
    return norm;
  }
};

/// Linearly up to `peak` over the first `warm_up` steps, then along a cosine down to `end` at the last of
/// `steps`; `step` counts from 1.
inline double learning_rate(gqa::Index step, gqa::Index steps, gqa::Index warm_up, double peak, double end) {
  if (step <= warm_up) return peak * static_cast<double>(step) / static_cast<double>(warm_up);
  if (step >= steps) return end;
  const double done = static_cast<double>(step - warm_up) / static_cast<double>(steps - warm_up);
  return end + (peak - end) * (1 + std::cos(3.14159265358979323846 * done)) / 2;
}

}  // namespace uptrain
