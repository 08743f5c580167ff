// SPDX-License-Identifier: Apache-2.0
// An attention layer of random weights, and what it computes by plain loops.
#pragma once

#include <cmath>
#include <functional>
#include <numeric>
#include <optional>
#include <vector>

#include "gqa/layer/attention_layer.hpp"
#include "layer/matrices.hpp"

namespace gqa::test {

struct LayerSizes {
  Index H = 6, G = 2, D = 8, Dv = 8, in_dim = 20, out_dim = 20;
  bool bias = true, norm = true, rope = true;
  std::vector<Index> kv_head_of = {};  ///< h / (H / G) where it is empty
};

/// Weights in W, whose values are floats of few bits: every type holds them.
template <class W = float>
struct LayerCase {
  static constexpr double epsilon = 1e-6, theta = 100;

  LayerSizes s;
  ByRows<W> q, k, v, o;
  std::vector<W> q_bias, k_bias, v_bias, o_bias, q_norm, k_norm;

  explicit LayerCase(const LayerSizes& sizes, std::uint64_t seed = 1) : s(sizes) {
    const double spread = 1 / std::sqrt(static_cast<double>(s.in_dim));
    q = coarse(s.H * s.D, s.in_dim, seed + 1, 2 * spread);
    k = coarse(s.G * s.D, s.in_dim, seed + 2, 2 * spread);
    v = coarse(s.G * s.Dv, s.in_dim, seed + 3, spread);
    o = coarse(s.out_dim, s.H * s.Dv, seed + 4, 1 / std::sqrt(static_cast<double>(s.H * s.Dv)));
    if (s.bias) {
      q_bias = vector(s.H * s.D, seed + 5);
      k_bias = vector(s.G * s.D, seed + 6);
      v_bias = vector(s.G * s.Dv, seed + 7);
      o_bias = vector(s.out_dim, seed + 8);
    }
    if (s.norm) {
      q_norm = vector(s.D, seed + 9);
      k_norm = vector(s.D, seed + 10);
    }
  }

  AttentionProjections projections() const {
    return {
        .q = {q, bias(q_bias)}, .k = {k, bias(k_bias)}, .v = {v, bias(v_bias)}, .output = {o, bias(o_bias)}};
  }
  AttentionLayerConfig config() const {
    AttentionLayerConfig c{.num_q_heads = s.H, .num_kv_heads = s.G, .head_dim = s.D, .value_dim = s.Dv};
    if (s.norm) c.q_norm = QKNorm(NormWeights::plain, q_norm, epsilon);
    if (s.norm) c.k_norm = QKNorm(NormWeights::plain, k_norm, epsilon);
    if (s.rope) c.rope = Rope({.layout = RopeLayout::half, .head_dim = s.D, .theta = theta});
    if (!s.kv_head_of.empty()) c.grouping = HeadGrouping(s.kv_head_of, s.G);
    return c;
  }
  template <class T = Accumulator<W>>
  AttentionLayer<T> layer() const {
    return AttentionLayer<T>(projections(), config());
  }

  Index kv_head(Index h) const {
    return s.kv_head_of.empty() ? h / (s.H / s.G) : s.kv_head_of[static_cast<std::size_t>(h)];
  }

  /// What the layer computes of one sequence from position 0 on, in plain loops of T; query i sees key j
  /// where `visible(i, j)`.
  template <class T, class X>
  ByRows<T> naive(const X& x, const std::function<bool(Index, Index)>& visible) const {
    const Index n = x.rows();
    const auto times = [&](const auto& a, const ByRows<W>& w, const std::vector<W>& b) {
      ByRows<T> y(n, w.rows());
      for (Index t = 0; t < n; ++t)
        for (Index r = 0; r < w.rows(); ++r) {
          T sum = 0;
          for (Index c = 0; c < w.cols(); ++c) sum += static_cast<T>(a(t, c)) * static_cast<T>(w(r, c));
          y(t, r) = b.empty() ? sum : sum + static_cast<T>(b[static_cast<std::size_t>(r)]);
        }
      return y;
    };
    const auto turned = [&](ByRows<T> heads, Index num, const std::vector<W>& weights) {
      for (Index t = 0; t < n; ++t)
        for (Index h = 0; h < num; ++h) {
          T* const head = &heads(t, h * s.D);
          if (s.norm) {
            T squares = 0;
            for (Index d = 0; d < s.D; ++d) squares += head[d] * head[d];
            const T rms = std::sqrt(squares / static_cast<T>(s.D) + static_cast<T>(epsilon));
            for (Index d = 0; d < s.D; ++d)
              head[d] = head[d] / rms * static_cast<T>(weights[static_cast<std::size_t>(d)]);
          }
          for (Index i = 0; s.rope && i < s.D / 2; ++i) {
            const double angle = static_cast<double>(t) *
                                 std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(s.D));
            const T cos = static_cast<T>(std::cos(angle)), sin = static_cast<T>(std::sin(angle));
            const T a = head[i], b = head[i + s.D / 2];
            head[i] = a * cos - b * sin;
            head[i + s.D / 2] = a * sin + b * cos;
          }
        }
      return heads;
    };
    const ByRows<T> qs = turned(times(x, q, q_bias), s.H, q_norm),
                    ks = turned(times(x, k, k_bias), s.G, k_norm), vs = times(x, v, v_bias);
    ByRows<T> attended = ByRows<T>::Zero(n, s.H * s.Dv);
    for (Index h = 0; h < s.H; ++h)
      for (Index i = 0; i < n; ++i) {
        const Index g = kv_head(h);
        std::vector<T> p(static_cast<std::size_t>(n));
        T largest = -std::numeric_limits<T>::infinity(), sum = 0;
        for (Index j = 0; j < n; ++j) {
          T score = 0;
          for (Index d = 0; d < s.D; ++d) score += qs(i, h * s.D + d) * ks(j, g * s.D + d);
          p[static_cast<std::size_t>(j)] = score / std::sqrt(static_cast<T>(s.D));
          if (visible(i, j)) largest = std::max(largest, p[static_cast<std::size_t>(j)]);
        }
        for (Index j = 0; j < n; ++j) {
          T& weight = p[static_cast<std::size_t>(j)];
          weight = visible(i, j) ? std::exp(weight - largest) : 0;
          sum += weight;
        }
        for (Index j = 0; sum > 0 && j < n; ++j)
          for (Index d = 0; d < s.Dv; ++d)
            attended(i, h * s.Dv + d) += p[static_cast<std::size_t>(j)] / sum * vs(j, g * s.Dv + d);
      }
    return times(attended, o, o_bias);
  }

 private:
  static VectorView bias(const std::vector<W>& b) { return b.empty() ? VectorView() : VectorView(b); }

  static W rounded_coarsely(double x) { return static_cast<W>(std::round(x * 128) / 128); }
  static ByRows<W> coarse(Index rows, Index columns, std::uint64_t seed, double deviation) {
    return matrix<double>(rows, columns, seed, deviation).unaryExpr(&rounded_coarsely);
  }
  static std::vector<W> vector(Index n, std::uint64_t seed) {
    const ByRows<W> values = coarse(1, n, seed, 0.5);
    return {values.data(), values.data() + n};
  }
};

inline bool causally(Index i, Index j) { return j <= i; }

}  // namespace gqa::test
