// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <limits>

#include "gqa/convert/linear_algebra.hpp"
#include "gqa/position/rope.hpp"

namespace gqa::convert {

/// Which changes of a head's basis its keys and queries may undergo without a score changing. There is no
/// default: with the wrong one, a model with rotary embedding would be broken without a sign.
class KeyBasis {
 public:
  /// Keys are rotated by their positions: each pair may turn by an angle of its own, which commutes with
  /// RoPE, and what stands behind the rotary_dim leading elements may undergo any orthogonal change.
  static KeyBasis rope(RopeLayout layout, Index rotary_dim) {
    GQA_CHECK(rotary_dim >= 2 && rotary_dim % 2 == 0, std::invalid_argument,
              "rope: rotary_dim is " << rotary_dim << ", expected an even number of at least 2");
    KeyBasis basis;
    basis.layout_ = layout;
    basis.rotary_dim_ = rotary_dim;
    return basis;
  }
  static KeyBasis rope(const RopeConfig& config) { return rope(config.layout, config.rotary_dim); }

  /// Scores depend on keys by <q, k> alone (learned positions, ALiBi): any orthogonal change.
  static KeyBasis unrestricted() { return KeyBasis(); }

  /// None: there is something between projection and score that no change of basis commutes with, such as
  /// a QK-norm with weights. Values are aligned all the same.
  static KeyBasis fixed() {
    KeyBasis basis;
    basis.fixed_ = true;
    return basis;
  }

  bool is_fixed() const { return fixed_; }
  Index rotary_dim() const { return rotary_dim_; }

  /// The two elements of pair i.
  std::pair<Index, Index> pair(Index i) const {
    if (layout_ == RopeLayout::half) return {i, i + rotary_dim_ / 2};
    return {2 * i, 2 * i + 1};
  }

  /// Throws std::invalid_argument where heads are shorter than what is rotated of them.
  void check(Index head_dim) const {
    GQA_CHECK(rotary_dim_ <= head_dim, std::invalid_argument,
              "rope: rotary_dim is " << rotary_dim_ << ", expected at most " << head_dim);
  }

 private:
  KeyBasis() = default;

  RopeLayout layout_ = RopeLayout::half;
  Index rotary_dim_ = 0;
  bool fixed_ = false;
};

namespace detail {

/// Turns a pair of elements of r by the angle that maximises <r, m>; not at all where the pair says nothing,
/// and then returns false.
inline bool turn_pair(const Matrix& m, Index a, Index b, Matrix& r) {
  // <r, m> = cos (m_aa + m_bb) + sin (m_ba - m_ab), the real part of a complex product.
  const double along = m(a, a) + m(b, b), across = m(b, a) - m(a, b), length = std::hypot(along, across);
  const double size = std::abs(m(a, a)) + std::abs(m(b, b)) + std::abs(m(b, a)) + std::abs(m(a, b));
  const bool turns = length > 8 * std::numeric_limits<double>::epsilon() * size;
  r(a, a) = r(b, b) = turns ? along / length : 1;
  r(b, a) = turns ? across / length : 0;
  r(a, b) = -r(b, a);
  return turns;
}

/// The change of basis R that `basis` allows and that maximises <R, m> = tr(R^T m). Where several do, one of
/// them, `unique` false; of a pair that says nothing, the identity.
template <class Real>
Matrix nearest_in(const KeyBasis& basis, const Matrix& m, bool& unique) {
  unique = true;
  if (basis.is_fixed()) return Matrix::identity(m.rows());
  Matrix r(m.rows(), m.rows());
  for (Index i = 0; i < basis.rotary_dim() / 2; ++i) {
    const auto [a, b] = basis.pair(i);
    unique = turn_pair(m, a, b, r) && unique;
  }
  const Index begin = basis.rotary_dim(), rest = m.rows() - begin;
  if (rest > 0) {
    Matrix part(rest, rest);
    for (Index i = 0; i < rest; ++i)
      for (Index j = 0; j < rest; ++j) part(i, j) = m(begin + i, begin + j);
    bool only = true;
    const Matrix turned = Algebra<Real>::nearest_orthogonal(part, only);
    unique = unique && only;
    for (Index i = 0; i < rest; ++i)
      for (Index j = 0; j < rest; ++j) r(begin + i, begin + j) = turned(i, j);
  }
  return r;
}

}  // namespace detail

}  // namespace gqa::convert
