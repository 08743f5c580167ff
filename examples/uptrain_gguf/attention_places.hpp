// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "model.hpp"

namespace uptrain_gguf {

using gqa::Index;

/// Where the weights of a model's attention lie in one vector of them. A matrix is outputs x inputs, row
/// after row; in each layer the projections of queries, keys and values stand one below the other, and then
/// that of the output.
class AttentionPlaces {
 public:
  struct Layer {
    Index q, k, v, output;
  };

  explicit AttentionPlaces(const generate::Hyperparameters& sizes) {
    const auto take = [&](Index rows, Index columns) {
      const Index at = size;
      size = gqa::checked_add(size, gqa::checked_mul(rows, columns, "weights"), "weights");
      return at;
    };
    for (Index l = 0; l < sizes.num_layers; ++l) {
      Layer layer{};
      layer.q = take(sizes.q_size(), sizes.model_dim);
      layer.k = take(sizes.k_size(), sizes.model_dim);
      layer.v = take(sizes.v_size(), sizes.model_dim);
      layer.output = take(sizes.model_dim, sizes.attention_size());
      layers.push_back(layer);
    }
  }

  std::vector<Layer> layers;
  Index size = 0;
};

}  // namespace uptrain_gguf
