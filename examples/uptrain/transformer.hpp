// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "batch.hpp"
#include "gqa/attention.hpp"
#include "gqa/attention_backward.hpp"
#include "gqa/mask.hpp"
#include "gqa/position/rope_table.hpp"
#include "products.hpp"
#include "shape.hpp"

namespace uptrain {

/// A causal transformer over symbols, and the gradient of its loss: RMSNorm before each block (pre-norm),
/// rotary embedding, grouped-query attention in which query head h reads KV head h / (H / G), SwiGLU, no
/// biases. Parameters are the caller's, in the order of Places; all the rest it needs it keeps from call to
/// call.
///
///     x = embedding[symbols];  for each layer:  x += Wo attention(rope(Wq n), rope(Wk n), Wv n), n = norm(x)
///                                               x += Wd swiglu(Wg n, Wu n),                      n = norm(x)
///     loss = cross_entropy(Wh norm(x), next symbols)
template <class T>
class Transformer {
 public:
  explicit Transformer(const Shape& shape);

  const Shape& shape() const { return shape_; }
  const Places& places() const { return places_; }

  /// The mean loss over a batch's symbols, in nats.
  double loss(std::span<const T> parameters, const Batch& batch);

  /// The same, and `gradient`, of the parameters' size, becomes its gradient by each parameter.
  double loss_and_gradient(std::span<const T> parameters, const Batch& batch, std::span<T> gradient);

  /// What the projections of a layer's attention read in the last call: symbols x width.
  const Matrix<T>& attention_input(Index layer) const { return layers_[static_cast<std::size_t>(layer)].n1; }

 private:
  /// What the backward pass needs of a layer's forward pass.
  struct Layer {
    Matrix<T> x1, n1, qkv, attended, x2, n2, gate_up, hidden;
    Eigen::ArrayX<T> scale1, scale2, lse;
  };

  void resize(Index sequences);
  void attention_forward(Layer& layer);
  /// Turns `d_attended_` into `d_qkv_`.
  void attention_backward(const Layer& layer);

  /// Heads of the fused queries, keys and values of all sequences.
  template <class E>
  gqa::TensorView<E> heads(E* qkv, Index first, Index count) const {
    const Index D = shape_.head_dim(), row = shape_.qkv_width();
    return {qkv + first * D, {sequences_, shape_.context, count, D}, {shape_.context * row, row, D}};
  }
  template <class E>
  gqa::TensorView<E> packed_heads(E* x) const {
    return {x, sequences_, shape_.context, shape_.num_q_heads, shape_.head_dim()};
  }
  template <class E>
  gqa::RowsView<E> rows(E* lse) const {
    const Index H = shape_.num_q_heads;
    return {lse, sequences_, shape_.context, H, shape_.context * H, H, 1};
  }

  Shape shape_;
  Places places_;
  gqa::RopeTable<T> rope_;
  gqa::Workspace workspace_;
  Index sequences_ = 0;
  std::vector<Layer> layers_;
  Matrix<T> x_, normed_, logits_, product_, dx_, d_normed_, d_qkv_, d_attended_, d_gate_up_, d_hidden_;
  Eigen::ArrayX<T> scale_;
};

extern template class Transformer<float>;

}  // namespace uptrain
