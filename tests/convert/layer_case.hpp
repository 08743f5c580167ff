// SPDX-License-Identifier: Apache-2.0
// An attention layer of random weights, and what it computes, through attention() itself.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <utility>
#include <vector>

#include "attention/attend.hpp"
#include "gqa/convert/weights.hpp"
#include "gqa/position/rope.hpp"
#include "support/random.hpp"

namespace gqa::test {

struct LayerSizes {
  Index num_q_heads = 4, num_kv_heads = 4, head_dim = 8, value_dim = 6, inputs = 20;
  bool biases = false;
};

inline convert::Matrix random_matrix(Random& random, Index rows, Index cols, double deviation = 1) {
  convert::Matrix m(rows, cols);
  for (double& x : m.values()) x = deviation * random.normal();
  return m;
}

/// Weights of the size of an initialised model's, so that scores are of the order of 1.
inline convert::Weights random_weights(const LayerSizes& s, std::uint64_t seed) {
  Random random(seed);
  const double size = 1 / std::sqrt(static_cast<double>(s.inputs));
  // One after another: in what order a compiler evaluates arguments is its own affair.
  auto wo = random_matrix(random, s.inputs, s.num_q_heads * s.value_dim, size);
  auto wv = random_matrix(random, s.num_kv_heads * s.value_dim, s.inputs, size);
  auto wk = random_matrix(random, s.num_kv_heads * s.head_dim, s.inputs, size);
  auto wq = random_matrix(random, s.num_q_heads * s.head_dim, s.inputs, size);
  convert::Weights w(std::move(wq), std::move(wk), std::move(wv), std::move(wo), s.num_q_heads,
                     s.num_kv_heads);
  if (s.biases) {
    const auto bias = [&](Index n) { return random_matrix(random, 1, n, 0.3).values(); };
    w.bq = bias(w.wq.rows());
    w.bk = bias(w.wk.rows());
    w.bv = bias(w.wv.rows());
    w.bo = bias(w.wo.rows());
  }
  return w;
}

/// Copies head `from` of a projection to head `to`.
inline void copy_head(convert::Matrix& w, std::vector<double>& bias, Index dim, Index from, Index to) {
  for (Index i = 0; i < dim; ++i) {
    for (Index c = 0; c < w.cols(); ++c) w(to * dim + i, c) = w(from * dim + i, c);
    if (!bias.empty())
      bias[static_cast<std::size_t>(to * dim + i)] = bias[static_cast<std::size_t>(from * dim + i)];
  }
}

/// x W^T + b in T, tokens x rows.
template <class T>
std::vector<T> project(const std::vector<T>& x, const convert::Matrix& w, const std::vector<double>& bias) {
  const Index inputs = w.cols(), tokens = static_cast<Index>(x.size()) / inputs;
  std::vector<T> weights(w.values().size()), y(static_cast<std::size_t>(tokens * w.rows()));
  w.copy_to(weights.data());
  for (Index t = 0; t < tokens; ++t)
    for (Index r = 0; r < w.rows(); ++r) {
      T sum = bias.empty() ? T(0) : static_cast<T>(bias[static_cast<std::size_t>(r)]);
      for (Index c = 0; c < inputs; ++c)
        sum +=
            weights[static_cast<std::size_t>(r * inputs + c)] * x[static_cast<std::size_t>(t * inputs + c)];
      y[static_cast<std::size_t>(t * w.rows() + r)] = sum;
    }
  return y;
}

/// What the layer computes of tokens x inputs activations, causally: weights are rounded to T, and so is
/// everything in between. Each query head gets a copy of the KV head that the weights' map names.
template <class T>
std::vector<T> run_layer(const convert::Weights& w, const std::vector<T>& x,
                         const std::optional<RopeConfig>& rope) {
  const Index H = w.num_q_heads(), D = w.head_dim(), Dv = w.value_dim();
  const Index tokens = static_cast<Index>(x.size()) / w.kv_inputs();
  auto q = project(x, w.wq, w.bq), k = project(x, w.wk, w.bk);
  const auto v = project(x, w.wv, w.bv);
  if (rope) {
    const Rope rotary(*rope);
    rotary.apply(TensorView<T>(q.data(), tokens, H, D), 0);
    rotary.apply(TensorView<T>(k.data(), tokens, w.num_kv_heads(), D), 0);
  }
  const auto repeated = [&](const std::vector<T>& heads, Index dim) {
    std::vector<T> all;
    for (Index t = 0; t < tokens; ++t)
      for (Index h = 0; h < H; ++h) {
        const auto begin = heads.begin() + (t * w.num_kv_heads() + w.heads.kv_head(h)) * dim;
        all.insert(all.end(), begin, begin + dim);
      }
    return all;
  };
  const auto all_k = repeated(k, D), all_v = repeated(v, Dv);
  const auto result = run<T>({.mask = causal()}, TensorView<const T>(q.data(), tokens, H, D), Dv,
                             TensorView<const T>(all_k.data(), tokens, H, D),
                             TensorView<const T>(all_v.data(), tokens, H, Dv));
  return project(result.out, w.wo, w.bo);
}

/// |a - b| / |b|.
template <class T>
double relative_distance(const std::vector<T>& a, const std::vector<T>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return a.size() == b.size() && norm > 0 ? std::sqrt(difference / norm) : INFINITY;
}

/// Activations of tokens that are alike, as those of models are: few directions carry most of them.
template <class T>
std::vector<T> activations(Index tokens, Index inputs, std::uint64_t seed) {
  Random random(seed);
  std::vector<T> x;
  for (Index t = 0; t < tokens; ++t)
    for (Index i = 0; i < inputs; ++i)
      x.push_back(static_cast<T>(2 * random.normal() / (1 + static_cast<double>(i)) + 0.5 * random.normal() +
                                 (i == 0 ? 1 : 0)));
  return x;
}

}  // namespace gqa::test
