// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <functional>
#include <gqa/reference/attention.hpp>
#include <set>
#include <span>
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
std::vector<double> head_of(const gqa::TensorView<const T>& x, Index head) {
  std::vector<double> out;
  out.reserve(static_cast<std::size_t>(x.tokens * x.dim));
  for (Index t = 0; t < x.tokens; ++t)
    for (Index d = 0; d < x.dim; ++d) out.push_back(static_cast<double>(x.at(0, t, head)[d]));
  return out;
}

/// What a case asks besides its tensors, in the oracle's words.
struct Rules {
  std::function<bool(Index q_pos, Index kv_pos)> visible = [](Index q, Index kv) { return kv <= q; };
  /// What becomes of a scaled score; empty: nothing.
  std::function<double(double score, Index q_head, Index q_pos, Index kv_pos)> modify = {};
  std::vector<double> sink_logits = {};  ///< one a query head, or none
};

/// One sequence; its last query sits on its last key.
template <class T>
struct Sequence {
  gqa::TensorView<const T> q, k, v, out;
};

/// The oracle's answer for one query of one head, and how far from it a kernel in T may be.
///
/// Rounding each p_j to T moves p_j v_j by a unit roundoff u of it, up or down by chance: all of them
/// together by about u sqrt(sum_j (p_j v_j)^2). Rounding the result moves it by u of that. A product q k in
/// f32 is off by |s_j| sqrt(D) 2^-24, where |s_j| < 8 here, a score that a bias makes large by 2^-24 of it
/// besides, and p_j by the same share.
template <class T>
struct ExpectedRow {
  std::vector<double> value, tolerance;

  ExpectedRow(const Rules& rules, Index head, Index q_pos, std::span<const double> q,
              std::span<const double> k, std::span<const double> v) {
    const std::size_t dim = q.size();
    gqa::reference::Problem problem{.num_q_tokens = 1,
                                    .num_kv_tokens = static_cast<Index>(k.size() / dim),
                                    .head_dim = static_cast<Index>(dim),
                                    .value_dim = static_cast<Index>(dim),
                                    .q = q,
                                    .k = k,
                                    .v = v};
    problem.q_offset = q_pos;
    problem.visible = [&](Index, Index at, Index kv_pos) { return rules.visible(at, kv_pos); };
    if (rules.modify)
      problem.modify = [&](double s, Index, Index at, Index kv_pos) {
        return rules.modify(s, head, at, kv_pos);
      };
    if (!rules.sink_logits.empty())
      problem.sink_logits = std::span(rules.sink_logits).subspan(static_cast<std::size_t>(head), 1);
    const auto solution = gqa::reference::attention(problem);
    value = solution.out;
    const double u = unit_roundoff<T>();
    const double of_products = 8 * std::sqrt(static_cast<double>(dim));
    for (std::size_t d = 0; d < dim; ++d) {
      double sum = 0, squares = 0;
      for (std::size_t j = 0; j < solution.probabilities.size(); ++j) {
        const double p = solution.probabilities[j], part = p * v[j * dim + d];
        if (p == 0) continue;
        sum += std::abs(part) * (of_products + std::abs(std::log(p) + solution.lse[0]));
        squares += part * part;
      }
      tolerance.push_back(4 * u * std::sqrt(squares) + 1.25 * u * std::abs(value[d]) +
                          sum * std::ldexp(1.0, -24));
    }
  }
};

/// The first, the middle and the last of n. In double, all of a long context would take longer than timing
/// it.
inline std::set<Index> some(Index n) { return {0, n / 2, n - 1}; }

/// The first difference from the oracle, or nothing, in some of a sequence's query tokens and heads.
template <class T>
std::string difference(const Sequence<T>& in, const Rules& rules = {}) {
  for (Index h : some(in.q.heads)) {
    const Index g = h / (in.q.heads / in.k.heads);
    const auto q = head_of(in.q, h), k = head_of(in.k, g), v = head_of(in.v, g);
    const auto dim = static_cast<std::size_t>(in.q.dim);
    for (Index token : some(in.q.tokens)) {
      const ExpectedRow<T> expected(rules, h, in.k.tokens - in.q.tokens + token,
                                    std::span(q).subspan(static_cast<std::size_t>(token) * dim, dim), k, v);
      for (std::size_t d = 0; d < dim; ++d) {
        const double got = static_cast<double>(in.out.at(0, token, h)[d]);
        if (std::abs(got - expected.value[d]) <= expected.tolerance[d]) continue;  // a NaN never is
        std::ostringstream text;
        text << "wrong output: token " << token << ", head " << h << ", dim " << d << " is " << got
             << ", expected " << expected.value[d] << " +- " << expected.tolerance[d];
        return text.str();
      }
    }
  }
  return {};
}

/// The same in some of a batch's `count` sequences; `of(b)` is sequence b.
template <class SequenceOf>
std::string difference_in_batch(Index count, SequenceOf of, const Rules& rules = {}) {
  for (Index b : some(count))
    if (const std::string wrong = difference(of(b), rules); !wrong.empty())
      return "sequence " + std::to_string(b) + ": " + wrong;
  return {};
}

}  // namespace bench
