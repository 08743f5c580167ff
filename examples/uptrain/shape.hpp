// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <vector>

#include "gqa/core/error.hpp"
#include "gqa/core/shape.hpp"

namespace uptrain {

using gqa::Index;

/// The sizes of a transformer.
struct Shape {
  Index vocabulary = 0;  ///< symbols
  Index layers = 5;
  Index width = 128;  ///< num_q_heads x head_dim
  Index num_q_heads = 8;
  Index num_kv_heads = 8;
  Index hidden = 384;   ///< of the feed-forward network
  Index context = 64;   ///< symbols of a sequence
  double theta = 1000;  ///< of the rotary embedding: its slowest pair turns once in about 6 contexts

  Index head_dim() const { return width / num_q_heads; }
  Index kv_width() const { return num_kv_heads * head_dim(); }
  /// Queries, keys and values of a token, side by side.
  Index qkv_width() const { return width + 2 * kv_width(); }
  /// What a KV cache holds for one token of all layers.
  Index cache_elements() const { return layers * 2 * kv_width(); }

  Shape with_kv_heads(Index count) const {
    Shape shape = *this;
    shape.num_kv_heads = count;
    return shape;
  }

  /// Throws std::invalid_argument naming the size that is wrong.
  void check() const {
    const auto positive = [](const char* name, Index is) {
      GQA_CHECK(is > 0, std::invalid_argument, name << " is " << is << ", expected at least 1");
    };
    positive("vocabulary", vocabulary);
    positive("layers", layers);
    positive("width", width);
    positive("heads", num_q_heads);
    positive("KV heads", num_kv_heads);
    positive("hidden", hidden);
    positive("context", context);
    GQA_CHECK(
        width % (2 * num_q_heads) == 0, std::invalid_argument,
        "width is " << width << ", expected an even number for each of the " << num_q_heads << " heads");
    GQA_CHECK(num_q_heads % num_kv_heads == 0, std::invalid_argument,
              "heads is " << num_q_heads << ", expected a multiple of the " << num_kv_heads << " KV heads");
  }
};

/// Where the parameters of a model lie in one vector of them. A matrix is outputs x inputs, row after row.
class Places {
 public:
  struct Layer {
    Index attention_norm, feed_forward_norm;  // gains
    Index qkv;                                // projections of queries, keys and values, one below the other
    Index out;                                // of attention
    Index gate_up;                            // the gate's rows above those of what it lets through
    Index down;
  };

  explicit Places(const Shape& shape) {
    shape.check();
    const auto take = [&](Index rows, Index columns) {
      const Index at = size;
      size = gqa::checked_add(size, gqa::checked_mul(rows, columns, "parameters"), "parameters");
      return at;
    };
    for (Index l = 0; l < shape.layers; ++l) {
      Layer layer{};
      layer.attention_norm = take(1, shape.width);
      layer.feed_forward_norm = take(1, shape.width);
      layers.push_back(layer);
    }
    final_norm = take(1, shape.width);
    matrices = size;
    embedding = take(shape.vocabulary, shape.width);
    for (Layer& layer : layers) {
      layer.qkv = take(shape.qkv_width(), shape.width);
      layer.out = take(shape.width, shape.width);
      layer.gate_up = take(2 * shape.hidden, shape.width);
      layer.down = take(shape.width, shape.hidden);
    }
    head = take(shape.vocabulary, shape.width);
  }

  std::vector<Layer> layers;
  Index final_norm = 0, embedding = 0, head = 0;
  Index matrices = 0;  ///< where gains end and matrices begin
  Index size = 0;
};

}  // namespace uptrain
