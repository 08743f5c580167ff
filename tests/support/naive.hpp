// SPDX-License-Identifier: Apache-2.0
// Attention as one would first write it in a dtype, and the error a kernel is allowed: twice that of this.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "gqa/core/scalar.hpp"
#include "gqa/reference/attention.hpp"

namespace gqa::test {

/// The problem computed in T: scores, exponentials, probabilities and outputs are stored in T, and each
/// product is summed in Accumulator<T>, one by one. lse is kept in the accumulator. Sums run from last to
/// first: in double the oracle's own order would give the oracle's own roundings, and an error of nothing to
/// be held to.
template <Scalar T>
reference::Solution naive_attention(const reference::Problem& in) {
  using Acc = Accumulator<T>;
  const auto acc = [](auto x) { return static_cast<Acc>(x); };
  const Index Sk = in.num_kv_tokens, H = in.num_q_heads, G = in.num_kv_heads, D = in.head_dim,
              Dv = in.value_dim;
  const Index rows = in.num_q_tokens * H;
  reference::Solution result{std::vector<double>(static_cast<std::size_t>(rows * Dv)),
                             std::vector<double>(static_cast<std::size_t>(rows)),
                             {}};
  for (Index row = 0; row < rows; ++row) {
    const Index h = row % H, g = in.kv_head_of ? in.kv_head_of(h) : h / (H / G);
    const Index q_pos = in.q_offset + row / H;
    std::vector<T> p(static_cast<std::size_t>(Sk));
    std::vector<Index> keys;
    Acc max = -std::numeric_limits<Acc>::infinity();
    if (!in.sink_logits.empty()) max = acc(in.sink_logits[static_cast<std::size_t>(h)]);
    const Acc sink = max;
    for (Index j = Sk - 1; j >= 0; --j) {
      if (in.visible && !in.visible(h, q_pos, j)) continue;
      Acc dot = 0;
      for (Index d = D - 1; d >= 0; --d) {
        dot += acc(static_cast<T>(in.q[static_cast<std::size_t>(row * D + d)])) *
               acc(static_cast<T>(in.k[static_cast<std::size_t>((j * G + g) * D + d)]));
      }
      T score = static_cast<T>(dot * acc(in.scale));
      if (in.modify) score = static_cast<T>(in.modify(static_cast<double>(score), h, q_pos, j));
      p[static_cast<std::size_t>(j)] = score;
      max = std::max(max, acc(score));
      keys.push_back(j);
    }
    if (max == -std::numeric_limits<Acc>::infinity()) max = 0;
    Acc sum = std::exp(sink - max);
    for (Index j : keys) {
      T& x = p[static_cast<std::size_t>(j)];
      x = static_cast<T>(std::exp(acc(x) - max));
      sum += acc(x);
    }
    result.lse[static_cast<std::size_t>(row)] = static_cast<double>(max + std::log(sum));
    for (Index j : keys) {
      T& x = p[static_cast<std::size_t>(j)];
      x = static_cast<T>(acc(x) / sum);
    }
    for (Index d = 0; d < Dv; ++d) {
      Acc out = 0;
      for (Index j : keys) {
        out += acc(p[static_cast<std::size_t>(j)]) *
               acc(static_cast<T>(in.v[static_cast<std::size_t>((j * G + g) * Dv + d)]));
      }
      result.out[static_cast<std::size_t>(row * Dv + d)] = static_cast<double>(static_cast<T>(out));
    }
  }
  return result;
}

/// The largest difference; infinite where one is NaN and the other is not, 0 between equal infinities.
template <class A, class B>
double max_error(std::span<const A> a, std::span<const B> b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    if (x == y || (std::isnan(x) && std::isnan(y))) continue;
    const double error = std::abs(x - y);
    worst = std::max(worst, std::isnan(error) ? std::numeric_limits<double>::infinity() : error);
  }
  return worst;
}

namespace detail {

inline double largest(std::span<const double> values) {
  double largest = 0;
  for (double value : values) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  return largest;
}

inline ::testing::AssertionResult judge(const char* what, double error, double naive_error, double floor) {
  const double bound = 2 * naive_error + floor;
  if (error <= bound) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << what << ": error " << error << " exceeds " << bound << " = 2 x "
                                       << naive_error << " (naive) + " << floor;
}

/// Relative rounding error of T: half its epsilon.
template <Scalar T>
constexpr double unit_roundoff() {
  if constexpr (std::is_same_v<T, half>) {
    return 0x1p-11;
  } else if constexpr (std::is_same_v<T, bfloat16>) {
    return 0x1p-8;
  } else {
    return std::numeric_limits<T>::epsilon() / 2;
  }
}

}  // namespace detail

/// Whether outputs (in any type) are at most twice as far from the oracle's as a naive run in T is.
///
/// On top of twice the naive error, which chance can make very small for a few outputs, come what no kernel
/// can avoid: rounding the largest output to T, and one rounding in the accumulator of the largest value.
template <Scalar T, class Out>
::testing::AssertionResult out_within_naive_error(std::span<const Out> out, const reference::Problem& problem,
                                                  const reference::Solution& exact,
                                                  const reference::Solution& naive) {
  using detail::unit_roundoff;
  const double floor = unit_roundoff<T>() * detail::largest(exact.out) +
                       unit_roundoff<Accumulator<T>>() * detail::largest(problem.v);
  return detail::judge("out", max_error<Out, double>(out, exact.out),
                       max_error<double, double>(naive.out, exact.out), floor);
}

template <Scalar T, class Out>
::testing::AssertionResult out_within_naive_error(std::span<const Out> out, const reference::Problem& problem,
                                                  const reference::Solution& exact) {
  return out_within_naive_error<T>(out, problem, exact, naive_attention<T>(problem));
}

/// The same for lse, whose own rounding is that of the accumulator (at least one unit of 1, the sum's scale).
template <Scalar T, class Lse>
::testing::AssertionResult lse_within_naive_error(std::span<const Lse> lse, const reference::Solution& exact,
                                                  const reference::Solution& naive) {
  const double floor =
      2 * detail::unit_roundoff<Accumulator<T>>() * std::max(1.0, detail::largest(exact.lse));
  return detail::judge("lse", max_error<Lse, double>(lse, exact.lse),
                       max_error<double, double>(naive.lse, exact.lse), floor);
}

}  // namespace gqa::test
