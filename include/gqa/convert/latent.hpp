// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include "gqa/convert/head_products.hpp"
#include "gqa/convert/report.hpp"
#include "gqa/convert/rope_split.hpp"
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
  /// Of keys that are not rotated above values, each weighted by what it counts for, largest first: the
  /// squared error of rank r, weighted so, is the sum of the squares from the r-th (from 0) on.
  std::vector<double> singular_values;
  double unrotated = 0;  ///< the share of keys' weighted squares that was rotated and is no longer
  Report report;         ///< of keys as they are before any rotation
};

namespace detail {

/// Wq, Wk and Wv with their biases as one more column, and what an error of each row costs.
struct LatentSource {
  const Weights& weights;
  std::optional<Rope> rope;
  double scale;
  Matrix q, k, v;
  std::vector<double> key_costs, value_costs;  // squares, of each row of k and v

  Index pairs() const { return rope ? rope->pairs() : 0; }
  std::pair<Index, Index> pair(Index i) const {
    if (rope->config().layout == RopeLayout::half) return {i, i + pairs()};
    return {2 * i, 2 * i + 1};
  }
};

inline Matrix with_bias(const Matrix& w, const std::vector<double>& bias) {
  Matrix both(w.rows(), w.cols() + 1);
  for (Index r = 0; r < w.rows(); ++r) {
    std::copy_n(w.row(r), w.cols(), both.row(r));
    if (!bias.empty()) both(r, w.cols()) = bias[static_cast<std::size_t>(r)];
  }
  return both;
}

inline Matrix without_bias(const Matrix& both, std::vector<double>* bias) {
  Matrix w(both.rows(), both.cols() - 1);
  for (Index r = 0; r < w.rows(); ++r) {
    std::copy_n(both.row(r), w.cols(), w.row(r));
    if (bias) bias->push_back(both(r, w.cols()));
  }
  return w;
}

/// to += factor * from, of whole rows.
inline void add_row(Matrix& to, Index row, const Matrix& from, Index of, double factor) {
  if (factor == 0) return;
  for (Index c = 0; c < to.cols(); ++c) to(row, c) += factor * from(of, c);
}

/// (to_re + i to_im) += factor (from_a + i from_b), of whole rows.
inline void add_pair(Matrix& to, Index re, Index im, const Matrix& from, std::pair<Index, Index> of,
                     Complex factor) {
  add_row(to, re, from, of.first, factor.real());
  add_row(to, re, from, of.second, -factor.imag());
  add_row(to, im, from, of.first, factor.imag());
  add_row(to, im, from, of.second, factor.real());
}

/// What errors cost in squares of the layer's output. A value's element costs what Wo makes of it. An error e
/// of a key is one of q e in the score of each query that reads it, hence of the probability's share in the
/// output: that times as much as values vary, |Wo (v - E v)|.
template <class Real>
void weigh(LatentSource& source, const Calibration* calibration) {
  const Weights& w = source.weights;
  const Index H = w.num_q_heads(), D = w.head_dim(), Dv = w.value_dim();
  const auto queries = squared_norms<Real>({w.wq, w.bq, w.wq.rows()}, calibration);
  const std::vector<double> no_bias;
  const HeadProducts values = head_products<Real>({w.wv, no_bias, w.num_kv_heads()}, calibration);
  std::vector<double> means(static_cast<std::size_t>(w.wv.rows()));
  if (calibration) {
    const auto mean = calibration->mean();
    for (Index r = 0; r < w.wv.rows(); ++r)
      means[static_cast<std::size_t>(r)] = dot(w.wv.row(r), mean.data(), w.wv.cols());
  }
  Matrix columns(w.wo.cols(), w.wo.rows());
  for (Index r = 0; r < columns.rows(); ++r)
    for (Index c = 0; c < columns.cols(); ++c) columns(r, c) = w.wo(c, r);
  const double gain = source.rope ? source.rope->attention_factor() : 1;
  source.key_costs.assign(static_cast<std::size_t>(w.wk.rows()), 0.0);
  source.value_costs.assign(static_cast<std::size_t>(w.wv.rows()), 0.0);
  for (Index h = 0; h < H; ++h) {
    const Index g = w.heads.kv_head(h);
    double spread = 0;
    for (Index i = 0; i < Dv; ++i) {
      for (Index j = 0; j < Dv; ++j)
        spread += dot(columns.row(h * Dv + i), columns.row(h * Dv + j), columns.cols()) *
                  (values(g, i, g, j) -
                   means[static_cast<std::size_t>(g * Dv + i)] * means[static_cast<std::size_t>(g * Dv + j)]);
      const double* const column = columns.row(h * Dv + i);
      source.value_costs[static_cast<std::size_t>(g * Dv + i)] += dot(column, column, columns.cols());
    }
    const double cost = source.scale * source.scale * std::max(spread, 0.0);
    const auto query = [&](Index e) { return queries[static_cast<std::size_t>(h * D + e)]; };
    const auto key = [&](Index e) -> double& {
      return source.key_costs[static_cast<std::size_t>(g * D + e)];
    };
    for (Index e = 2 * source.pairs(); e < D; ++e) key(e) += cost * query(e);
    for (Index i = 0; i < source.pairs(); ++i) {
      const auto [a, b] = source.pair(i);
      const double both = cost * std::pow(gain, 4) * (query(a) + query(b)) / 2;
      key(a) += both;
      key(b) += both;
    }
  }
  // Nothing costs nothing: what no query looks at would else be divided by 0.
  const auto floor = [](std::vector<double>& costs) {
    const double most = *std::max_element(costs.begin(), costs.end());
    for (double& x : costs) x = most > 0 ? std::max(x, 1e-12 * most) : 1;
  };
  floor(source.key_costs);
  floor(source.value_costs);
}

/// The keys of all heads, pair by pair, in the components that may stay rotated.
template <class Real>
std::vector<MixedHeads> mixed_pairs(const LatentSource& source, bool mix, const Calibration* calibration) {
  const Weights& w = source.weights;
  const Index G = w.num_kv_heads(), D = w.head_dim();
  const HeadProducts keys = head_products<Real>({w.wk, w.bk, G}, calibration);
  std::vector<MixedHeads> pairs;
  for (Index i = 0; i < source.pairs(); ++i) {
    const auto [a, b] = source.pair(i);
    std::vector<Complex> moments;
    std::vector<double> weights;
    for (Index g = 0; g < G; ++g) {
      weights.push_back(std::sqrt(source.key_costs[static_cast<std::size_t>(g * D + a)]));
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
/// KV head is none of a component's has zeros there, so that one row serves all heads. Errors of the
/// approximation are weighted by what they do to the layer's output, estimated from the second moments of q,
/// k, v and Wo.
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
  using A = detail::Algebra<Real>;
  detail::check_latent_options(source, rope, options);
  const Calibration* const calibration = options.calibration;
  if (calibration) {
    calibration->check(source.kv_inputs());
    detail::check_full_rank<Real>(*calibration);
  }
  const Index H = source.num_q_heads(), G = source.num_kv_heads(), D = source.head_dim(),
              Dv = source.value_dim(), inputs = source.kv_inputs();
  detail::LatentSource s{source,
                         rope ? std::optional(Rope(*rope)) : std::nullopt,
                         options.scale.value_or(1 / std::sqrt(static_cast<double>(D))),
                         detail::with_bias(source.wq, source.bq),
                         detail::with_bias(source.wk, source.bk),
                         detail::with_bias(source.wv, source.bv),
                         {},
                         {}};
  detail::weigh<Real>(s, calibration);
  const auto pairs = detail::mixed_pairs<Real>(s, options.mix_heads, calibration);
  const std::vector<double> frequencies =
      s.rope ? std::vector<double>(s.rope->inverse_frequencies().begin(), s.rope->inverse_frequencies().end())
             : std::vector<double>();
  const auto kept =
      detail::kept_components(pairs, options.rope_dim / 2, options.kept, frequencies, options.context);
  std::vector<Index> kept_of(static_cast<std::size_t>(s.pairs()));  // how many components of each pair
  for (const auto& c : kept) ++kept_of[static_cast<std::size_t>(c.pair)];
  const auto is_left = [&](Index pair) { return kept_of[static_cast<std::size_t>(pair)] < G; };

  // Elements of a head that make the unrotated key: of pairs that something is left of, and unrotated before.
  std::vector<Index> left;
  for (Index i = 0; i < s.pairs(); ++i)
    if (is_left(i)) left.insert(left.end(), {s.pair(i).first, s.pair(i).second});
  for (Index e = 2 * s.pairs(); e < D; ++e) left.push_back(e);
  // LatentAttention wants one; of zeros where there is none.
  const Index in_latent = std::ssize(left), nope = std::max<Index>(in_latent, 1),
              head = nope + options.rope_dim;

  const bool biases = !source.bk.empty() || !source.bv.empty();
  const Index most = std::min(G * (in_latent + Dv), inputs + (biases ? 1 : 0));
  GQA_CHECK(options.rank >= 1 && options.rank <= most, std::invalid_argument,
            "rank is " << options.rank << ", expected 1 to " << most);

  // [unrotated keys; values] of all heads, and what their rows cost.
  Matrix both(G * (nope + Dv), inputs + 1), rotated(options.rope_dim, inputs + 1);
  std::vector<double> weights(static_cast<std::size_t>(both.rows()), 1.0);
  for (Index g = 0; g < G; ++g) {
    for (Index n = 0; n < in_latent; ++n) {
      const Index row = g * D + left[static_cast<std::size_t>(n)];
      detail::add_row(both, g * nope + n, s.k, row, 1);
      weights[static_cast<std::size_t>(g * nope + n)] = std::sqrt(s.key_costs[static_cast<std::size_t>(row)]);
    }
    for (Index j = 0; j < Dv; ++j) {
      detail::add_row(both, G * nope + g * Dv + j, s.v, g * Dv + j, 1);
      weights[static_cast<std::size_t>(G * nope + g * Dv + j)] =
          std::sqrt(s.value_costs[static_cast<std::size_t>(g * Dv + j)]);
    }
  }
  std::vector<Index> at(static_cast<std::size_t>(s.pairs()));  // where a pair's elements are among `left`
  for (Index i = 0, n = 0; i < s.pairs(); ++i)
    if (is_left(i)) at[static_cast<std::size_t>(i)] = std::exchange(n, n + 2);
  for (Index j = 0; j < std::ssize(kept); ++j) {
    const auto [pair, c] = kept[static_cast<std::size_t>(j)];
    const detail::MixedHeads& mixed = pairs[static_cast<std::size_t>(pair)];
    const auto [a, b] = s.pair(pair);
    for (Index g = 0; g < G; ++g)
      detail::add_pair(rotated, 2 * j, 2 * j + 1, s.k, {g * D + a, g * D + b}, mixed.to_component(c, g));
    // What is rotated is not in the latent.
    if (is_left(pair))
      for (Index g = 0; g < G; ++g) {
        const Index row = g * nope + at[static_cast<std::size_t>(pair)];
        detail::add_pair(both, row, row + 1, rotated, {2 * j, 2 * j + 1}, -mixed.from_component(g, c));
      }
  }

  Matrix weighted = both;
  for (Index r = 0; r < both.rows(); ++r)
    for (Index c = 0; c <= inputs; ++c) weighted(r, c) *= weights[static_cast<std::size_t>(r)];
  std::vector<double> weighted_bias;
  const Matrix weighted_matrix = detail::without_bias(weighted, &weighted_bias);
  const auto eigen =
      A::symmetric_eigen(detail::head_products<Real>({weighted_matrix, weighted_bias, 1}, calibration).all);
  Matrix up(both.rows(), options.rank), across(options.rank, both.rows());
  for (Index r = 0; r < both.rows(); ++r)
    for (Index i = 0; i < options.rank; ++i) {
      across(i, r) = eigen.vectors(r, i);
      up(r, i) = eigen.vectors(r, i) / weights[static_cast<std::size_t>(r)];
    }
  const Matrix latent = A::product(across, weighted);

  Latent result;
  for (double x : eigen.values) result.singular_values.push_back(std::sqrt(std::max(x, 0.0)));
  result.singular_values.resize(static_cast<std::size_t>(most));

  Matrix down(options.rank + options.rope_dim, inputs + 1);
  std::copy(latent.values().begin(), latent.values().end(), down.row(0));
  std::copy(rotated.values().begin(), rotated.values().end(), down.row(options.rank));
  std::vector<double> down_bias;
  result.kv_down = detail::without_bias(down, &down_bias);
  if (biases) result.kv_down_bias = std::move(down_bias);

  Matrix queries(H * head, inputs + 1);
  result.kv_up = Matrix(H * (nope + Dv), options.rank);
  const double gain = s.rope ? s.rope->attention_factor() : 1;
  for (Index h = 0; h < H; ++h) {
    const Index g = source.heads.kv_head(h);
    for (Index n = 0; n < in_latent; ++n) {
      const Index e = left[static_cast<std::size_t>(n)];
      // Rotation multiplies both q and k.
      detail::add_row(queries, h * head + n, s.q, h * D + e, e < 2 * s.pairs() ? gain * gain : 1);
    }
    for (Index j = 0; j < std::ssize(kept); ++j) {
      const auto [pair, c] = kept[static_cast<std::size_t>(j)];
      const auto [a, b] = s.pair(pair);
      const Index row = h * head + nope + 2 * j;
      detail::add_pair(queries, row, row + 1, s.q, {h * D + a, h * D + b},
                       std::conj(pairs[static_cast<std::size_t>(pair)].from_component(g, c)));
    }
    std::copy_n(up.row(g * nope), nope * options.rank, result.kv_up.row(h * (nope + Dv)));
    std::copy_n(up.row(G * nope + g * Dv), Dv * options.rank, result.kv_up.row(h * (nope + Dv) + nope));
  }
  result.wq = detail::without_bias(queries, source.bq.empty() ? nullptr : &result.bq);
  result.wo = source.wo;
  result.bo = source.bo;

  result.config = {.num_q_heads = H,
                   .nope_dim = nope,
                   .rope_dim = options.rope_dim,
                   .latent_dim = options.rank,
                   .value_dim = Dv,
                   .scale = s.scale};
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

  Matrix difference = both;
  const Matrix approximated = A::product(up, latent);
  for (std::size_t i = 0; i < difference.values().size(); ++i)
    difference.values()[i] -= approximated.values()[i];
  const auto told = [&](const Matrix& w, const std::vector<double>& bias, Index first, Index rows) {
    Matrix part(rows, inputs + 1);
    std::copy_n(difference.row(first), rows * (inputs + 1), part.row(0));
    std::vector<double> offset;
    const Matrix lost = detail::without_bias(part, &offset);
    HeadReport report;
    report.errors = detail::squared_norms<Real>({lost, offset, G}, calibration);
    report.norms = detail::norms<Real>({w, bias, G}, calibration);
    return report;
  };
  result.report.keys = told(source.wk, source.bk, 0, G * nope);
  result.report.values = told(source.wv, source.bv, G * nope, G * Dv);
  result.report.cache_before = source.cache();
  result.report.cache_after = {options.rank + options.rope_dim};
  return result;
}

/// A Latent's weights rounded to T, for a LatentAttention to read. Moves, and the projections with it.
template <Scalar T>
class LatentMemory {
 public:
  explicit LatentMemory(const Latent& latent)
      : q_(latent.wq),
        kv_down_(latent.kv_down),
        kv_up_(latent.kv_up),
        output_(latent.wo),
        bq_(latent.bq),
        kv_down_bias_(latent.kv_down_bias),
        bo_(latent.bo) {}

  LatentProjections projections() const {
    return {.q = {q_.view(), bq_.vector()},
            .kv_down = {kv_down_.view(), kv_down_bias_.vector()},
            .kv_up = kv_up_.view(),
            .output = {output_.view(), bo_.vector()}};
  }

 private:
  struct Numbers {
    Index rows, cols;
    std::vector<T> values;

    explicit Numbers(const Matrix& m) : rows(m.rows()), cols(m.cols()), values(m.values().size()) {
      m.copy_to(values.data());
    }
    explicit Numbers(const std::vector<double>& x) : rows(1), cols(std::ssize(x)) {
      for (const double each : x) values.push_back(rounded_to<T>(each));
    }
    MatrixView view() const { return MatrixView(values.data(), rows, cols); }
    VectorView vector() const { return values.empty() ? VectorView() : VectorView(values); }
  };

  Numbers q_, kv_down_, kv_up_, output_, bq_, kv_down_bias_, bo_;
};

}  // namespace gqa::convert
