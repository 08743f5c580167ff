// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <span>
#include <vector>

#include "gqa/core/parallel.hpp"
#include "gqa/core/tensor.hpp"
#include "gqa/layer/attention_layer.hpp"
#include "model.hpp"
#include "vocabulary.hpp"

namespace generate {

/// What attention does in one layer: keeps the keys and values of the tokens fed, and writes what the queries
/// see of all there are to `out`, tokens x num_q_heads x value_dim. Queries and keys are turned to their
/// positions already.
using Attend = std::function<void(Index layer, const gqa::TensorView<const float>& q,
                                  const gqa::TensorView<const float>& k,
                                  const gqa::TensorView<const float>& v, const gqa::TensorView<float>& out)>;

/// Called with what the query, key and value projections of a layer read: a row a token, after the layer's
/// norm.
using Watch = std::function<void(Index layer, const Matrix& inputs)>;

/// A layer's attention, projections and all, done by the caller: `outputs` of what the layer's norm gives.
using Substitute = std::function<void(Index layer, const Matrix& inputs, Matrix& outputs)>;

/// Heads, scale, norms and rotation of a layer's attention.
gqa::AttentionLayerConfig attention_config(const Layer& layer, const Hyperparameters& sizes, Index index);

/// A model without its memory: from token ids to hidden states and scores. The tokens of one pass may belong
/// to any sequences: where their keys and values are is the attention's business. No bit of a token's result
/// depends on what else is fed with it.
class Forward {
 public:
  /// The model must outlive it.
  Forward(const Model& model, gqa::PoolExecutor executor);

  /// Throws std::invalid_argument for an id that is no token of the model.
  void check(std::span<const TokenId> tokens) const;

  /// Feeds tokens, each at its position.
  void run(std::span<const TokenId> tokens, std::span<const Index> positions, const Attend& attend,
           const Watch& watch = {});
  /// With other attention than the model's own.
  void run(std::span<const TokenId> tokens, const Substitute& attention);

  /// The scores of every token of the vocabulary as the next one after each of the given tokens of the last
  /// pass: a row each, valid until the next call.
  const Matrix& logits(std::span<const Index> tokens);
  /// After its last `count` tokens.
  const Matrix& last_logits(Index count);

  Index num_tokens() const { return hidden_.rows(); }  ///< of the last pass
  double attention_seconds() const { return std::chrono::duration<double>(attention_time_).count(); }
  const Hyperparameters& sizes() const { return sizes_; }

 private:
  using Clock = std::chrono::steady_clock;

  template <class F>
  void run_layers(std::span<const TokenId> tokens, F&& attention);
  void resize(Index n);
  void multiply(const Matrix& x, const gqa::Projection& layer, Matrix& y);
  void attention(Index index, std::span<const Index> positions, const Attend& attend, const Watch& watch);
  void feed_forward(const Layer& layer);
  void add_update(const Vector& post_norm);

  const Model& model_;
  const Hyperparameters& sizes_;
  gqa::PoolExecutor executor_;
  std::vector<gqa::AttentionLayer<>> attention_;  ///< of each layer
  gqa::LayerMemory<> memory_;
  Matrix hidden_, normed_, update_, gate_up_, activated_, logits_;
  Clock::duration attention_time_{};
};

}  // namespace generate
