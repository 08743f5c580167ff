// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "gguf.hpp"

namespace generate::test {

/// The forward pass as the papers write it, in double and without a cache: it shares the reader of files with
/// the program, and nothing else. For models with plain rotary embedding.
class NaiveLlama {
 public:
  explicit NaiveLlama(const Gguf& file) : file_(file) {}

  /// The scores after the last of the tokens.
  std::vector<double> scores(const std::vector<int>& tokens) const {
    const int layers = integer("block_count"), d = integer("embedding_length");
    std::vector<std::vector<double>> x;
    const auto embedding = values("token_embd.weight");
    for (const int id : tokens) x.emplace_back(embedding.begin() + id * d, embedding.begin() + (id + 1) * d);
    for (int i = 0; i < layers; ++i) layer("blk." + std::to_string(i) + ".", x);
    const auto last = norm(x.back(), "output_norm.weight");
    return product(file_.find_tensor("output.weight") != nullptr ? "output" : "token_embd", last);
  }

 private:
  using Values = std::vector<double>;

  int integer(const std::string& key) const { return static_cast<int>(file_.integer("llama." + key)); }

  Values values(const std::string& name) const {
    const GgufTensor& tensor = *file_.find_tensor(name);
    std::vector<float> narrow(static_cast<std::size_t>(tensor.columns() * tensor.rows()));
    dequantize(tensor.type, tensor.data, narrow);
    return {narrow.begin(), narrow.end()};
  }

  Values product(const std::string& name, const Values& x) const {
    const Values w = values(name + ".weight");
    Values y(w.size() / x.size(), 0);
    if (file_.find_tensor(name + ".bias") != nullptr) y = values(name + ".bias");
    for (std::size_t i = 0; i < y.size(); ++i) {
      for (std::size_t j = 0; j < x.size(); ++j) y[i] += w[i * x.size() + j] * x[j];
    }
    return y;
  }

  Values norm(const Values& x, const std::string& name) const {
    const Values w = values(name);
    double squares = 0;
    for (const double value : x) squares += value * value;
    const double epsilon = file_.real("llama.attention.layer_norm_rms_epsilon");
    Values y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      y[i] = x[i] * w[i] / std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
    }
    return y;
  }

  /// Turns the pairs (0, 1), (2, 3), ... of each head.
  void rotate(Values& x, int dim, double position) const {
    const int rotary = static_cast<int>(file_.integer("llama.rope.dimension_count", dim));
    const double theta = file_.real("llama.rope.freq_base");
    for (std::size_t head = 0; head < x.size(); head += static_cast<std::size_t>(dim)) {
      for (int i = 0; i < rotary / 2; ++i) {
        const double angle = position * std::pow(theta, -2.0 * i / rotary);
        double& a = x[head + static_cast<std::size_t>(2 * i)];
        double& b = x[head + static_cast<std::size_t>(2 * i + 1)];
        const double turned = a * std::cos(angle) - b * std::sin(angle);
        b = a * std::sin(angle) + b * std::cos(angle);
        a = turned;
      }
    }
  }

  void layer(const std::string& block, std::vector<Values>& x) const {
    const int num_heads = integer("attention.head_count");
    const int num_kv_heads = static_cast<int>(file_.integer("llama.attention.head_count_kv", num_heads));
    const std::size_t n = x.size();
    std::vector<Values> q(n), k(n), v(n);
    for (std::size_t t = 0; t < n; ++t) {
      const Values h = norm(x[t], block + "attn_norm.weight");
      q[t] = product(block + "attn_q", h);
      k[t] = product(block + "attn_k", h);
      v[t] = product(block + "attn_v", h);
      const int dim = static_cast<int>(q[t].size()) / num_heads;
      rotate(q[t], dim, static_cast<double>(t));
      rotate(k[t], dim, static_cast<double>(t));
    }
    const std::size_t window =
        static_cast<std::size_t>(file_.integer("llama.attention.sliding_window", 1 << 20));
    const std::size_t dim = q[0].size() / static_cast<std::size_t>(num_heads);
    const std::size_t value_dim = v[0].size() / static_cast<std::size_t>(num_kv_heads);
    for (std::size_t t = 0; t < n; ++t) {
      Values attended(value_dim * static_cast<std::size_t>(num_heads), 0);
      for (int head = 0; head < num_heads; ++head) {
        const auto h = static_cast<std::size_t>(head);
        const auto g = static_cast<std::size_t>(head / (num_heads / num_kv_heads));
        double sum = 0;
        Values output(value_dim, 0);
        for (std::size_t s = t + 1 > window ? t + 1 - window : 0; s <= t; ++s) {
          double score = 0;
          for (std::size_t i = 0; i < dim; ++i) score += q[t][h * dim + i] * k[s][g * dim + i];
          const double weight = std::exp(score / std::sqrt(static_cast<double>(dim)));
          sum += weight;
          for (std::size_t i = 0; i < value_dim; ++i) output[i] += weight * v[s][g * value_dim + i];
        }
        for (std::size_t i = 0; i < value_dim; ++i) attended[h * value_dim + i] = output[i] / sum;
      }
      add(x[t], product(block + "attn_output", attended));
      const Values h = norm(x[t], block + "ffn_norm.weight");
      Values gate = product(block + "ffn_gate", h);
      const Values up = product(block + "ffn_up", h);
      for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
      add(x[t], product(block + "ffn_down", gate));
    }
  }

  static void add(Values& x, const Values& y) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }

  const Gguf& file_;
};

}  // namespace generate::test
