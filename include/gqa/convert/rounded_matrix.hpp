// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "gqa/convert/matrix.hpp"
#include "gqa/layer/projections.hpp"

namespace gqa::convert {

/// A projection rounded to T, in memory of its own for a layer to read.
template <Scalar T>
class RoundedProjection {
 public:
  /// An empty bias is none, an empty matrix no projection.
  explicit RoundedProjection(const Matrix& weight, const std::vector<double>& bias = {})
      : rows_(weight.rows()), columns_(weight.cols()), weight_(weight.values().size()) {
    weight.copy_to(weight_.data());
    for (const double x : bias) bias_.push_back(rounded_to<T>(x));
  }

  MatrixView weight() const {
    return weight_.empty() ? MatrixView() : MatrixView(weight_.data(), rows_, columns_);
  }
  Projection projection() const { return {weight(), bias_.empty() ? VectorView() : VectorView(bias_)}; }

 private:
  Index rows_, columns_;
  std::vector<T> weight_, bias_;
};

}  // namespace gqa::convert
