// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include "gqa/convert/output_costs.hpp"
#include "gqa/convert/rope_split.hpp"
#include "gqa/convert/rounded_matrix.hpp"
#include "gqa/convert/weighted_low_rank.hpp"
#include "gqa/layer/latent_weights.hpp"

namespace gqa::convert {

/// What of a layer's keys and values a latent cache is to hold.
struct LatentOptions {
  Index rank = 0;      ///< latent_dim: of unrotated keys and of values, of all heads together
  Index rope_dim = 0;  ///< elements of keys that stay rotated, of all heads together; even
  KeptPairs kept = KeptPairs::by_norm;
  bool mix_heads = true;  ///< rotated keys are principal components over heads, not each a head's own
  Index context = 512;    ///< KeptPairs::by_turn: the tokens that pairs turn within
  std::optional<double> scale = {};  ///< of the layer; 1 / sqrt(head_dim) unless given
  const Calibration* calibration = nullptr;
};

/// A layer of latent attention's weights, in double, in the order of LatentProjections.
struct Latent {
  LatentAttentionConfig config;
  Matrix wq, kv_down, kv_up, wo;
  std::vector<double> bq, kv_down_bias, bo;
  std::vector<Index> kept_pairs;  ///< of each pair of rope_dim: which of the source's frequencies it has
  /// Of keys that are not rotated above values, keys times a factor that balances both, largest first: the
  /// squared error of rank r, weighted so, is the sum of the squares from the r-th (from 0) on.
  std::vector<double> singular_values;
  double unrotated = 0;  ///< the share of keys' weighted squares that was rotated and is no longer
  Report report;         ///< of keys as they are before any rotation
};

namespace detail {

/// (to_re + i to_im) += factor (from_a + i from_b), of whole rows.
inline void add_pair(Matrix& to, Index re, Index im, const Matrix& from, std::pair<Index, Index> of,
                     Complex factor) {
  add_row(to, re, from, of.first, factor.real());
  add_row(to, re, from, of.second, -factor.imag());
  add_row(to, im, from, of.first, factor.imag());
  add_row(to, im, from, of.second, factor.real());
}

/// The keys of all heads, pair by pair, in the components that may stay rotated.
template <class Real>
std::vector<MixedHeads> mixed_pairs(const Weights& w, const Rope& rope, const OutputCosts& costs, bool mix,
                                    const Calibration* calibration) {
  const Index G = w.num_kv_heads(), D = w.head_dim();
  const HeadProducts keys = head_products<Real>({w.wk, w.bk, G}, calibration);
  std::vector<MixedHeads> pairs;
  for (Index i = 0; i < rope.pairs(); ++i) {
    const auto [a, b] = rotated_pair(rope, i);
    std::vector<Complex> moments;
    std::vector<double> weights;
    for (Index g = 0; g < G; ++g) {
      weights.push_back(std::sqrt(costs.keys[static_cast<std::size_t>(g * D + a)]));
      for (Index k = 0; k < G; ++k)
        moments.emplace_back(keys(g, a, k, a) + keys(g, b, k, b), keys(g, b, k, a) - keys(g, a, k, b));
    }
    pairs.push_back(mix ? mix_heads<Real>(moments, weights) : unmixed_heads(moments, weights));
  }
  return pairs;
}

inline void check_latent_options(const Weights& source, const std::optional<RopeConfig>& rope,
                                 const LatentOptions& options) {
  source.check();
  GQA_CHECK(source.wq.cols() == source.wk.cols(), std::invalid_argument,
            "wq: cols is " << source.wq.cols() << ", expected the " << source.wk.cols()
                           << " of wk: a layer of latent attention has one input");
  GQA_CHECK(!rope || rope->head_dim == source.head_dim(), std::invalid_argument,
            "rope: head_dim is " << rope->head_dim << ", expected " << source.head_dim());
  const Index rotated = rope ? source.num_kv_heads() * rope->rotary_dim : 0;
  GQA_CHECK(options.rope_dim >= 0 && options.rope_dim % 2 == 0 && options.rope_dim <= rotated,
            std::invalid_argument,
            "rope_dim is " << options.rope_dim << ", expected an even number from 0 to the " << rotated
                           << " elements of keys that are rotated, of all heads");
  GQA_CHECK(options.kept != KeptPairs::by_turn || options.context >= 1, std::invalid_argument,
            "context is " << options.context << ", expected at least 1");
}

}  // namespace detail

/// Turns a layer with G KV heads into one of latent attention (MHA2MLA, Ji et al. 2025, arXiv 2502.14837). Of
/// the keys of all heads, `rope_dim` elements stay rotated and are cached as they are, k_r = W_r x; the rest
/// is no longer rotated and shares a latent with values, c = W_d x of `rank` elements, a low-rank
/// approximation of both:
///
///     cached: [c, k_r],   k_h = [U_h c, k_r],   v_h = V_h c,   q_h = [q_nope_h, rope(F_h q_rope_h)]
///
/// Keys are complex numbers pair by pair. At each frequency, y = A z takes those of all heads, z, to
/// components over heads, which commutes with RoPE; F_h undoes it on the side of queries. A query head whose
/// KV head is none of a component's has zeros there, so that one row serves all heads. Errors of keys and of
/// values are balanced by what they do to the layer's output, estimated from the second moments of q and v
/// and from Wo.
///
/// Where `rope_dim` is all that is rotated (0 without RoPE), or the components that are left out are 0, the
/// layer is what it was up to rounding at full rank. What else it loses is the rotation of the rest, told by
/// `unrotated`, and the tail of the singular values: measure it. Nothing may stand between projection and
/// rotation (a QK-norm).
///
/// Time grows with the cube of G (head_dim + value_dim). Throws std::invalid_argument for weights that do not
/// fit each other, queries with inputs of their own, a rope of another head_dim, a rope_dim that is odd or
/// above G * rotary_dim, a rank below 1 or above full, and a calibration that does not fit (see low_rank()).
template <class Real = double>
Latent to_latent(const Weights& source, const std::optional<RopeConfig>& rope, const LatentOptions& options) {
  detail::check_latent_options(source, rope, options);
  const Calibration* const calibration = options.calibration;
  if (calibration) {
    calibration->check(source.kv_inputs());
    detail::check_full_rank<Real>(*calibration);
  }
  const Index H = source.num_q_heads(), G = source.num_kv_heads(), D = source.head_dim(),
              Dv = source.value_dim(), inputs = source.kv_inputs();
  const auto rotary = rope ? std::optional(Rope(*rope)) : std::nullopt;
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(D)));
  const Matrix q = detail::with_bias(source.wq, source.bq), k = detail::with_bias(source.wk, source.bk);
  const detail::OutputCosts costs = detail::output_costs<Real>(source, rotary, scale, calibration);
  std::vector<detail::MixedHeads> pairs;
  std::span<const double> frequencies;
  if (rotary) {
    pairs = detail::mixed_pairs<Real>(source, *rotary, costs, options.mix_heads, calibration);
    frequencies = rotary->inverse_frequencies();
  }
  const auto kept =
      detail::kept_components(pairs, options.rope_dim / 2, options.kept, frequencies, options.context);

  // Elements of a head that make its unrotated key: of pairs that something is left of, and unrotated before.
  std::vector<Index> kept_of(pairs.size()), place_of(pairs.size(), -1), left;
  for (const auto& c : kept) ++kept_of[static_cast<std::size_t>(c.pair)];
  for (std::size_t i = 0; i < pairs.size(); ++i)
    if (kept_of[i] < G) {
      const auto [a, b] = detail::rotated_pair(*rotary, static_cast<Index>(i));
      place_of[i] = std::ssize(left);
      left.insert(left.end(), {a, b});
    }
  const Index rotary_dim = rope ? rope->rotary_dim : 0;
  for (Index e = rotary_dim; e < D; ++e) left.push_back(e);
  // LatentAttention wants one; of zeros where there is none.
  const Index in_latent = std::ssize(left), nope = std::max<Index>(in_latent, 1),
              head = nope + options.rope_dim;
  const bool biases = !source.bk.empty() || !source.bv.empty();
  const Index most = std::min(G * (in_latent + Dv), inputs + (biases ? 1 : 0));
  GQA_CHECK(options.rank >= 1 && options.rank <= most, std::invalid_argument,
            "rank is " << options.rank << ", expected 1 to " << most);

  // [unrotated keys; values] of all heads, what their rows cost, and the keys that stay rotated.
  Matrix both(G * (nope + Dv), inputs + 1), rotated(options.rope_dim, inputs + 1);
  std::vector<double> row_costs(static_cast<std::size_t>(both.rows()), 1.0);
  std::fill_n(row_costs.begin(), G * nope, costs.key_share);
  for (Index g = 0; g < G; ++g)
    for (Index n = 0; n < in_latent; ++n)
      detail::add_row(both, g * nope + n, k, g * D + left[static_cast<std::size_t>(n)], 1);
  const Matrix v = detail::with_bias(source.wv, source.bv);
  std::copy(v.values().begin(), v.values().end(), both.row(G * nope));
  for (Index j = 0; j < std::ssize(kept); ++j) {
    const auto [pair, c] = kept[static_cast<std::size_t>(j)];
    const detail::MixedHeads& mixed = pairs[static_cast<std::size_t>(pair)];
    const auto [a, b] = detail::rotated_pair(*rotary, pair);
    for (Index g = 0; g < G; ++g)
      detail::add_pair(rotated, 2 * j, 2 * j + 1, k, {g * D + a, g * D + b}, mixed.to_component(c, g));
    const Index place = place_of[static_cast<std::size_t>(pair)];
    for (Index g = 0; g < G && place >= 0; ++g)  // what is rotated is not in the latent
      detail::add_pair(both, g * nope + place, g * nope + place + 1, rotated, {2 * j, 2 * j + 1},
                       -mixed.from_component(g, c));
  }
  const auto low = detail::weighted_low_rank<Real>(both, row_costs, options.rank, calibration);

  Latent result;
  for (double x : low.squares) result.singular_values.push_back(std::sqrt(std::max(x, 0.0)));
  result.singular_values.resize(static_cast<std::size_t>(most));
  Matrix down(options.rank + options.rope_dim, inputs + 1);
  std::copy(low.down.values().begin(), low.down.values().end(), down.row(0));
  std::copy(rotated.values().begin(), rotated.values().end(), down.row(options.rank));
  result.kv_down = detail::without_bias(down, biases ? &result.kv_down_bias : nullptr);

  Matrix queries(H * head, inputs + 1);
  result.kv_up = Matrix(H * (nope + Dv), options.rank);
  const double gain = rotary ? rotary->attention_factor() : 1;
  for (Index h = 0; h < H; ++h) {
    const Index g = source.heads.kv_head(h);
    for (Index n = 0; n < in_latent; ++n) {
      const Index e = left[static_cast<std::size_t>(n)];
      // Rotation multiplies both q and k by the gain.
      detail::add_row(queries, h * head + n, q, h * D + e, e < rotary_dim ? gain * gain : 1);
    }
    for (Index j = 0; j < std::ssize(kept); ++j) {
      const auto [pair, c] = kept[static_cast<std::size_t>(j)];
      const auto [a, b] = detail::rotated_pair(*rotary, pair);
      const Index row = h * head + nope + 2 * j;
      detail::add_pair(queries, row, row + 1, q, {h * D + a, h * D + b},
                       std::conj(pairs[static_cast<std::size_t>(pair)].from_component(g, c)));
    }
    std::copy_n(low.up.row(g * nope), nope * options.rank, result.kv_up.row(h * (nope + Dv)));
    std::copy_n(low.up.row(G * nope + g * Dv), Dv * options.rank, result.kv_up.row(h * (nope + Dv) + nope));
  }
  result.wq = detail::without_bias(queries, source.bq.empty() ? nullptr : &result.bq);
  result.wo = source.wo;
  result.bo = source.bo;
  result.config = {.num_q_heads = H,
                   .nope_dim = nope,
                   .rope_dim = options.rope_dim,
                   .latent_dim = options.rank,
                   .value_dim = Dv,
                   .scale = scale};
  std::vector<double> periods;
  double all = 0, still = 0;
  for (const detail::MixedHeads& mixed : pairs)
    for (const double energy : mixed.energies) all += energy;
  for (const auto& c : kept) {
    result.kept_pairs.push_back(c.pair);
    periods.push_back(1 / frequencies[static_cast<std::size_t>(c.pair)]);
    still += pairs[static_cast<std::size_t>(c.pair)].energies[static_cast<std::size_t>(c.component)];
  }
  if (!kept.empty())
    result.config.rope = Rope({.layout = RopeLayout::interleaved,
                               .head_dim = options.rope_dim,
                               .theta = 1,
                               .scaling = RopeScaling::factors(std::move(periods), gain)});
  result.unrotated = all > 0 ? std::max(0.0, 1 - still / all) : 0;
  result.report = detail::report_of<Real>(source, detail::rows_of(low.lost, 0, G * nope),
                                          detail::rows_of(low.lost, G * nope, G * Dv), calibration,
                                          {options.rank + options.rope_dim});
  return result;
}

/// A Latent's weights rounded to T, for a LatentAttention to read.
template <Scalar T>
class LatentMemory {
 public:
  explicit LatentMemory(const Latent& latent)
      : q_(latent.wq, latent.bq),
        kv_down_(latent.kv_down, latent.kv_down_bias),
        kv_up_(latent.kv_up),
        output_(latent.wo, latent.bo) {}

  /// Valid as long as this is, moved or not.
  LatentProjections projections() const {
    return {.q = q_.projection(),
            .kv_down = kv_down_.projection(),
            .kv_up = kv_up_.weight(),
            .output = output_.projection()};
  }

 private:
  RoundedProjection<T> q_, kv_down_, kv_up_, output_;
};

}  // namespace gqa::convert
