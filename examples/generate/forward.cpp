// SPDX-License-Identifier: Apache-2.0
#include "forward.hpp"

#include <cmath>
#include <numeric>
#include <stdexcept>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "gqa/core/error.hpp"
#include "gqa/layer/linear.hpp"

namespace generate {
namespace {

/// y_t <- x_t / sqrt(mean(x_t^2) + epsilon) * weight (RMSNorm, Zhang and Sennrich 2019).
void rms_norm(const Eigen::Ref<const Matrix>& x, const Vector& weight, double epsilon, Eigen::Ref<Matrix> y) {
  for (Index t = 0; t < x.rows(); ++t) {
    const float mean = x.row(t).squaredNorm() / static_cast<float>(x.cols());
    y.row(t) = x.row(t).cwiseProduct(weight) / std::sqrt(mean + static_cast<float>(epsilon));
  }
}

gqa::QKNorm head_norm(const Vector& weights, double epsilon) {
  return {gqa::NormWeights::plain, std::span(weights.data(), static_cast<std::size_t>(weights.size())),
          epsilon};
}

/// out <- activation(gate) * up
template <class Row>
void activate(Activation activation, const Row& gate, const Row& up, Eigen::Ref<Vector> out) {
  const auto x = gate.array();
  switch (activation) {
    case Activation::silu:
      out = (x / (1 + (-x).exp()) * up.array()).matrix();
      break;
    case Activation::gelu_tanh:
      // sqrt(2 / pi)
      out = (x * 0.5F * (1 + (0.79788456080286535588F * (x + 0.044715F * x.cube())).tanh()) * up.array())
                .matrix();
      break;
  }
}

}  // namespace

Forward::Forward(const Model& model, gqa::PoolExecutor executor)
    : model_(model),
      sizes_(model.sizes),
      executor_(executor),
      rotations_(gqa::Rope(model.sizes.rope)),
      local_rotations_(gqa::Rope(model.sizes.local_rope)) {
  for (const Layer& layer : model.layers) {
    if (layer.q_norm.size() != 0)
      head_norms_.push_back(
          {head_norm(layer.q_norm, sizes_.rms_epsilon), head_norm(layer.k_norm, sizes_.rms_epsilon)});
  }
}

void Forward::check(std::span<const TokenId> tokens) const {
  for (const TokenId id : tokens) {
    GQA_CHECK(id >= 0 && id < sizes_.vocabulary_size, std::invalid_argument,
              "token id " << id << ", expected 0 to " << sizes_.vocabulary_size - 1);
  }
}

void Forward::run(std::span<const TokenId> tokens, std::span<const Index> positions, const Attend& attend,
                  const Watch& watch) {
  check(tokens);
  resize(std::ssize(tokens));
  rotations_.assign(positions);
  local_rotations_.assign(positions);
  for (Index t = 0; t < num_tokens(); ++t)
    model_.embedding.read_row(tokens[static_cast<std::size_t>(t)],
                              {&hidden_(t, 0), static_cast<std::size_t>(hidden_.cols())});
  if (sizes_.embedding_scale != 1) hidden_ *= sizes_.embedding_scale;
  for (Index i = 0; i < sizes_.num_layers; ++i) {
    const Layer& layer = model_.layers[static_cast<std::size_t>(i)];
    attention(i, layer, attend, watch);
    feed_forward(layer);
  }
}

const Matrix& Forward::logits(std::span<const Index> tokens) {
  const Index count = std::ssize(tokens);
  logits_.resize(count, sizes_.vocabulary_size);
  Matrix rows(count, sizes_.model_dim);
  for (Index i = 0; i < count; ++i) rows.row(i) = hidden_.row(tokens[static_cast<std::size_t>(i)]);
  rms_norm(rows, model_.output_norm, sizes_.rms_epsilon, rows);
  multiply(rows, model_.output(), model_.separate_output.bias, logits_);
  return logits_;
}

const Matrix& Forward::last_logits(Index count) {
  GQA_CHECK(num_tokens() >= 1, std::logic_error, "logits before the first token");
  std::vector<Index> tokens(static_cast<std::size_t>(count));
  std::iota(tokens.begin(), tokens.end(), num_tokens() - count);
  return logits(tokens);
}

/// Buffers for n tokens; decoding, one after the other, reuses them.
void Forward::resize(Index n) {
  hidden_.resize(n, sizes_.model_dim);
  normed_.resize(n, sizes_.model_dim);
  update_.resize(n, sizes_.model_dim);
  qkv_.resize(n, sizes_.qkv_size());
  attended_.resize(n, sizes_.attention_size());
  gate_up_.resize(n, 2 * sizes_.ffn_dim);
  activated_.resize(n, sizes_.ffn_dim);
}

/// The columns of `qkv_` from `first` on as tokens x heads x dim.
gqa::TensorView<float> Forward::heads(Index first, Index num_heads, Index dim) {
  return {qkv_.data() + first, {1, qkv_.rows(), num_heads, dim}, {qkv_.size(), qkv_.cols(), dim}};
}

/// y <- x W^T + b
void Forward::multiply(const Matrix& x, const WeightMatrix& weight, const Vector& bias, Matrix& y) {
  gqa::linear(executor_, x, weight.view(), bias.size() == 0 ? gqa::VectorView() : gqa::VectorView(bias), y,
              {.workspace = &workspace_});
}

void Forward::attention(Index index, const Layer& layer, const Attend& attend, const Watch& watch) {
  rms_norm(hidden_, layer.attention_norm, sizes_.rms_epsilon, normed_);
  if (watch) watch(index, normed_);
  multiply(normed_, layer.qkv.weight, layer.qkv.bias, qkv_);
  const auto q = heads(0, sizes_.num_q_heads, sizes_.head_dim);
  const auto k = heads(sizes_.q_size(), sizes_.num_kv_heads, sizes_.head_dim);
  const auto v = heads(sizes_.q_size() + sizes_.k_size(), sizes_.num_kv_heads, sizes_.value_dim);
  if (!head_norms_.empty()) {
    const HeadNorms& norms = head_norms_[static_cast<std::size_t>(index)];
    norms.q.apply(q);
    norms.k.apply(k);
  }
  const auto& rotations = sizes_.windows.is_local(index) ? local_rotations_ : rotations_;
  rotations.apply(q);
  rotations.apply(k);

  const auto start = Clock::now();
  const gqa::TensorView<float> out(attended_.data(), q.tokens, q.heads, sizes_.value_dim);
  attend(index, q, k, v, out);
  attention_time_ += Clock::now() - start;

  multiply(attended_, layer.attention_output.weight, layer.attention_output.bias, update_);
  add_update(layer.attention_post_norm);
}

/// What a part of a layer gives, on top of what was there.
void Forward::add_update(const Vector& post_norm) {
  if (post_norm.size() != 0) rms_norm(update_, post_norm, sizes_.rms_epsilon, update_);
  hidden_ += update_;
}

/// Gated linear units (Shazeer 2020): down(activation(gate(x)) * up(x)).
void Forward::feed_forward(const Layer& layer) {
  rms_norm(hidden_, layer.ffn_norm, sizes_.rms_epsilon, normed_);
  multiply(normed_, layer.gate_up.weight, layer.gate_up.bias, gate_up_);
  for (Index t = 0; t < gate_up_.rows(); ++t)
    activate(sizes_.architecture->activation, gate_up_.row(t).head(sizes_.ffn_dim),
             gate_up_.row(t).tail(sizes_.ffn_dim), activated_.row(t));
  multiply(activated_, layer.down.weight, layer.down.bias, update_);
  add_update(layer.ffn_post_norm);
}

}  // namespace generate
