// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <functional>
#include <span>
#include <vector>

#include "gqa/reference/attention.hpp"

namespace gqa::reference {

/// A layer of multi-head latent attention, written down in full. Matrices are outputs x inputs, dense and
/// row-major; x is num_tokens x model_dim; token t is at position t.
struct LatentProblem {
  Index num_tokens = 0, model_dim = 1, num_heads = 1;
  Index nope_dim = 1, rope_dim = 0, latent_dim = 1, value_dim = 1, q_rank = 0, out_dim = 1;
  std::span<const double> x = {};
  std::span<const double> wq = {};        ///< H (nope + rope) x model_dim, or x q_rank where that is not 0
  std::span<const double> wq_down = {};   ///< q_rank x model_dim
  std::span<const double> wkv_down = {};  ///< (latent + rope) x model_dim
  std::span<const double> wkv_up = {};    ///< H (nope + value) x latent
  std::span<const double> wo = {};        ///< out_dim x H value
  std::span<const double> q_norm = {},
                          kv_norm = {};  ///< weights of RMS norms of q_rank and latent; empty: none
  double epsilon = 1e-6;
  double scale = 1;
  double theta = 10000;  ///< neighbours (2i, 2i + 1) turn by position * theta^(-2i / rope_dim)
  std::span<const double> frequencies = {};  ///< of each two neighbours, in place of theta's
  std::function<bool(Index q_head, Index q_pos, Index kv_pos)> visible = {};
};

/// Multi-head latent attention as it is defined (DeepSeek-V2, arXiv 2405.04434, equations 9 to 19): keys and
/// values of every head are made from the latent of every token, and ordinary attention reads them. Returns
/// num_tokens x out_dim.
inline std::vector<double> latent_attention(const LatentProblem& in) {
  const auto product = [](std::span<const double> w, const double* x, Index inputs) {
    std::vector<double> y(w.size() / static_cast<std::size_t>(inputs));
    for (std::size_t r = 0; r < y.size(); ++r)
      for (Index i = 0; i < inputs; ++i)
        y[r] += gqa::detail::rounded(w[r * static_cast<std::size_t>(inputs) + static_cast<std::size_t>(i)] *
                                     x[i]);
    return y;
  };
  const auto normalise = [&](double* x, std::span<const double> weights) {
    double squares = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) squares += gqa::detail::rounded(x[i] * x[i]);
    const double rms = std::sqrt(squares / static_cast<double>(weights.size()) + in.epsilon);
    for (std::size_t i = 0; i < weights.size(); ++i) x[i] *= weights[i] / rms;
  };
  const auto turn = [&](double* x, Index position) {
    for (Index i = 0; i < in.rope_dim; i += 2) {
      const double angle =
          static_cast<double>(position) *
          (in.frequencies.empty()
               ? std::pow(in.theta, -static_cast<double>(i) / static_cast<double>(in.rope_dim))
               : in.frequencies[static_cast<std::size_t>(i / 2)]);
      const double a = x[i], b = x[i + 1], cos = std::cos(angle), sin = std::sin(angle);
      x[i] = gqa::detail::rounded(a * cos) - gqa::detail::rounded(b * sin);
      x[i + 1] = gqa::detail::rounded(a * sin) + gqa::detail::rounded(b * cos);
    }
  };

  const Index H = in.num_heads, D = in.nope_dim + in.rope_dim, up = in.nope_dim + in.value_dim;
  std::vector<double> q, k, v;
  for (Index t = 0; t < in.num_tokens; ++t) {
    const double* x = in.x.data() + t * in.model_dim;
    std::vector<double> queries;
    if (in.q_rank == 0) {
      queries = product(in.wq, x, in.model_dim);
    } else {
      std::vector<double> low = product(in.wq_down, x, in.model_dim);
      normalise(low.data(), in.q_norm);
      queries = product(in.wq, low.data(), in.q_rank);
    }
    std::vector<double> row = product(in.wkv_down, x, in.model_dim);
    normalise(row.data(), in.kv_norm);
    turn(row.data() + in.latent_dim, t);
    const std::vector<double> made = product(in.wkv_up, row.data(), in.latent_dim);
    for (Index h = 0; h < H; ++h) {
      turn(queries.data() + h * D + in.nope_dim, t);
      const double* of_head = made.data() + h * up;
      k.insert(k.end(), of_head, of_head + in.nope_dim);
      k.insert(k.end(), row.begin() + in.latent_dim, row.end());
      v.insert(v.end(), of_head + in.nope_dim, of_head + up);
    }
    q.insert(q.end(), queries.begin(), queries.end());
  }
  const Solution attended = attention({.num_q_tokens = in.num_tokens,
                                       .num_kv_tokens = in.num_tokens,
                                       .num_q_heads = H,
                                       .num_kv_heads = H,
                                       .head_dim = D,
                                       .value_dim = in.value_dim,
                                       .q = q,
                                       .k = k,
                                       .v = v,
                                       .scale = in.scale,
                                       .visible = in.visible});
  std::vector<double> y;
  for (Index t = 0; t < in.num_tokens; ++t) {
    const std::vector<double> row =
        product(in.wo, attended.out.data() + t * H * in.value_dim, H * in.value_dim);
    y.insert(y.end(), row.begin(), row.end());
  }
  return y;
}

}  // namespace gqa::reference
