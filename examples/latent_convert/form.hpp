// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "gqa/convert/latent.hpp"
#include "gqa/convert/weights.hpp"

namespace latent_convert {

using gqa::Index;

/// What the cache of each layer is to hold.
enum class Kind {
  source,    ///< keys and values as they are
  kv_heads,  ///< those of fewer KV heads, aligned means of the ones there are
  values,    ///< keys as they are, values of fewer elements
  low_rank,  ///< latents that keys are made of again, and values as latents
  latent,    ///< rotated keys of few elements, and a latent for the rest
};

/// One of them with its sizes.
struct Form {
  Kind kind = Kind::source;
  Index kv_heads = 0;     ///< kv_heads
  Index latents = 1;      ///< low_rank: of so many groups of KV heads
  Index key_rank = 0;     ///< low_rank
  Index value_rank = 0;   ///< values, of each KV head; low_rank: 0 where both are made of one latent
  Index latent_rank = 0;  ///< latent
  Index rope_dim = 0;     ///< latent
  gqa::convert::KeptPairs kept = gqa::convert::KeptPairs::by_norm;  ///< latent
  bool mix_heads = true;                                            ///< latent

  /// As it is written on the command line.
  std::string text() const;
};

/// Reads what text() writes: "source", "kv_heads=1", "value_rank=21", "key_rank=64,value_rank=64",
/// "key_rank=128", "latents=3,key_rank=32,value_rank=32", "latent_rank=96,rope_dim=32,kept=uniform,
/// mix_heads=no". Throws std::invalid_argument naming what it does not understand.
Form read_form(std::string_view text);

/// The group that a curve of the plot goes through: all but the sizes.
std::string family(const Form& form);

/// Forms for a model of these sizes, from most of its cache to a fifth or so.
std::vector<Form> default_forms(Index num_kv_heads, Index head_dim, Index value_dim);

}  // namespace latent_convert
