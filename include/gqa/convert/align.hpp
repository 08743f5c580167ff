// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "gqa/convert/head_products.hpp"
#include "gqa/convert/key_basis.hpp"
#include "gqa/convert/weights.hpp"

namespace gqa::convert {

namespace detail {

/// The KV heads of each group, ascending.
inline std::vector<std::vector<Index>> members_of(const HeadGrouping& grouping) {
  std::vector<std::vector<Index>> members(static_cast<std::size_t>(grouping.num_kv_heads()));
  for (Index h = 0; h < grouping.num_q_heads(); ++h)
    members[static_cast<std::size_t>(grouping.kv_head(h))].push_back(h);
  return members;
}

/// Throws std::invalid_argument unless `grouping` is one of the KV heads of `weights`, none of its groups
/// empty.
inline void check_grouping(const Weights& weights, const HeadGrouping& grouping) {
  GQA_CHECK(grouping.num_q_heads() == weights.num_kv_heads(), std::invalid_argument,
            "grouping: heads is " << grouping.num_q_heads() << ", expected the " << weights.num_kv_heads()
                                  << " KV heads of the weights");
  const auto members = members_of(grouping);
  for (std::size_t g = 0; g < members.size(); ++g)
    GQA_CHECK(!members[g].empty(), std::invalid_argument,
              "grouping: group " << g << " has no heads, expected at least 1");
}

/// Generalised Procrustes over the heads of one group: the rotations R_h that maximise the sum over pairs of
/// <R_h f_h, R_k f_k>, which is to minimise the distance of R_h f_h from their mean. One head at a time is
/// turned to the sum of the others, which never lowers the sum over pairs (ten Berge 1977); from two
/// beginnings, none turned, so that the result is never worse than without, and all turned to one head.
/// `nearest(m, unique)` is the allowed R that maximises <R, m>. Writes `rotations` of the members, the first
/// of which is not turned, and whether each is `ambiguous`, others being as good.
template <class Real, class Nearest>
void align_members(const HeadProducts& f, const std::vector<Index>& members, const Nearest& nearest,
                   std::vector<Matrix>& rotations, std::vector<bool>& ambiguous) {
  using A = Algebra<Real>;
  const auto rotation = [&](Index h) -> Matrix& { return rotations[static_cast<std::size_t>(h)]; };
  for (Index h : members) rotation(h) = Matrix::identity(f.dim);

  // sum over the other members k of R_k <f_k, f_h^T>, which R_h is to be near to.
  const auto pull = [&](Index h) {
    Matrix sum(f.dim, f.dim);
    for (Index k : members) {
      if (k == h) continue;
      const Matrix turned = A::product(rotation(k), f.block(k, h));
      for (std::size_t i = 0; i < sum.values().size(); ++i) sum.values()[i] += turned.values()[i];
    }
    return sum;
  };
  const auto inner = [](const Matrix& a, const Matrix& b) {
    return dot(a.values().data(), b.values().data(), static_cast<Index>(a.values().size()));
  };
  double energy = 0;
  for (Index h : members) energy += f.inner(h, h);
  // A sweep that gains less than this share of what there is leads nowhere that shows: convergence is linear,
  // and a sweep takes a decomposition for each head.
  const double step = 1e-10 * energy;
  const auto climb = [&] {
    constexpr int most = 100;
    for (int sweep = 0; sweep < most; ++sweep) {
      double gained = 0;
      for (Index h : members) {
        const Matrix m = pull(h);
        const double before = inner(rotation(h), m);
        bool unique = true;
        rotation(h) = nearest(m, unique);
        ambiguous[static_cast<std::size_t>(h)] = !unique;
        gained += inner(rotation(h), m) - before;
      }
      if (gained <= step) break;
    }
    double sum = 0;
    for (Index h : members) sum += inner(rotation(h), pull(h));
    return sum;
  };

  const double from_none = climb();
  const std::vector<bool> ambiguous_from_none = ambiguous;
  std::vector<Matrix> kept;
  for (Index h : members) kept.push_back(rotation(h));

  // The head that the others can be turned to best.
  Index reference = members.front();
  double best = -std::numeric_limits<double>::infinity();
  for (Index r : members) {
    double sum = 0;
    for (Index h : members) {
      if (h == r) continue;
      bool unique = true;
      const Matrix m = f.block(r, h);
      sum += inner(nearest(m, unique), m);
    }
    if (sum > best) reference = r, best = sum;
  }
  for (Index h : members) {
    bool unique = true;
    rotation(h) = h == reference ? Matrix::identity(f.dim) : nearest(f.block(reference, h), unique);
  }
  if (climb() < from_none - 1e-12 * energy) {  // where both are as good, this one is exact
    for (std::size_t i = 0; i < members.size(); ++i) rotation(members[i]) = kept[i];
    ambiguous = ambiguous_from_none;
  }

  // Any change of all alike is as good: the one that leaves the first as it is.
  Matrix back(f.dim, f.dim);
  for (Index i = 0; i < f.dim; ++i)
    for (Index j = 0; j < f.dim; ++j) back(i, j) = rotation(members.front())(j, i);
  for (Index h : members) rotation(h) = A::product(back, rotation(h));
  rotation(members.front()) = Matrix::identity(f.dim);
}

/// The changes of basis that bring the heads of a group together, as `basis` allows. It allows each pair of
/// rotary elements, and the elements that are not rotated, a change of their own: what is gained is a sum
/// over these, and each is aligned for itself. Returns how many heads have no unique rotation.
template <class Real>
Index align_group(const HeadProducts& f, const std::vector<Index>& members, const KeyBasis& basis,
                  std::vector<Matrix>& rotations) {
  const auto rotation = [](std::vector<Matrix>& of, Index h) -> Matrix& {
    return of[static_cast<std::size_t>(h)];
  };
  for (Index h : members) rotation(rotations, h) = Matrix::identity(f.dim);
  if (members.size() < 2 || basis.is_fixed()) return 0;
  std::vector<bool> any(rotations.size());
  std::vector<Matrix> turns(rotations.size());
  const auto align = [&](const std::vector<Index>& elements, const auto& nearest) {
    std::vector<bool> ambiguous(rotations.size());
    align_members<Real>(f.of_elements(elements), members, nearest, turns, ambiguous);
    for (Index h : members) {
      for (std::size_t i = 0; i < elements.size(); ++i)
        for (std::size_t j = 0; j < elements.size(); ++j)
          rotation(rotations, h)(elements[i], elements[j]) =
              rotation(turns, h)(static_cast<Index>(i), static_cast<Index>(j));
      if (ambiguous[static_cast<std::size_t>(h)]) any[static_cast<std::size_t>(h)] = true;
    }
  };
  for (Index i = 0; i < basis.rotary_dim() / 2; ++i) {
    const auto [a, b] = basis.pair(i);
    align({a, b}, [](const Matrix& m, bool& unique) {
      Matrix r(2, 2);
      unique = turn_pair(m, 0, 1, r);
      return r;
    });
  }
  std::vector<Index> others;
  for (Index i = basis.rotary_dim(); i < f.dim; ++i) others.push_back(i);
  if (!others.empty()) align(others, Algebra<Real>::nearest_orthogonal);
  return std::count(any.begin(), any.end(), true);
}

/// Replaces rows [first, first + dim) of the projection W x + b by R (W x + b).
template <class Real>
void turn_rows(const Matrix& r, Matrix& w, std::vector<double>& bias, Index first) {
  Matrix part(r.rows(), w.cols() + 1);
  for (Index i = 0; i < r.rows(); ++i) {
    std::copy_n(w.row(first + i), w.cols(), part.row(i));
    part(i, w.cols()) = bias.empty() ? 0 : bias[static_cast<std::size_t>(first + i)];
  }
  const Matrix turned = Algebra<Real>::product(r, part);
  for (Index i = 0; i < r.rows(); ++i) {
    std::copy_n(turned.row(i), w.cols(), w.row(first + i));
    if (!bias.empty()) bias[static_cast<std::size_t>(first + i)] = turned(i, w.cols());
  }
}

/// Replaces columns [first, first + dim) of W by those of W R^T.
template <class Real>
void turn_columns(const Matrix& r, Matrix& w, Index first) {
  Matrix part(w.rows(), r.rows());
  for (Index i = 0; i < w.rows(); ++i) std::copy_n(w.row(i) + first, r.rows(), part.row(i));
  const Matrix turned = Algebra<Real>::product_transposed(part, r);
  for (Index i = 0; i < w.rows(); ++i) std::copy_n(turned.row(i), r.rows(), w.row(i) + first);
}

}  // namespace detail

/// Weights whose heads lie closer to those they are grouped with, and the layer they make: the same.
struct Aligned {
  Weights weights;
  /// KV heads for which several rotations are equally good, of keys and of values: they are zero, or of a
  /// lower rank than they have elements. One of the rotations is taken.
  Index ambiguous_keys = 0, ambiguous_values = 0;
};

/// Turns the basis of each KV head so that the heads of a group agree best (orthogonal Procrustes, Jin et al.
/// 2024, arXiv 2412.20677): keys by R_h, and the queries that read them too, for <R q, R k> = <q, k>; values
/// by any orthogonal S_h, and S_h^T in the output projection takes it back. The layer computes what it did,
/// up to rounding.
///
/// `grouping` maps the KV heads of `weights` to groups. Throws std::invalid_argument for weights, a grouping
/// or a calibration that do not fit each other, or that hold NaN or infinity.
template <class Real = double>
Aligned align_heads(Weights weights, const HeadGrouping& grouping, const KeyBasis& basis,
                    const Calibration* calibration = nullptr) {
  weights.check();
  detail::check_grouping(weights, grouping);
  basis.check(weights.head_dim());
  if (calibration) calibration->check(weights.kv_inputs());
  const Index G = weights.num_kv_heads(), D = weights.head_dim(), Dv = weights.value_dim();
  const auto keys = detail::head_products<Real>({weights.wk, weights.bk, G}, calibration);
  const auto values = detail::head_products<Real>({weights.wv, weights.bv, G}, calibration);

  Aligned result{std::move(weights)};
  Weights& w = result.weights;
  std::vector<Matrix> key_turns(static_cast<std::size_t>(G)), value_turns(static_cast<std::size_t>(G));
  for (const auto& members : detail::members_of(grouping)) {
    result.ambiguous_keys += detail::align_group<Real>(keys, members, basis, key_turns);
    result.ambiguous_values +=
        detail::align_group<Real>(values, members, KeyBasis::unrestricted(), value_turns);
    for (std::size_t i = 1; i < members.size(); ++i) {  // the first is not turned
      const Index g = members[i];
      const Matrix& r = key_turns[static_cast<std::size_t>(g)];
      const Matrix& s = value_turns[static_cast<std::size_t>(g)];
      detail::turn_rows<Real>(r, w.wk, w.bk, g * D);
      detail::turn_rows<Real>(s, w.wv, w.bv, g * Dv);
      for (Index h = 0; h < w.num_q_heads(); ++h) {
        if (w.heads.kv_head(h) != g) continue;
        detail::turn_rows<Real>(r, w.wq, w.bq, h * D);
        detail::turn_columns<Real>(s, w.wo, h * Dv);
      }
    }
  }
  return result;
}

}  // namespace gqa::convert
