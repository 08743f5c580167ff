// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "model.hpp"

namespace generate {

/// ln sum_i e^{scores_i}: what a score is beside its token's logarithm of the probability.
inline double log_sum_exp(const Eigen::Ref<const Vector>& scores) {
  const double highest = scores.maxCoeff();
  return std::log((scores.cast<double>().array() - highest).exp().sum()) + highest;
}

}  // namespace generate
