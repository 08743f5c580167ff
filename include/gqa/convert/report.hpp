// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <numeric>
#include <vector>

#include "gqa/convert/weights.hpp"

namespace gqa::convert {

/// What a conversion changed, for keys or for values. Squared distances are E |f(x) - f'(x)|^2 over the
/// calibration's inputs x, f a head's projection and f' the one that is read in its place; |W - W'|^2 (and
/// the bias as one more column) where there is no calibration. With an alignment, f is the head after it.
struct HeadReport {
  std::vector<double> norms;      ///< |f| of each head of the source
  std::vector<double> new_norms;  ///< of each head there is now; empty for low rank
  std::vector<double> errors;     ///< |f - f'|^2 of each head of the source

  /// The weight-sharing error (QCQA, Joshi et al. 2024, arXiv 2406.10247): the sum of errors.
  double error() const { return std::accumulate(errors.begin(), errors.end(), 0.0); }
  double energy() const { return std::inner_product(norms.begin(), norms.end(), norms.begin(), 0.0); }
};

/// What a conversion costs and saves.
struct Report {
  HeadReport keys, values;
  CacheCost cache_before, cache_after;
  /// Heads that no single rotation aligns best, see Aligned; 0 without an alignment.
  Index ambiguous_keys = 0, ambiguous_values = 0;

  double error() const { return keys.error() + values.error(); }
  /// The error as a share of what there was: 0 for nothing lost, 1 for zeros in place of every head.
  double relative_error() const {
    const double energy = keys.energy() + values.energy();
    return energy > 0 ? error() / energy : 0;
  }
  /// How many times smaller the cache has become.
  double cache_ratio() const {
    return static_cast<double>(cache_before.elements_per_token) /
           static_cast<double>(cache_after.elements_per_token);
  }
};

}  // namespace gqa::convert
