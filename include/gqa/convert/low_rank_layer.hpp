// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "gqa/convert/output_costs.hpp"
#include "gqa/convert/rounded_matrix.hpp"
#include "gqa/convert/weighted_low_rank.hpp"
#include "gqa/layer/low_rank_weights.hpp"

namespace gqa::convert {

/// A layer whose heads are narrower, for any attention layer to run with this scale.
struct Folded {
  Weights weights;
  double scale;
  Report report;
};

/// What a cache of latents is to hold.
struct LowRankLayerOptions {
  Index num_latents = 1;  ///< divides the KV heads; consecutive ones share a latent
  Index key_rank = 0;     ///< elements of a latent of keys
  Index value_rank = 0;   ///< of one of values; 0, with one latent: keys and values are made of the same
  std::optional<double> scale = {};  ///< of the layer; 1 / sqrt(head_dim) unless given
  const Calibration* calibration = nullptr;
};

/// The weights of a LowRankAttention, in double, in the order of LowRankProjections.
struct LowRankLayer {
  LowRankAttentionConfig config;
  Matrix wq, k_down, v_down, key_up, wo;
  std::vector<double> bq, k_down_bias, v_down_bias, bo;
  Report report;
};

namespace detail {

/// A projection as latents of so many groups of heads, as many each.
struct HeadLatents {
  Matrix down;  // (num_latents * rank) x (inputs + 1)
  Matrix up;    // (heads * dim) x rank
  Matrix lost;  // (heads * dim) x (inputs + 1)
};

inline std::vector<double> equal_costs(const Matrix& w) {
  return std::vector<double>(static_cast<std::size_t>(w.rows()), 1.0);
}

template <class Real>
HeadLatents head_latents(const char* name, const Matrix& w, const std::vector<double>& bias,
                         const std::vector<double>& costs, Index num_latents, Index rank,
                         const Calibration* calibration) {
  const Matrix rows = with_bias(w, bias);
  const Index each = w.rows() / num_latents, most = std::min(each, w.cols() + (bias.empty() ? 0 : 1));
  GQA_CHECK(rank >= 1 && rank <= most, std::invalid_argument,
            name << " is " << rank << ", expected 1 to " << most);
  HeadLatents result{Matrix(num_latents * rank, rows.cols()), Matrix(w.rows(), rank),
                     Matrix(w.rows(), rows.cols())};
  for (Index l = 0; l < num_latents; ++l) {
    const auto low = weighted_low_rank<Real>(rows_of(rows, l * each, each),
                                             {costs.begin() + l * each, costs.begin() + (l + 1) * each}, rank,
                                             calibration);
    std::copy(low.down.values().begin(), low.down.values().end(), result.down.row(l * rank));
    std::copy(low.up.values().begin(), low.up.values().end(), result.up.row(l * each));
    std::copy(low.lost.values().begin(), low.lost.values().end(), result.lost.row(l * each));
  }
  return result;
}

/// Wo with what makes values of latents: the columns of head h become Wo_h up_g.
inline Matrix output_of_latents(const Weights& source, const Matrix& up) {
  const Index Dv = source.value_dim(), rank = up.cols();
  Matrix folded(source.wo.rows(), source.num_q_heads() * rank);
  for (Index r = 0; r < folded.rows(); ++r)
    for (Index h = 0; h < source.num_q_heads(); ++h)
      for (Index j = 0; j < Dv; ++j) {
        const double* const from = up.row(source.heads.kv_head(h) * Dv + j);
        for (Index i = 0; i < rank; ++i) folded(r, h * rank + i) += source.wo(r, h * Dv + j) * from[i];
      }
  return folded;
}

template <class Real>
void check_folding(const Weights& source, const Calibration* calibration) {
  source.check();
  if (calibration == nullptr) return;
  calibration->check(source.kv_inputs());
  GQA_CHECK(source.wq.cols() == source.kv_inputs(), std::invalid_argument,
            "wq: cols is " << source.wq.cols() << ", expected the " << source.kv_inputs()
                           << " of wk: a calibration is of one input");
  check_full_rank<Real>(*calibration);
}

}  // namespace detail

/// Values of `rank` elements a KV head in place of value_dim, the rest of them in Wo (Palu, Chang et al.
/// 2024, arXiv 2407.21118): v'_g = D_g x, Wo'_h = Wo_h U_g, with U_g D_g the best approximation of Wv_g where
/// errors are weighted by Wo. Costs nothing to read; at full rank the same layer up to rounding. Throws
/// std::invalid_argument for weights or a calibration that do not fit (see low_rank()), and a rank below 1 or
/// above value_dim and the inputs.
template <class Real = double>
Folded fold_values(const Weights& source, Index rank, const Calibration* calibration = nullptr) {
  detail::check_folding<Real>(source, calibration);
  const double scale = 1 / std::sqrt(static_cast<double>(source.head_dim()));
  const Index G = source.num_kv_heads();
  const auto values = detail::head_latents<Real>("rank", source.wv, source.bv, detail::equal_costs(source.wv),
                                                 G, rank, calibration);
  Folded result{source, scale, {}};
  result.weights.bv.clear();
  result.weights.wv = detail::without_bias(values.down, source.bv.empty() ? nullptr : &result.weights.bv);
  result.weights.wo = detail::output_of_latents(source, values.up);
  const Matrix nothing(source.wk.rows(), source.wk.cols() + 1);
  result.report = detail::report_of<Real>(source, nothing, values.lost, calibration, result.weights.cache());
  return result;
}

/// Keys of `rank` elements a KV head in place of head_dim, the rest of them in Wq: k'_g = D_g x, Wq'_h =
/// U_g^T Wq_h. For layers whose keys are not rotated: RoPE does not commute with it. The scale stays the
/// source's, 1 / sqrt(head_dim) unless given, and has to be told to the layer. Throws as fold_values().
template <class Real = double>
Folded fold_keys(const Weights& source, Index rank, const Calibration* calibration = nullptr,
                 std::optional<double> scale = {}) {
  detail::check_folding<Real>(source, calibration);
  const Index G = source.num_kv_heads(), D = source.head_dim();
  Folded result{source, scale.value_or(1 / std::sqrt(static_cast<double>(D))), {}};
  const auto keys = detail::head_latents<Real>("rank", source.wk, source.bk, detail::equal_costs(source.wk),
                                               G, rank, calibration);
  Weights& w = result.weights;
  w.bk.clear();
  w.bq.clear();
  w.wk = detail::without_bias(keys.down, source.bk.empty() ? nullptr : &w.bk);
  const Matrix q = detail::with_bias(source.wq, source.bq);
  Matrix folded(source.num_q_heads() * rank, q.cols());
  for (Index h = 0; h < source.num_q_heads(); ++h)
    for (Index e = 0; e < D; ++e)
      for (Index i = 0; i < rank; ++i)
        detail::add_row(folded, h * rank + i, q, h * D + e, keys.up(source.heads.kv_head(h) * D + e, i));
  w.wq = detail::without_bias(folded, source.bq.empty() ? nullptr : &w.bq);
  const Matrix nothing(source.wv.rows(), source.wv.cols() + 1);
  result.report = detail::report_of<Real>(source, keys.lost, nothing, calibration, w.cache());
  return result;
}

/// Latents of keys and values for LowRankAttention to cache (Palu, as above), keys to be made of them again
/// and rotated where they are read; Wo takes in the rest of values. With value_rank 0 one latent of key_rank
/// elements makes both. At full rank the same layer up to rounding. Errors are weighted by what they do to
/// the layer's output, as in to_latent(). Throws as fold_values(), for a rope of another head_dim, and where
/// num_latents does not divide the KV heads or is not 1 with value_rank 0.
template <class Real = double>
LowRankLayer to_low_rank_layer(const Weights& source, const std::optional<RopeConfig>& rope,
                               const LowRankLayerOptions& options) {
  detail::check_folding<Real>(source, options.calibration);
  const Index G = source.num_kv_heads(), D = source.head_dim(), L = options.num_latents;
  GQA_CHECK(source.wq.cols() == source.kv_inputs(), std::invalid_argument,
            "wq: cols is " << source.wq.cols() << ", expected the " << source.kv_inputs()
                           << " of wk: a layer of latents has one input");
  GQA_CHECK(!rope || rope->head_dim == D, std::invalid_argument,
            "rope: head_dim is " << rope->head_dim << ", expected " << D);
  GQA_CHECK(L >= 1 && G % L == 0, std::invalid_argument,
            "num_latents is " << L << ", expected a divisor of the " << G << " KV heads");
  const bool joint = options.value_rank == 0;
  GQA_CHECK(!joint || L == 1, std::invalid_argument,
            "value_rank is 0, expected at least 1: keys and values of " << L << " latents are cached apart");
  const auto rotary = rope ? std::optional(Rope(*rope)) : std::nullopt;
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(D)));

  LowRankLayer result;
  detail::HeadLatents keys, values;
  if (joint) {
    const bool biases = !source.bk.empty() || !source.bv.empty();
    Matrix both(source.wk.rows() + source.wv.rows(), source.kv_inputs());
    std::copy(source.wk.values().begin(), source.wk.values().end(), both.row(0));
    std::copy(source.wv.values().begin(), source.wv.values().end(), both.row(source.wk.rows()));
    std::vector<double> bias, row_costs = detail::equal_costs(both);
    std::fill_n(row_costs.begin(), source.wk.rows(),
                detail::output_costs<Real>(source, rotary, scale, options.calibration).key_share);
    if (biases) {
      bias = source.bk;
      bias.resize(static_cast<std::size_t>(source.wk.rows()));
      bias.insert(bias.end(), source.bv.begin(), source.bv.end());
      bias.resize(static_cast<std::size_t>(both.rows()));
    }
    auto all = detail::head_latents<Real>("key_rank", both, bias, row_costs, 1, options.key_rank,
                                          options.calibration);
    keys = {std::move(all.down), detail::rows_of(all.up, 0, source.wk.rows()),
            detail::rows_of(all.lost, 0, source.wk.rows())};
    values = {Matrix(), detail::rows_of(all.up, source.wk.rows(), source.wv.rows()),
              detail::rows_of(all.lost, source.wk.rows(), source.wv.rows())};
    result.k_down = detail::without_bias(keys.down, biases ? &result.k_down_bias : nullptr);
  } else {
    keys = detail::head_latents<Real>("key_rank", source.wk, source.bk, detail::equal_costs(source.wk), L,
                                      options.key_rank, options.calibration);
    values = detail::head_latents<Real>("value_rank", source.wv, source.bv, detail::equal_costs(source.wv), L,
                                        options.value_rank, options.calibration);
    result.k_down = detail::without_bias(keys.down, source.bk.empty() ? nullptr : &result.k_down_bias);
    result.v_down = detail::without_bias(values.down, source.bv.empty() ? nullptr : &result.v_down_bias);
  }
  result.config = {.num_q_heads = source.num_q_heads(),
                   .num_kv_heads = G,
                   .num_latents = L,
                   .head_dim = D,
                   .key_rank = options.key_rank,
                   .value_rank = joint ? options.key_rank : options.value_rank,
                   .grouping = source.heads,
                   .scale = scale,
                   .rope = rotary};
  result.wq = source.wq;
  result.bq = source.bq;
  result.key_up = std::move(keys.up);
  result.wo = detail::output_of_latents(source, values.up);
  result.bo = source.bo;
  result.report = detail::report_of<Real>(source, keys.lost, values.lost, options.calibration,
                                          {L * (options.key_rank + options.value_rank)});
  return result;
}

/// A LowRankLayer's weights rounded to T, for a LowRankAttention to read.
template <Scalar T>
class LowRankMemory {
 public:
  explicit LowRankMemory(const LowRankLayer& layer)
      : q_(layer.wq, layer.bq),
        k_down_(layer.k_down, layer.k_down_bias),
        v_down_(layer.v_down, layer.v_down_bias),
        key_up_(layer.key_up),
        output_(layer.wo, layer.bo) {}

  /// Valid as long as this is, moved or not.
  LowRankProjections projections() const {
    return {.q = q_.projection(),
            .k_down = k_down_.projection(),
            .v_down = v_down_.projection(),
            .key_up = key_up_.weight(),
            .output = output_.projection()};
  }

 private:
  RoundedProjection<T> q_, k_down_, v_down_, key_up_, output_;
};

}  // namespace gqa::convert
