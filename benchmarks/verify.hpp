// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <gqa/reference/attention.hpp>
#include <limits>
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

/// The first difference between `out` and the oracle, or nothing. Looks at the first, middle and last of the
/// sequences, query tokens and heads: in double, all of a long context would take longer than timing it.
///
/// An element of the output is sum_j p_j v_j. Rounding q, p, v and the result in T moves it by a few unit
/// roundoffs u of sum_j p_j |v_j|; rounding the score s_j in f32 moves p_j by |s_j| sqrt(D) 2^-24, where
/// |s_j| < 8 here.
template <class T>
std::string difference(const Shape& shape, const Inputs<T>& in, const Tensor<T>& out) {
  const auto some = [](Index n) { return std::set<Index>{0, n / 2, n - 1}; };
  const double bound =
      4 * unit_roundoff<T>() + 8 * std::sqrt(static_cast<double>(shape.D)) * std::ldexp(1.0, -24);
  const Index group = shape.H / shape.G;
  for (Index b : some(shape.sequences())) {
    for (Index h : some(shape.H)) {
      const auto head_of = [&](const Tensor<T>& x) {
        std::vector<double> head(static_cast<std::size_t>(shape.tokens() * shape.D));
        for (Index t = 0; t < shape.tokens(); ++t)
          for (Index d = 0; d < shape.D; ++d)
            head[static_cast<std::size_t>(t * shape.D + d)] = static_cast<double>(x(b, t, h / group, d));
        return head;
      };
      const std::vector<double> k = head_of(in.k), v = head_of(in.v);
      for (Index i : some(shape.queries())) {
        std::vector<double> q(static_cast<std::size_t>(shape.D));
        for (Index d = 0; d < shape.D; ++d)
          q[static_cast<std::size_t>(d)] = static_cast<double>(in.q(b, i, h, d));
        gqa::reference::Problem problem{.num_q_tokens = 1,
                                        .num_kv_tokens = shape.tokens(),
                                        .head_dim = shape.D,
                                        .value_dim = shape.D,
                                        .q = q,
                                        .k = k,
                                        .v = v};
        problem.q_offset = shape.tokens() - shape.queries() + i;
        problem.visible = [&](Index, Index q_pos, Index kv_pos) {
          return kv_pos <= q_pos && (shape.window == 0 || kv_pos > q_pos - shape.window);
        };
        const auto want = gqa::reference::attention(problem);
        for (Index d = 0; d < shape.D; ++d) {
          double magnitude = 0;
          for (Index t = 0; t < shape.tokens(); ++t) {
            const auto j = static_cast<std::size_t>(t);
            magnitude += want.probabilities[j] *
                         std::abs(v[j * static_cast<std::size_t>(shape.D) + static_cast<std::size_t>(d)]);
          }
          const double got = static_cast<double>(out(b, i, h, d)),
                       expected = want.out[static_cast<std::size_t>(d)];
          if (std::abs(got - expected) <= bound * magnitude) continue;  // false for NaN as well
          std::ostringstream text;
          text << "wrong output: sequence " << b << ", token " << i << ", head " << h << ", dim " << d
               << " is " << got << ", expected " << expected << " +- " << bound * magnitude;
          return text.str();
        }
      }
    }
  }
  return {};
}

}  // namespace bench
