// SPDX-License-Identifier: Apache-2.0
// What a layer computes, by the oracle: for conversions to layers of other kinds.
#pragma once

#include <complex>
#include <string>

#include "convert/layer_case.hpp"
#include "gqa/convert/calibration.hpp"
#include "gqa/reference/attention.hpp"

namespace gqa::test {

using Numbers = std::vector<double>;

inline constexpr double theta = 50;

inline convert::Calibration calibration_of(const Numbers& x, Index width) {
  convert::Calibration c(width);
  c.add(x.data(), static_cast<Index>(x.size()) / width);
  return c;
}

/// What each pair of a head of so many rotated elements turns by per position.
inline Numbers frequencies_of(Index rotary_dim) {
  Numbers all;
  for (Index i = 0; i < rotary_dim; i += 2)
    all.push_back(std::pow(theta, -static_cast<double>(i) / static_cast<double>(rotary_dim)));
  return all;
}

/// The source by the oracle, in double: pair (i, i + n) of each head turns by position * frequencies[i], the
/// n of them that are given.
inline Numbers exact(const convert::Weights& w, const Numbers& x, const Numbers& frequencies, double scale) {
  const Index H = w.num_q_heads(), G = w.num_kv_heads(), D = w.head_dim(), Dv = w.value_dim();
  const Index tokens = static_cast<Index>(x.size()) / w.kv_inputs(), pairs = std::ssize(frequencies);
  Numbers q = project(x, w.wq, w.bq), k = project(x, w.wk, w.bk);
  const Numbers v = project(x, w.wv, w.bv);
  const auto turn = [&](Numbers& heads, Index count) {
    for (Index t = 0; t < tokens; ++t)
      for (Index h = 0; h < count; ++h)
        for (Index i = 0; i < pairs; ++i) {
          double* const head = heads.data() + (t * count + h) * D;
          const auto turned =
              std::complex(head[i], head[i + pairs]) *
              std::polar(1.0, static_cast<double>(t) * frequencies[static_cast<std::size_t>(i)]);
          head[i] = turned.real();
          head[i + pairs] = turned.imag();
        }
  };
  turn(q, H);
  turn(k, G);
  const auto attended = reference::attention({.num_q_tokens = tokens,
                                              .num_kv_tokens = tokens,
                                              .num_q_heads = H,
                                              .num_kv_heads = G,
                                              .head_dim = D,
                                              .value_dim = Dv,
                                              .q = q,
                                              .k = k,
                                              .v = v,
                                              .scale = scale,
                                              .visible = [](Index, Index i, Index j) { return j <= i; },
                                              .kv_head_of = [&](Index h) { return w.heads.kv_head(h); }});
  return project(attended.out, w.wo, w.bo);
}

}  // namespace gqa::test
