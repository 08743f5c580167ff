// SPDX-License-Identifier: Apache-2.0
// What a layer over cached latents of keys and values is made of.
#pragma once

#include <optional>

#include "gqa/layer/projections.hpp"

namespace gqa {

/// Sizes of an attention layer whose cache holds latents of keys and of values.
struct LowRankAttentionConfig {
  Index num_q_heads = 0;
  Index num_kv_heads = 0;
  Index num_latents = 0;  ///< KV heads of the cache: so many share a latent each, as consecutive ones
  Index head_dim = 0;     ///< of queries and of the keys that are made of latents
  Index key_rank = 0;     ///< head_dim of the cache
  Index value_rank = 0;   ///< value_dim of the cache
  std::optional<HeadGrouping> grouping = {};  ///< query head h reads KV head h / (H / G) unless given
  std::optional<double> scale = {};           ///< 1 / sqrt(head_dim) unless given
  std::optional<Rope> rope = {};
};

/// The weights, of any element types, in memory that outlives the layer, but for key_up, of which it keeps a
/// copy.
struct LowRankProjections {
  Projection q = {};       ///< H * head_dim rows
  Projection k_down = {};  ///< num_latents * key_rank rows
  Projection v_down = {};  ///< num_latents * value_rank rows; none: values are what keys are made of
  MatrixView key_up = {};  ///< G * head_dim x key_rank: a KV head's rows make its keys of its latent
  Projection output = {};  ///< H * value_rank columns: Wo V_h, which makes values of latents on the way
};

}  // namespace gqa
