// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <functional>
#include <vector>

#include "gguf.hpp"
#include "gqa/core/parallel.hpp"
#include "hyperparameters.hpp"

namespace generate {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Vector = Eigen::Matrix<float, 1, Eigen::Dynamic, Eigen::RowMajor>;

/// y = W x + b; a row of W for each output. The bias is empty where the model has none.
struct Linear {
  Matrix weight;
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

/// A model's weights as f32, whatever the file stores: every value is exactly what the file's format defines.
struct Model {
  Hyperparameters sizes;
  Matrix embedding;  ///< vocabulary x model_dim
  std::vector<Layer> layers;
  Vector output_norm;
  Linear separate_output;  ///< empty where the output layer shares the embedding's matrix

  /// Reads the weights of a file. Throws gqa::format_error when a tensor is missing, of another shape than
  /// the hyper-parameters say, or unknown: what this program does not use, the model was not meant to do
  /// without.
  Model(const Gguf& file, gqa::PoolExecutor executor, const Progress& progress = {});

  const Matrix& output() const {
    return separate_output.weight.size() == 0 ? embedding : separate_output.weight;
  }
  std::size_t bytes() const { return num_weights * sizeof(float); }

  std::size_t num_weights = 0;
};

}  // namespace generate
