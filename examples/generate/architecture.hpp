// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "gqa/core/shape.hpp"
#include "gqa/mask/layer_pattern.hpp"
#include "gqa/position/rotate.hpp"
#include "known_keys.hpp"

namespace generate {

using gqa::Index;

/// What the gate of the feed-forward layer goes through before it multiplies.
enum class Activation {
  silu,       ///< x / (1 + e^-x): SwiGLU (Shazeer 2020)
  gelu_tanh,  ///< x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))): GeGLU with GELU's tanh form
};

/// All in which one architecture differs from the others and that no key of its files says. What is common to
/// them: RMS normalisation, rotary embedding, gated feed-forward layers, and biases where a file has them.
struct Architecture {
  std::string_view name;          ///< general.architecture; the namespace of its keys
  gqa::RopeLayout rope_layout;    ///< that the rows of the query and key projections are in
  bool qkv_bias = false;          ///< the projections of queries, keys and values must have biases
  bool qk_norm = false;           ///< queries and keys are normalised before they are rotated
  bool post_norms = false;        ///< what attention and feed-forward give is normalised before it is added
  bool scaled_embedding = false;  ///< by the square root of the model's dimension
  Activation activation = Activation::silu;  ///< of the feed-forward layer's gate
  gqa::LayerPattern windows = {1, 0};        ///< the layers that a sliding window is for, if there is one
  double local_theta = 0;                    ///< of their rotation, which has no scaling; 0: as the others'
  Index share_scaled_layers = 0;  ///< with so many layers the scale is 1 / sqrt(model_dim / num_q_heads)
  std::span<const KnownKey> more_keys = {};  ///< beside those that all have
};

/// Throws gqa::format_error for one that this program does not know.
const Architecture& find_architecture(std::string_view name);

/// The keys that every architecture has.
std::span<const KnownKey> common_keys();

}  // namespace generate
