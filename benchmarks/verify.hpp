// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <gqa/reference/attention.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "inputs.hpp"

namespace bench {

/// Half the distance from 1 to the next number.
template <class T>
double unit_roundoff() {
  return std::ldexp(1.0, std::is_same_v<T, float> ? -24 : std::is_same_v<T, gqa::half> ? -11 : -8);
}

/// All tokens of one head, in double.
template <class T>
std::vector<double> head_of(const Tensor<T>& x, Index sequence, Index head) {
  std::vector<double> out;
  out.reserve(static_cast<std::size_t>(x.dimension(1) * x.dimension(3)));
  for (Index t = 0; t < x.dimension(1); ++t)
    for (Index d = 0; d < x.dimension(3); ++d) out.push_back(static_cast<double>(x(sequence, t, head, d)));
  return out;
}

/// The oracle's answer for one query of one head, and how far from it a kernel in T may be.
///
/// Rounding each p_j to T moves p_j v_j by a unit roundoff u of it, up or down by chance: all of them
/// together by about u sqrt(sum_j (p_j v_j)^2). Rounding the result moves it by u of that. A score in f32 is
/// off by |s_j| sqrt(D) 2^-24, where |s_j| < 8 here, and p_j by the same share.
template <class T>
struct ExpectedRow {
  std::vector<double> value, tolerance;

  ExpectedRow(const Shape& shape, const std::vector<double>& q, const std::vector<double>& k,
              const std::vector<double>& v, Index token) {
    gqa::reference::Problem problem{.num_q_tokens = 1,
                                    .num_kv_tokens = shape.tokens(),
                                    .head_dim = shape.D,
                                    .value_dim = shape.D,
                                    .q = std::span(q).subspan(static_cast<std::size_t>(token * shape.D),
                                                              static_cast<std::size_t>(shape.D)),
                                    .k = k,
                                    .v = v};
    problem.q_offset = shape.tokens() - shape.queries() + token;
    problem.visible = [&](Index, Index q_pos, Index kv_pos) {
      return kv_pos <= q_pos && (shape.window == 0 || kv_pos > q_pos - shape.window);
    };
    const auto solution = gqa::reference::attention(problem);
    value = solution.out;
    const double u = unit_roundoff<T>();
    const double of_scores = 8 * std::sqrt(static_cast<double>(shape.D)) * std::ldexp(1.0, -24);
    const auto dim = static_cast<std::size_t>(shape.D);
    for (std::size_t d = 0; d < dim; ++d) {
      double sum = 0, squares = 0;
      for (std::size_t j = 0; j < solution.probabilities.size(); ++j) {
        const double part = solution.probabilities[j] * v[j * dim + d];
        sum += std::abs(part);
        squares += part * part;
      }
      tolerance.push_back(4 * u * std::sqrt(squares) + 1.25 * u * std::abs(value[d]) + of_scores * sum);
    }
  }
};

/// The first difference between `out` and the oracle, or nothing. Looks at the first, middle and last of the
/// sequences, query tokens and heads: in double, all of a long context would take longer than timing it.
template <class T>
std::string difference(const Shape& shape, const Inputs<T>& in, const Tensor<T>& out) {
  const auto some = [](Index n) { return std::set<Index>{0, n / 2, n - 1}; };
  for (Index b : some(shape.sequences())) {
    for (Index h : some(shape.H)) {
      const Index g = h / (shape.H / shape.G);
      const auto q = head_of(in.q, b, h), k = head_of(in.k, b, g), v = head_of(in.v, b, g);
      for (Index token : some(shape.queries())) {
        const ExpectedRow<T> expected(shape, q, k, v, token);
        for (Index d = 0; d < shape.D; ++d) {
          const double got = static_cast<double>(out(b, token, h, d));
          const double want = expected.value[static_cast<std::size_t>(d)];
          const double tolerance = expected.tolerance[static_cast<std::size_t>(d)];
          if (std::abs(got - want) <= tolerance) continue;  // a NaN never is
          std::ostringstream text;
          text << "wrong output: sequence " << b << ", token " << token << ", head " << h << ", dim " << d
               << " is " << got << ", expected " << want << " +- " << tolerance;
          return text.str();
        }
      }
    }
  }
  return {};
}

}  // namespace bench
