// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "architecture.hpp"
#include "gguf.hpp"
#include "gqa/position/rope.hpp"

namespace generate {

/// The sizes and constants of a model.
struct Hyperparameters {
  const Architecture* architecture;
  std::string name;
  Index num_layers;
  Index context_length;
  Index model_dim;
  Index ffn_dim;
  Index num_q_heads;
  Index num_kv_heads;
  Index head_dim;
  Index value_dim;
  Index vocabulary_size;
  Index sliding_window;       ///< keys a query of a windowed layer may see, itself included
  gqa::LayerPattern windows;  ///< which layers those are; none where the model has no window
  double rms_epsilon;
  double attention_scale;            ///< multiplies queries times keys
  float embedding_scale;             ///< multiplies a token's row of the embedding
  gqa::RopeConfig rope, local_rope;  ///< of the windowed layers

  /// Keys a query of a layer may see, itself included.
  Index window(Index layer) const { return windows.is_local(layer) ? sliding_window : context_length; }
  bool has_windows() const { return windows.count_local(num_layers) > 0; }

  Index q_size() const { return num_q_heads * head_dim; }
  Index k_size() const { return num_kv_heads * head_dim; }
  Index v_size() const { return num_kv_heads * value_dim; }
  Index attention_size() const { return num_q_heads * value_dim; }
};

/// Checks what the metadata alone can tell: the architecture, and that no key says what this program does not
/// do. For Gguf's constructor, so that a model is refused for what it is before it is for how it is stored.
/// Throws gqa::format_error.
void check_metadata(const Gguf& file);

/// Reads and checks them, the metadata included. Throws gqa::format_error naming the architecture, the key or
/// the value that this program does not support: a key it does not know could change what the model computes.
Hyperparameters read_hyperparameters(const Gguf& file);

}  // namespace generate
