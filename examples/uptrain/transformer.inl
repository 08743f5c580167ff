// SPDX-License-Identifier: Apache-2.0
// The definitions of transformer.hpp, for those who instantiate it.
#include "cross_entropy.hpp"
#include "rms_norm.hpp"
#include "swiglu.hpp"
#include "transformer.hpp"

namespace uptrain {

template <class T>
Transformer<T>::Transformer(const Shape& shape)
    : shape_(shape),
      places_(shape),
      rope_(gqa::Rope({.layout = gqa::RopeLayout::half, .head_dim = shape.head_dim(), .theta = shape.theta}),
            gqa::Range{0, shape.context}),
      layers_(static_cast<std::size_t>(shape.layers)) {}

template <class T>
void Transformer<T>::resize(Index sequences) {
  if (sequences == sequences_) return;
  sequences_ = sequences;
  const Index tokens = gqa::checked_mul(sequences, shape_.context, "batch"), width = shape_.width;
  for (Layer& layer : layers_) {
    for (Matrix<T>* x : {&layer.x1, &layer.n1, &layer.attended, &layer.x2, &layer.n2})
      x->resize(tokens, width);
    layer.qkv.resize(tokens, shape_.qkv_width());
    layer.gate_up.resize(tokens, 2 * shape_.hidden);
    layer.hidden.resize(tokens, shape_.hidden);
    layer.scale1.resize(tokens);
    layer.scale2.resize(tokens);
    layer.lse.resize(tokens * shape_.num_q_heads);
  }
  for (Matrix<T>* x : {&x_, &normed_, &product_, &dx_, &d_normed_, &d_attended_}) x->resize(tokens, width);
  d_qkv_.resize(tokens, shape_.qkv_width());
  d_gate_up_.resize(tokens, 2 * shape_.hidden);
  d_hidden_.resize(tokens, shape_.hidden);
  logits_.resize(tokens, shape_.vocabulary);
  scale_.resize(tokens);
}

template <class T>
void Transformer<T>::attention_forward(Layer& layer) {
  const Index H = shape_.num_q_heads, G = shape_.num_kv_heads;
  T* const qkv = layer.qkv.data();
  rope_.apply(heads(qkv, 0, H + G), 0);
  gqa::attention(heads<const T>(qkv, 0, H), heads<const T>(qkv, H, G), heads<const T>(qkv, H + G, G),
                 packed_heads(layer.attended.data()), gqa::causal(), gqa::lse_into(rows(layer.lse.data())),
                 gqa::AttentionOptions{.workspace = &workspace_});
}

template <class T>
void Transformer<T>::attention_backward(const Layer& layer) {
  const Index H = shape_.num_q_heads, G = shape_.num_kv_heads;
  const T* const qkv = layer.qkv.data();
  T* const d_qkv = d_qkv_.data();
  auto dq = heads(d_qkv, 0, H), dk = heads(d_qkv, H, G), dv = heads(d_qkv, H + G, G);
  gqa::attention_backward(heads(qkv, 0, H), heads(qkv, H, G), heads(qkv, H + G, G),
                          packed_heads(layer.attended.data()), rows(layer.lse.data()),
                          packed_heads<const T>(d_attended_.data()), gqa::gradients_into(dq, dk, dv),
                          gqa::causal(), gqa::AttentionOptions{.workspace = &workspace_});
  rope_.apply_transpose(heads(d_qkv, 0, H + G), 0);
}

template <class T>
double Transformer<T>::loss(std::span<const T> parameters, const Batch& batch) {
  GQA_CHECK(static_cast<Index>(parameters.size()) == places_.size, std::invalid_argument,
            "parameters: size is " << parameters.size() << ", expected " << places_.size);
  resize(batch.sequences);
  const T* const p = parameters.data();
  const Index width = shape_.width;
  const ConstMatrixMap<T> embedding(p + places_.embedding, shape_.vocabulary, width);
  for (Index t = 0; t < x_.rows(); ++t) x_.row(t) = embedding.row(batch.inputs[static_cast<std::size_t>(t)]);
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    Layer& layer = layers_[l];
    const Places::Layer& at = places_.layers[l];
    layer.x1 = x_;
    rms_norm(layer.x1, p + at.attention_norm, layer.scale1, layer.n1);
    multiply(layer.n1, ConstMatrixMap<T>(p + at.qkv, shape_.qkv_width(), width), layer.qkv, workspace_);
    attention_forward(layer);
    multiply(layer.attended, ConstMatrixMap<T>(p + at.out, width, width), product_, workspace_);
    x_ += product_;
    layer.x2 = x_;
    rms_norm(layer.x2, p + at.feed_forward_norm, layer.scale2, layer.n2);
    multiply(layer.n2, ConstMatrixMap<T>(p + at.gate_up, 2 * shape_.hidden, width), layer.gate_up,
             workspace_);
    swiglu(layer.gate_up, layer.hidden);
    multiply(layer.hidden, ConstMatrixMap<T>(p + at.down, width, shape_.hidden), product_, workspace_);
    x_ += product_;
  }
  rms_norm(x_, p + places_.final_norm, scale_, normed_);
  multiply(normed_, ConstMatrixMap<T>(p + places_.head, shape_.vocabulary, width), logits_, workspace_);
  return cross_entropy(logits_, batch.targets);
}

template <class T>
double Transformer<T>::loss_and_gradient(std::span<const T> parameters, const Batch& batch,
                                         std::span<T> gradient) {
  const double result = loss(parameters, batch);
  GQA_CHECK(gradient.size() == parameters.size(), std::invalid_argument,
            "gradient: size is " << gradient.size() << ", expected " << parameters.size());
  const T* const p = parameters.data();
  T* const d = gradient.data();
  const Index width = shape_.width;
  // Of y = x W^T with the weight at `at`.
  const auto backward = [&](const Matrix<T>& x, Index at, const Matrix<T>& dy, Matrix<T>& dx) {
    multiply_backward(x, ConstMatrixMap<T>(p + at, dy.cols(), x.cols()), dy, dx,
                      MatrixMap<T>(d + at, dy.cols(), x.cols()), workspace_);
  };
  cross_entropy_backward(logits_, batch.targets);
  backward(normed_, places_.head, logits_, d_normed_);
  dx_.setZero();
  rms_norm_backward(x_, p + places_.final_norm, scale_, d_normed_, dx_, d + places_.final_norm);
  for (std::size_t l = layers_.size(); l-- > 0;) {
    const Layer& layer = layers_[l];
    const Places::Layer& at = places_.layers[l];
    backward(layer.hidden, at.down, dx_, d_hidden_);
    swiglu_backward(layer.gate_up, d_hidden_, d_gate_up_);
    backward(layer.n2, at.gate_up, d_gate_up_, d_normed_);
    rms_norm_backward(layer.x2, p + at.feed_forward_norm, layer.scale2, d_normed_, dx_,
                      d + at.feed_forward_norm);
    backward(layer.attended, at.out, dx_, d_attended_);
    attention_backward(layer);
    backward(layer.n1, at.qkv, d_qkv_, d_normed_);
    rms_norm_backward(layer.x1, p + at.attention_norm, layer.scale1, d_normed_, dx_, d + at.attention_norm);
  }
  MatrixMap<T> d_embedding(d + places_.embedding, shape_.vocabulary, width);
  d_embedding.setZero();
  for (Index t = 0; t < dx_.rows(); ++t)
    d_embedding.row(batch.inputs[static_cast<std::size_t>(t)]) += dx_.row(t);
  return result;
}

}  // namespace uptrain
