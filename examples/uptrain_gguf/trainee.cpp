// SPDX-License-Identifier: Apache-2.0
#include "trainee.hpp"

#include <algorithm>
#include <string_view>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "cross_entropy.hpp"
#include "forward.hpp"
#include "gqa/core/error.hpp"
#include "gqa/mask.hpp"
#include "rms_norm.hpp"
#include "swiglu.hpp"

namespace uptrain_gguf {
namespace {

/// `count` rows of the attention's fused projection, from `first` on.
void copy_rows(const generate::WeightMatrix& from, Index first, Index count, float* to) {
  for (Index i = 0; i < count; ++i, to += from.columns())
    from.read_row(first + i, {to, static_cast<std::size_t>(from.columns())});
}

gqa::VectorView part(const generate::Vector& bias, Index first, Index count) {
  return bias.size() == 0 ? gqa::VectorView() : gqa::VectorView(bias.segment(first, count));
}

}  // namespace

Trainee::Trainee(const generate::Model& model, gqa::PoolExecutor executor)
    : model_(model),
      executor_(executor),
      places_(model.sizes),
      kept_(static_cast<std::size_t>(model.sizes.num_layers)) {
  const std::string_view architecture = model.sizes.architecture->name;
  GQA_CHECK(architecture == "llama", gqa::format_error,
            "the architecture " << architecture << " is not supported (llama is)");
}

std::vector<float> Trainee::parameters() const {
  std::vector<float> parameters(static_cast<std::size_t>(places_.size));
  const generate::Hyperparameters& sizes = model_.sizes;
  for (std::size_t l = 0; l < kept_.size(); ++l) {
    float* const to = parameters.data();
    copy_rows(model_.layers[l].qkv.weight, 0, sizes.q_size() + sizes.k_size() + sizes.v_size(),
              to + places_.layers[l].q);
    copy_rows(model_.layers[l].attention_output.weight, 0, sizes.model_dim, to + places_.layers[l].output);
  }
  return parameters;
}

gqa::AttentionLayer<> Trainee::attention(std::span<const float> parameters, Index index) const {
  const generate::Hyperparameters& sizes = model_.sizes;
  const generate::Layer& layer = model_.layers[static_cast<std::size_t>(index)];
  const AttentionPlaces::Layer& at = places_.layers[static_cast<std::size_t>(index)];
  const auto matrix = [&](Index place, Index rows, Index columns) {
    return gqa::MatrixView(parameters.data() + place, rows, columns);
  };
  const Index q = sizes.q_size(), k = sizes.k_size(), v = sizes.v_size(), width = sizes.model_dim;
  return {{.q = {matrix(at.q, q, width), part(layer.qkv.bias, 0, q)},
           .k = {matrix(at.k, k, width), part(layer.qkv.bias, q, k)},
           .v = {matrix(at.v, v, width), part(layer.qkv.bias, q + k, v)},
           .output = {matrix(at.output, width, sizes.attention_size()),
                      part(layer.attention_output.bias, 0, width)}},
          generate::attention_config(layer, sizes, index)};
}

auto Trainee::mask(Index layer) const {
  return gqa::causal() & gqa::sliding_window(model_.sizes.window(layer));
}

void Trainee::multiply(const Matrix& x, const generate::Linear& layer, Matrix& y) {
  const auto bias = layer.bias.size() == 0 ? gqa::VectorView() : gqa::VectorView(layer.bias);
  gqa::linear(executor_, x, layer.weight.view(), bias, y, {.workspace = &memory_.workspace()});
}

void Trainee::multiply_back(const Matrix& dy, const generate::WeightMatrix& weight, Matrix& dx) {
  gqa::linear(executor_, dy, weight.view().transposed(), dx, {.workspace = &memory_.workspace()});
}

void Trainee::resize(Index tokens) {
  if (x_.rows() == tokens) return;
  const Index width = model_.sizes.model_dim, hidden = model_.sizes.ffn_dim;
  for (Kept& kept : kept_) {
    kept.x1.resize(tokens, width);
    kept.x2.resize(tokens, width);
    kept.gate_up.resize(tokens, 2 * hidden);
    kept.scale1.resize(tokens);
    kept.scale2.resize(tokens);
  }
  for (Matrix* x : {&x_, &normed_, &update_, &dx_, &d_normed_}) x->resize(tokens, width);
  hidden_.resize(tokens, hidden);
  d_hidden_.resize(tokens, hidden);
  d_gate_up_.resize(tokens, 2 * hidden);
  logits_.resize(tokens, model_.sizes.vocabulary_size);
  scale_.resize(tokens);
}

double Trainee::loss(std::span<const float> parameters, std::span<const TokenId> tokens) {
  const generate::Hyperparameters& sizes = model_.sizes;
  GQA_CHECK(static_cast<Index>(parameters.size()) == places_.size, std::invalid_argument,
            "parameters: size is " << parameters.size() << ", expected " << places_.size);
  GQA_CHECK(tokens.size() >= 2, std::invalid_argument,
            "tokens: size is " << tokens.size() << ", expected at least 2");
  for (const TokenId id : tokens)
    GQA_CHECK(id >= 0 && id < sizes.vocabulary_size, std::invalid_argument,
              "token id " << id << ", expected 0 to " << sizes.vocabulary_size - 1);
  targets_.assign(tokens.begin() + 1, tokens.end());
  resize(std::ssize(targets_));
  for (Index t = 0; t < x_.rows(); ++t)
    model_.embedding.read_row(tokens[static_cast<std::size_t>(t)],
                              {&x_(t, 0), static_cast<std::size_t>(x_.cols())});
  for (Index l = 0; l < sizes.num_layers; ++l) {
    const generate::Layer& layer = model_.layers[static_cast<std::size_t>(l)];
    Kept& kept = kept_[static_cast<std::size_t>(l)];
    kept.x1 = x_;
    uptrain::rms_norm(kept.x1, layer.attention_norm.data(), kept.scale1, normed_, sizes.rms_epsilon);
    kept.tape.forward(executor_, attention(parameters, l), memory_, normed_, update_, mask(l));
    x_ += update_;
    kept.x2 = x_;
    uptrain::rms_norm(kept.x2, layer.ffn_norm.data(), kept.scale2, normed_, sizes.rms_epsilon);
    multiply(normed_, layer.gate_up, kept.gate_up);
    uptrain::swiglu(kept.gate_up, hidden_);
    multiply(hidden_, layer.down, update_);
    x_ += update_;
  }
  uptrain::rms_norm(x_, model_.output_norm.data(), scale_, normed_, sizes.rms_epsilon);
  const auto& bias = model_.separate_output.bias;
  gqa::linear(executor_, normed_, model_.output().view(),
              bias.size() == 0 ? gqa::VectorView() : gqa::VectorView(bias), logits_,
              {.workspace = &memory_.workspace()});
  return uptrain::cross_entropy(logits_, targets_);
}

double Trainee::loss_and_gradient(std::span<const float> parameters, std::span<const TokenId> tokens,
                                  float weight, std::span<float> gradient) {
  GQA_CHECK(gradient.size() == parameters.size(), std::invalid_argument,
            "gradient: size is " << gradient.size() << ", expected " << parameters.size());
  const double result = loss(parameters, tokens);
  uptrain::cross_entropy_backward(logits_, targets_, weight);
  multiply_back(logits_, model_.output(), d_normed_);
  dx_.setZero();
  uptrain::rms_norm_backward<float>(x_, model_.output_norm.data(), scale_, d_normed_, dx_, nullptr);
  const auto add = [&](const gqa::GradientMatrix<float>& d, Index at) {
    float* const to = gradient.data() + at;
    for (std::size_t i = 0; i < d.values().size(); ++i) to[i] += d.values()[i];
  };
  for (Index l = model_.sizes.num_layers; l-- > 0;) {
    const generate::Layer& layer = model_.layers[static_cast<std::size_t>(l)];
    const AttentionPlaces::Layer& at = places_.layers[static_cast<std::size_t>(l)];
    Kept& kept = kept_[static_cast<std::size_t>(l)];
    multiply_back(dx_, layer.down.weight, d_hidden_);
    uptrain::swiglu_backward(kept.gate_up, d_hidden_, d_gate_up_);
    multiply_back(d_gate_up_, layer.gate_up.weight, d_normed_);
    uptrain::rms_norm_backward<float>(kept.x2, layer.ffn_norm.data(), kept.scale2, d_normed_, dx_, nullptr);
    kept.tape.backward(executor_, attention(parameters, l), memory_, dx_, gradients_, mask(l));
    add(gradients_.q, at.q);
    add(gradients_.k, at.k);
    add(gradients_.v, at.v);
    add(gradients_.output, at.output);
    d_normed_ = gradients_.x.map();
    uptrain::rms_norm_backward<float>(kept.x1, layer.attention_norm.data(), kept.scale1, d_normed_, dx_,
                                      nullptr);
  }
  return result;
}

}  // namespace uptrain_gguf
