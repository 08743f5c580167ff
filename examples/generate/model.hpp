// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gguf.hpp"
#include "gqa/core/parallel.hpp"
#include "hyperparameters.hpp"
#include "weight_matrix.hpp"

namespace generate {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Vector = Eigen::Matrix<float, 1, Eigen::Dynamic, Eigen::RowMajor>;

/// y = W x + b; a row of W for each output. The bias is empty where the model has none.
struct Linear {
  WeightMatrix weight;
  Vector bias;
};

/// Norms are empty where the architecture has none.
struct Layer {
  Vector attention_norm;
  Linear qkv;  ///< query, key and value projections in one: they read the same input
  Vector q_norm, k_norm;
  Linear attention_output;
  Vector attention_post_norm;
  Vector ffn_norm;
  Linear gate_up;  ///< both multiply the same input too
  Linear down;
  Vector ffn_post_norm;
};

/// Called during long work with how much is done: 0 to 1.
using Progress = std::function<void(double)>;

/// How a file's weights are to be read.
struct LoadOptions {
  std::optional<WeightType> weights = {};  ///< of all linear layers; none: each by its types, see kept_as()
  Progress progress = {};
  /// Told which bytes of the file are not read again: their memory may be had back. Called from any thread.
  std::function<void(std::span<const std::byte>)> done_with = {};
};

/// A model's weights: norms and biases as f32, every value exactly what the file's format defines; those of
/// linear layers rounded to what they are kept as.
struct Model {
  Hyperparameters sizes;
  WeightMatrix embedding;  ///< vocabulary x model_dim
  std::vector<Layer> layers;
  Vector output_norm;
  Linear separate_output;  ///< empty where the output layer shares the embedding's matrix

  /// Reads the weights of a file. Throws gqa::format_error when a tensor is missing, of another shape than
  /// the hyper-parameters say, unknown (what this program does not use, the model was not meant to do
  /// without), or holds a value that is too large for what it is to be kept as.
  Model(const Gguf& file, gqa::PoolExecutor executor, const LoadOptions& options = {});

  const WeightMatrix& output() const {
    return separate_output.weight.empty() ? embedding : separate_output.weight;
  }

  std::size_t num_weights = 0;
  std::size_t bytes = 0;     ///< of all weights
  std::string weight_types;  ///< what those of linear layers are kept as: "f16", "f32 and f16"

 private:
  void sum_up();
};

}  // namespace generate
