// SPDX-License-Identifier: Apache-2.0
#include "forward.hpp"

#include <cmath>
#include <numeric>
#include <optional>
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

gqa::Projection projection(const WeightMatrix& weight, const Vector& bias) {
  return {weight.view(), bias.size() == 0 ? gqa::VectorView() : gqa::VectorView(bias)};
}
gqa::Projection projection(const Linear& layer) { return projection(layer.weight, layer.bias); }

std::optional<gqa::QKNorm> head_norm(const Vector& weights, double epsilon) {
  if (weights.size() == 0) return std::nullopt;
  return gqa::QKNorm(gqa::NormWeights::plain,
                     std::span(weights.data(), static_cast<std::size_t>(weights.size())), epsilon);
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

gqa::AttentionLayerConfig attention_config(const Layer& layer, const Hyperparameters& sizes, Index index) {
  return {.num_q_heads = sizes.num_q_heads,
          .num_kv_heads = sizes.num_kv_heads,
          .head_dim = sizes.head_dim,
          .value_dim = sizes.value_dim,
          .scale = sizes.attention_scale,
          .q_norm = head_norm(layer.q_norm, sizes.rms_epsilon),
          .k_norm = head_norm(layer.k_norm, sizes.rms_epsilon),
          .rope = gqa::Rope(sizes.windows.is_local(index) ? sizes.local_rope : sizes.rope)};
}

Forward::Forward(const Model& model, gqa::PoolExecutor executor)
    : model_(model), sizes_(model.sizes), executor_(executor) {
  for (Index i = 0; i < sizes_.num_layers; ++i) {
    const Layer& layer = model.layers[static_cast<std::size_t>(i)];
    attention_.push_back({{.output = projection(layer.attention_output), .qkv = projection(layer.qkv)},
                          attention_config(layer, sizes_, i)});
  }
}

void Forward::check(std::span<const TokenId> tokens) const {
  for (const TokenId id : tokens) {
    GQA_CHECK(id >= 0 && id < sizes_.vocabulary_size, std::invalid_argument,
              "token id " << id << ", expected 0 to " << sizes_.vocabulary_size - 1);
  }
}

template <class F>
void Forward::run_layers(std::span<const TokenId> tokens, F&& attention) {
  check(tokens);
  resize(std::ssize(tokens));
  for (Index t = 0; t < num_tokens(); ++t)
    model_.embedding.read_row(tokens[static_cast<std::size_t>(t)],
                              {&hidden_(t, 0), static_cast<std::size_t>(hidden_.cols())});
  if (sizes_.embedding_scale != 1) hidden_ *= sizes_.embedding_scale;
  for (Index i = 0; i < sizes_.num_layers; ++i) {
    const Layer& layer = model_.layers[static_cast<std::size_t>(i)];
    rms_norm(hidden_, layer.attention_norm, sizes_.rms_epsilon, normed_);
    attention(i);
    add_update(layer.attention_post_norm);
    feed_forward(layer);
  }
}

void Forward::run(std::span<const TokenId> tokens, std::span<const Index> positions, const Attend& attend,
                  const Watch& watch) {
  run_layers(tokens, [&](Index i) { attention(i, positions, attend, watch); });
}

void Forward::run(std::span<const TokenId> tokens, const Substitute& attention) {
  run_layers(tokens, [&](Index i) {
    const auto start = Clock::now();
    attention(i, normed_, update_);
    attention_time_ += Clock::now() - start;
  });
}

const Matrix& Forward::logits(std::span<const Index> tokens) {
  const Index count = std::ssize(tokens);
  logits_.resize(count, sizes_.vocabulary_size);
  Matrix rows(count, sizes_.model_dim);
  for (Index i = 0; i < count; ++i) rows.row(i) = hidden_.row(tokens[static_cast<std::size_t>(i)]);
  rms_norm(rows, model_.output_norm, sizes_.rms_epsilon, rows);
  multiply(rows, projection(model_.output(), model_.separate_output.bias), logits_);
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
  gate_up_.resize(n, 2 * sizes_.ffn_dim);
  activated_.resize(n, sizes_.ffn_dim);
}

/// y <- x W^T + b
void Forward::multiply(const Matrix& x, const gqa::Projection& layer, Matrix& y) {
  gqa::linear(executor_, x, layer.weight, layer.bias, y, {.workspace = &memory_.workspace()});
}

void Forward::attention(Index index, std::span<const Index> positions, const Attend& attend,
                        const Watch& watch) {
  if (watch) watch(index, normed_);
  attention_[static_cast<std::size_t>(index)].run(executor_, memory_, normed_, positions, update_,
                                                  [&](const auto& heads, const auto& out) {
                                                    const auto start = Clock::now();
                                                    attend(index, heads.q, heads.k, heads.v, out);
                                                    attention_time_ += Clock::now() - start;
                                                  });
}

/// What a part of a layer gives, on top of what was there.
void Forward::add_update(const Vector& post_norm) {
  if (post_norm.size() != 0) rms_norm(update_, post_norm, sizes_.rms_epsilon, update_);
  hidden_ += update_;
}

/// Gated linear units (Shazeer 2020): down(activation(gate(x)) * up(x)).
void Forward::feed_forward(const Layer& layer) {
  rms_norm(hidden_, layer.ffn_norm, sizes_.rms_epsilon, normed_);
  multiply(normed_, projection(layer.gate_up), gate_up_);
  for (Index t = 0; t < gate_up_.rows(); ++t)
    activate(sizes_.architecture->activation, gate_up_.row(t).head(sizes_.ffn_dim),
             gate_up_.row(t).tail(sizes_.ffn_dim), activated_.row(t));
  multiply(activated_, projection(layer.down), update_);
  add_update(layer.ffn_post_norm);
}

}  // namespace generate
