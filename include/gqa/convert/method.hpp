// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "gqa/convert/key_basis.hpp"

namespace gqa::convert {

/// Factors that were learned to join heads with (WGQA, Chinnakonduru and Mohapatra 2024, arXiv 2407.10855),
/// for each head of the source, for each of its rows or for each of its columns: heads x {1, dim, inputs},
/// for keys and for values. They are multiplied in as they are, so 1 / group size everywhere is the mean.
struct HeadWeights {
  enum class Along { heads, rows, columns };

  Along along = Along::heads;
  std::vector<double> keys;
  std::vector<double> values;
};

/// How the heads of a group become one.
class Method {
 public:
  enum class Kind { mean, first, medoid, random, weighted, aligned_mean };

  /// The mean of their projections (Ainslie et al. 2023, arXiv 2305.13245).
  static Method mean() { return Method(Kind::mean); }
  /// The first of them.
  static Method first() { return Method(Kind::first); }
  /// The one that is nearest to the others, by the sum of squared distances of keys and values.
  static Method medoid() { return Method(Kind::medoid); }
  /// None of them: weights drawn anew, uniform with the source's mean square, biases 0. What the others are
  /// to be better than.
  static Method random(std::uint64_t seed) {
    Method method(Kind::random);
    method.seed_ = seed;
    return method;
  }
  /// Their sum, each times its learned factor.
  static Method weighted(HeadWeights weights) {
    Method method(Kind::weighted);
    method.weights_ = std::move(weights);
    return method;
  }
  /// The mean of the heads after align_heads(): where heads differ by a change of basis, as those of trained
  /// models do, the plain mean cancels what they share.
  static Method aligned_mean(KeyBasis basis) {
    Method method(Kind::aligned_mean);
    method.basis_ = basis;
    return method;
  }

  Kind kind() const { return kind_; }
  std::uint64_t seed() const { return seed_; }
  const HeadWeights& weights() const { return weights_; }
  const KeyBasis& basis() const { return basis_; }
  const char* name() const {
    constexpr const char* names[] = {"mean", "first", "medoid", "random", "weighted", "aligned mean"};
    return names[static_cast<int>(kind_)];
  }

 private:
  explicit Method(Kind kind) : kind_(kind) {}

  Kind kind_;
  std::uint64_t seed_ = 0;
  HeadWeights weights_;
  KeyBasis basis_ = KeyBasis::fixed();
};

}  // namespace gqa::convert
