// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "gqa/core/rounded.hpp"
#include "gqa/core/shape.hpp"

namespace gqa::reference {

/// One sequence of grouped-query attention, written down in full: what the oracle is asked.
///
/// q is num_q_tokens x num_q_heads x head_dim, k is num_kv_tokens x num_kv_heads x head_dim, v is
/// num_kv_tokens x num_kv_heads x value_dim, all dense and row-major. Key j is at position j; query i is at
/// position `q_offset + i`, where an offset left out puts the last query on the last key.
struct Problem {
  Index num_q_tokens = 0, num_kv_tokens = 0, num_q_heads = 1, num_kv_heads = 1, head_dim = 1, value_dim = 1;
  std::span<const double> q = {}, k = {}, v = {};
  double scale = 1 / std::sqrt(static_cast<double>(head_dim));
  Index q_offset = num_kv_tokens - num_q_tokens;
  /// Which keys a query sees; empty: all of them.
  std::function<bool(Index q_head, Index q_pos, Index kv_pos)> visible = {};
  /// Soft-cap, bias and anything else done to a scaled score before the mask; empty: nothing.
  std::function<double(double score, Index q_head, Index q_pos, Index kv_pos)> modify = {};
  /// One raw logit per query head that joins the denominator; empty: none.
  std::span<const double> sink_logits = {};
  /// The KV head a query head reads; empty: consecutive groups of equal size.
  std::function<Index(Index q_head)> kv_head_of = {};
};

/// out: num_q_tokens x num_q_heads x value_dim. lse: num_q_tokens x num_q_heads, the natural logarithm of
/// each row's denominator (a learned sink included). probabilities: num_q_tokens x num_q_heads x
/// num_kv_tokens.
struct Solution {
  std::vector<double> out, lse, probabilities;
};

/// Attention as its definition says, in double and one row at a time: the oracle every kernel is held
/// against.
///
///     s_j = modify(scale * <q_i, k_j>)    over the keys i sees;  lse = log(sum_j e^{s_j} + e^{sink})
///     p_j = e^{s_j - lse},  out_i = sum_j p_j v_j
///
/// A masked key or value is never read. A row that sees nothing gives 0 and lse -inf (or the sink's logit).
inline Solution attention(const Problem& in) {
  const auto [Sq, Sk, H, G, D, Dv] = std::array{in.num_q_tokens, in.num_kv_tokens, in.num_q_heads,
                                                in.num_kv_heads, in.head_dim,      in.value_dim};
  constexpr double inf = std::numeric_limits<double>::infinity();
  Solution result{std::vector<double>(static_cast<std::size_t>(Sq * H * Dv)),
                  std::vector<double>(static_cast<std::size_t>(Sq * H)),
                  std::vector<double>(static_cast<std::size_t>(Sq * H * Sk))};
  for (Index i = 0; i < Sq; ++i) {
    for (Index h = 0; h < H; ++h) {
      const Index g = in.kv_head_of ? in.kv_head_of(h) : h / (H / G);
      const Index q_pos = in.q_offset + i;
      const double* q = in.q.data() + (i * H + h) * D;
      const double sink = in.sink_logits.empty() ? -inf : in.sink_logits[static_cast<std::size_t>(h)];
      double* p = result.probabilities.data() + (i * H + h) * Sk;
      double* out = result.out.data() + (i * H + h) * Dv;

      std::vector<Index> keys;  // those this row sees
      double max = sink;
      for (Index j = 0; j < Sk; ++j) {
        if (in.visible && !in.visible(h, q_pos, j)) continue;
        const double* k = in.k.data() + (j * G + g) * D;
        double dot = 0;
        for (Index d = 0; d < D; ++d) dot += gqa::detail::rounded(q[d] * k[d]);
        p[j] = in.modify ? in.modify(in.scale * dot, h, q_pos, j) : in.scale * dot;
        if (p[j] > max) max = p[j];
        keys.push_back(j);
      }
      if (max == -inf) max = 0;  // nothing to see: every exponential below is 0, or NaN if its score is

      double denominator = std::exp(sink - max);
      for (Index j : keys) denominator += p[j] = std::exp(p[j] - max);
      result.lse[static_cast<std::size_t>(i * H + h)] = max + std::log(denominator);
      if (denominator == 0) continue;
      for (Index j : keys) {
        p[j] /= denominator;
        const double* v = in.v.data() + (j * G + g) * Dv;
        for (Index d = 0; d < Dv; ++d) out[d] += gqa::detail::rounded(p[j] * v[d]);
      }
    }
  }
  return result;
}

}  // namespace gqa::reference
