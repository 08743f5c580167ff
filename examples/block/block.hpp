// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <random>
#include <variant>

#include "gqa/layer/attention_layer.hpp"
#include "gqa/layer/latent_attention.hpp"
#include "gqa/layer/linear.hpp"
#include "gqa/mask.hpp"

namespace block {

using gqa::Index;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct Sizes {
  Index num_q_heads = 8;
  Index num_kv_heads = 2;
  Index head_dim = 64;
  Index ffn_dim = 1408;
  Index latent_dim = 256;  ///< of multi-head latent attention, in place of KV heads

  Index model_dim() const { return num_q_heads * head_dim; }
};

/// Random weights, one matrix after another.
class Weights {
 public:
  explicit Weights(unsigned seed) : random_(seed) {}

  Matrix operator()(Index rows, Index columns) {
    std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(columns)));
    return Matrix::NullaryExpr(rows, columns, [&] { return normal(random_); });
  }

 private:
  std::mt19937 random_;
};

/// Attention whose query heads share KV heads: MHA, GQA or MQA.
struct GroupedHeads {
  Matrix q, k, v, o;
  gqa::AttentionLayer<> layer;

  GroupedHeads(const Sizes& s, Weights& weights)
      : q(weights(s.model_dim(), s.model_dim())),
        k(weights(s.num_kv_heads * s.head_dim, s.model_dim())),
        v(weights(s.num_kv_heads * s.head_dim, s.model_dim())),
        o(weights(s.model_dim(), s.model_dim())),
        layer({.q = {q}, .k = {k}, .v = {v}, .output = {o}},
              {.num_q_heads = s.num_q_heads,
               .num_kv_heads = s.num_kv_heads,
               .head_dim = s.head_dim,
               .rope = gqa::Rope({.layout = gqa::RopeLayout::half, .head_dim = s.head_dim})}) {}
};

/// Attention whose query heads share a latent, MLA: half a head more of a key is rotated and shared, as in
/// DeepSeek-V2-Lite.
struct LatentHeads {
  Matrix q, kv_down, kv_up, o;
  gqa::LatentAttention<> layer;

  static Index rope_dim(const Sizes& s) { return s.head_dim / 2; }

  LatentHeads(const Sizes& s, Weights& weights)
      : q(weights(s.num_q_heads * (s.head_dim + rope_dim(s)), s.model_dim())),
        kv_down(weights(s.latent_dim + rope_dim(s), s.model_dim())),
        kv_up(weights(s.num_q_heads * 2 * s.head_dim, s.latent_dim)),
        o(weights(s.model_dim(), s.model_dim())),
        layer({.q = {q}, .kv_down = {kv_down}, .kv_up = kv_up, .output = {o}},
              {.num_q_heads = s.num_q_heads,
               .nope_dim = s.head_dim,
               .rope_dim = rope_dim(s),
               .latent_dim = s.latent_dim,
               .value_dim = s.head_dim,
               .scale = gqa::latent_scale(s.head_dim, rope_dim(s)),
               .latent_norm = gqa::QKNorm::unweighted(s.latent_dim),
               .rope = gqa::Rope({.layout = gqa::RopeLayout::interleaved, .head_dim = rope_dim(s)})}) {}
};

/// A decoder block as Llama has it, with random weights: attention and a gated feed-forward layer, each added
/// to what it reads after an RMS normalisation,
///
///     h = x + attention(norm(x)),   y = h + W_down (silu(W_gate norm(h)) * W_up norm(h)).
///
/// It refers to its own weights, and stays where it is.
template <class Heads = GroupedHeads>
class DecoderBlock {
 public:
  explicit DecoderBlock(const Sizes& sizes, unsigned seed = 1)
      : sizes_(sizes),
        weights_(seed),
        heads_(sizes, weights_),
        gate_up_(weights_(2 * sizes.ffn_dim, sizes.model_dim())),
        down_(weights_(sizes.model_dim(), sizes.ffn_dim)),
        attention_norm_(1, sizes.model_dim()),
        ffn_norm_(1, sizes.model_dim()) {
    attention_norm_.setOnes();
    ffn_norm_.setOnes();
  }
  DecoderBlock(const DecoderBlock&) = delete;
  DecoderBlock& operator=(const DecoderBlock&) = delete;

  const Sizes& sizes() const { return sizes_; }
  const auto& attention() const { return heads_.layer; }
  Index num_parameters() const {
    return attention().num_parameters() + gate_up_.size() + down_.size() + attention_norm_.size() +
           ffn_norm_.size();
  }

  /// Takes x, tokens x model_dim, through the block in place: the tokens of `span` in one layer of a cache.
  template <gqa::ExecutorLike E, gqa::Cache C>
  void forward(E&& executor, gqa::LayerMemory<>& memory, Matrix& x, C& cache, Index layer,
               const gqa::Span& span) const {
    const Matrix normed = rms_norm(x, attention_norm_);
    Matrix update(x.rows(), x.cols());
    attention().forward(executor, memory, normed, cache, layer, span, update, gqa::causal());
    x += update;
    x += feed_forward(executor, memory, rms_norm(x, ffn_norm_));
  }

 private:
  /// Zhang and Sennrich 2019. Each token by itself, so that no bit depends on the others.
  static Matrix rms_norm(const Matrix& x, const Matrix& scale) {
    Matrix y(x.rows(), x.cols());
    for (Index t = 0; t < x.rows(); ++t) {
      const float mean = x.row(t).squaredNorm() / static_cast<float>(x.cols());
      y.row(t) = x.row(t).cwiseProduct(scale) / std::sqrt(mean + 1e-5f);
    }
    return y;
  }

  /// SwiGLU (Shazeer 2020).
  template <class E>
  Matrix feed_forward(E& executor, gqa::LayerMemory<>& memory, const Matrix& x) const {
    const gqa::LinearOptions options{.workspace = &memory.workspace()};
    Matrix gate_up(x.rows(), 2 * sizes_.ffn_dim), gated(x.rows(), sizes_.ffn_dim), y(x.rows(), x.cols());
    gqa::linear(executor, x, gate_up_, gate_up, options);
    for (Index t = 0; t < x.rows(); ++t) {
      const auto gate = gate_up.row(t).head(sizes_.ffn_dim).array();
      gated.row(t) = gate / (1 + (-gate).exp()) * gate_up.row(t).tail(sizes_.ffn_dim).array();
    }
    gqa::linear(executor, gated, down_, y, options);
    return y;
  }

  Sizes sizes_;
  Weights weights_;
  Heads heads_;
  Matrix gate_up_, down_, attention_norm_, ffn_norm_;
};

}  // namespace block
