// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <vector>

#include "products.hpp"

namespace uptrain {

/// The mean over rows of lse(logits) - logits[target], in nats, summed up in double.
template <class T, class Target>
double cross_entropy(const Matrix<T>& logits, const std::vector<Target>& targets) {
  double sum = 0;
  for (Index t = 0; t < logits.rows(); ++t) {
    const T max = logits.row(t).maxCoeff();
    sum += static_cast<double>(max - logits(t, targets[static_cast<std::size_t>(t)])) +
           std::log(static_cast<double>((logits.row(t).array() - max).exp().sum()));
  }
  return sum / static_cast<double>(logits.rows());
}

/// Turns logits into the gradient of `weight` times that: weight (softmax(logits) - [target]) / rows.
template <class T, class Target>
void cross_entropy_backward(Matrix<T>& logits, const std::vector<Target>& targets, T weight = 1) {
  const T share = weight / static_cast<T>(logits.rows());
  for (Index t = 0; t < logits.rows(); ++t) {
    auto row = logits.row(t).array();
    row = (row - logits.row(t).maxCoeff()).exp().eval();
    row *= share / row.sum();
    row(targets[static_cast<std::size_t>(t)]) -= share;
  }
}

}  // namespace uptrain
