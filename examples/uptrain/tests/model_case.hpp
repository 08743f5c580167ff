// SPDX-License-Identifier: Apache-2.0
// A small model of random parameters, and its loss as the definition has it, one number at a time.
#pragma once

#include <cmath>
#include <vector>

#include "batch.hpp"
#include "shape.hpp"

namespace uptrain::test {

inline Shape small_shape(Index num_kv_heads) {
  return {.vocabulary = 5,
          .layers = 2,
          .width = 12,
          .num_q_heads = 3,
          .num_kv_heads = num_kv_heads,
          .hidden = 7,
          .context = 6,
          .theta = 100};
}

inline std::vector<double> random_parameters(const Places& places, std::uint64_t seed) {
  Random random(seed, 0);
  std::vector<double> p(static_cast<std::size_t>(places.size));
  for (double& x : p) x = 0.5 * random.symmetric();
  for (Index i = 0; i < places.matrices; ++i) p[static_cast<std::size_t>(i)] += 1;  // gains
  return p;
}

inline Batch random_batch(const Shape& shape, Index sequences, std::uint64_t seed) {
  Random random(seed, 1);
  std::vector<Symbol> text;
  for (Index i = 0; i <= shape.context * sequences; ++i)
    text.push_back(static_cast<Symbol>(random.below(shape.vocabulary)));
  Batch batch;
  for (Index i = 0; i < sequences; ++i) batch.add(text, i * shape.context, shape.context);
  return batch;
}

using Vector = std::vector<double>;

/// W x, W at `weight`.
inline Vector product(const double* weight, const Vector& x, Index rows) {
  Vector y(static_cast<std::size_t>(rows));
  for (double& each : y)
    for (const double value : x) each += *weight++ * value;
  return y;
}

inline Vector normed(const Vector& x, const double* gain) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  Vector y = x;
  for (double& value : y) value *= *gain++ / std::sqrt(squares / static_cast<double>(x.size()) + 1e-5);
  return y;
}

/// Turns pairs (i, i + D / 2) of each head by position theta^(-2i / D).
inline void rotate(double* heads, Index count, Index dim, Index position, double theta) {
  for (Index h = 0; h < count; ++h)
    for (Index i = 0; i < dim / 2; ++i) {
      double &a = heads[h * dim + i], &b = heads[h * dim + i + dim / 2];
      const double exponent = -2 * static_cast<double>(i) / static_cast<double>(dim);
      const double angle = static_cast<double>(position) * std::pow(theta, exponent);
      const double turned = a * std::cos(angle) - b * std::sin(angle);
      b = a * std::sin(angle) + b * std::cos(angle);
      a = turned;
    }
}

inline double naive_loss(const Shape& shape, const Vector& p, const Batch& batch) {
  const Places at(shape);
  const Index D = shape.head_dim(), H = shape.num_q_heads, G = shape.num_kv_heads, d = shape.width;
  const auto add = [](Vector& x, const Vector& y) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  };
  double sum = 0;
  for (Index s = 0; s < batch.sequences; ++s) {
    std::vector<Vector> x;
    for (Index t = 0; t < shape.context; ++t) {
      const auto symbol = batch.inputs[static_cast<std::size_t>(s * shape.context + t)];
      const double* const row = p.data() + at.embedding + symbol * d;
      x.emplace_back(row, row + d);
    }
    for (const Places::Layer& layer : at.layers) {
      std::vector<Vector> qkv;
      for (Index t = 0; t < shape.context; ++t) {
        qkv.push_back(product(p.data() + layer.qkv,
                              normed(x[static_cast<std::size_t>(t)], p.data() + layer.attention_norm),
                              shape.qkv_width()));
        rotate(qkv.back().data(), H + G, D, t, shape.theta);
      }
      for (std::size_t t = 0; t < x.size(); ++t) {
        Vector attended(static_cast<std::size_t>(d));
        for (Index h = 0; h < H; ++h) {
          const Index g = h / (H / G);
          Vector weights;
          double total = 0;
          for (std::size_t j = 0; j <= t; ++j) {
            double score = 0;
            for (Index i = 0; i < D; ++i) score += qkv[t].data()[h * D + i] * qkv[j].data()[(H + g) * D + i];
            weights.push_back(std::exp(score / std::sqrt(static_cast<double>(D))));
            total += weights.back();
          }
          for (std::size_t j = 0; j <= t; ++j)
            for (Index i = 0; i < D; ++i)
              attended[static_cast<std::size_t>(h * D + i)] +=
                  weights[j] / total * qkv[j].data()[(H + G + g) * D + i];
        }
        add(x[t], product(p.data() + layer.out, attended, d));
      }
      for (Vector& row : x) {
        const Vector both = product(p.data() + layer.gate_up, normed(row, p.data() + layer.feed_forward_norm),
                                    2 * shape.hidden);
        Vector hidden;
        for (std::size_t i = 0; i < both.size() / 2; ++i)
          hidden.push_back(both[i] / (1 + std::exp(-both[i])) * both[i + both.size() / 2]);
        add(row, product(p.data() + layer.down, hidden, d));
      }
    }
    for (std::size_t t = 0; t < x.size(); ++t) {
      const Vector logits =
          product(p.data() + at.head, normed(x[t], p.data() + at.final_norm), shape.vocabulary);
      double total = 0;
      for (const double logit : logits) total += std::exp(logit);
      sum += std::log(total) - logits[batch.targets[static_cast<std::size_t>(s * shape.context) + t]];
    }
  }
  return sum / static_cast<double>(batch.sequences * shape.context);
}

}  // namespace uptrain::test
