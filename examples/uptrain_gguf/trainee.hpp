// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "attention_places.hpp"
#include "gqa/layer/attention_tape.hpp"
#include "products.hpp"
#include "vocabulary.hpp"

namespace uptrain_gguf {

using generate::TokenId;
using Matrix = uptrain::Matrix<float>;

/// A model of the llama architecture whose projections of attention are the caller's parameters, in the order
/// of AttentionPlaces: its loss, and that loss's gradient by them. All else of the model is what it is:
/// embedding, norms, biases, feed-forward layers and the output, which pass gradients on and get none.
class Trainee {
 public:
  /// The model must outlive it, and its weights be f32. Throws gqa::format_error for another architecture.
  Trainee(const generate::Model& model, gqa::PoolExecutor executor);

  const AttentionPlaces& places() const { return places_; }
  /// The parameters as the model has them.
  std::vector<float> parameters() const;

  /// The mean of -ln p(token | those before it) over all tokens of one sequence but the first. Throws
  /// std::invalid_argument for fewer than two tokens, for one that the model has not, and for parameters of
  /// another number.
  double loss(std::span<const float> parameters, std::span<const TokenId> tokens);

  /// The same, and adds `weight` times its gradient by each parameter to `gradient`.
  double loss_and_gradient(std::span<const float> parameters, std::span<const TokenId> tokens, float weight,
                           std::span<float> gradient);

 private:
  /// What the way back needs of a layer's forward pass.
  struct Kept {
    Matrix x1, x2, gate_up;
    Eigen::ArrayXf scale1, scale2;
    gqa::AttentionTape<> tape;
  };

  gqa::AttentionLayer<> attention(std::span<const float> parameters, Index layer) const;
  auto mask(Index layer) const;
  void multiply(const Matrix& x, const generate::Linear& layer, Matrix& y);
  /// dx = dy W
  void multiply_back(const Matrix& dy, const generate::WeightMatrix& weight, Matrix& dx);
  void resize(Index tokens);

  const generate::Model& model_;
  gqa::PoolExecutor executor_;
  AttentionPlaces places_;
  gqa::LayerMemory<> memory_;
  std::vector<Kept> kept_;
  std::vector<TokenId> targets_;
  Matrix x_, normed_, update_, hidden_, logits_, dx_, d_normed_, d_hidden_, d_gate_up_;
  Eigen::ArrayXf scale_;
  gqa::AttentionGradients<> gradients_;  // of one layer
};

}  // namespace uptrain_gguf
