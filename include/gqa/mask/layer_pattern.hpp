// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "gqa/mask/window.hpp"

namespace gqa {

/// Which layers of a model are local: `num_local` local layers, then `num_global` global ones, over and over.
/// Gemma 3 is {5, 1}, Gemma 2 and gpt-oss are {1, 1}, Mistral 7B v0.1 is {1, 0} and a plain decoder {0, 1}.
class LayerPattern {
 public:
  /// Throws std::invalid_argument for a negative number or two zeros.
  constexpr LayerPattern(Index num_local, Index num_global)
      : num_local_(std::min(num_local, most)), num_global_(std::min(num_global, most)) {
    GQA_CHECK(num_local >= 0 && num_global >= 0 && (num_local > 0 || num_global > 0), std::invalid_argument,
              "layer pattern: " << num_local << " local to " << num_global
                                << " global layers, expected neither to be negative nor both 0");
  }

  constexpr bool is_local(Index layer) const { return layer % (num_local_ + num_global_) < num_local_; }

  /// How many of the first `num_layers` layers are local.
  constexpr Index count_local(Index num_layers) const {
    const Index period = num_local_ + num_global_;
    return num_layers / period * num_local_ + std::min(num_layers % period, num_local_);
  }

  /// The layer's mask: sliding_window(W) where it is local, else causal().
  constexpr Window mask(Index layer, Index W) const { return is_local(layer) ? sliding_window(W) : causal(); }

  friend constexpr bool operator==(const LayerPattern&, const LayerPattern&) = default;

 private:
  // Models have fewer layers, and the sum of two does not overflow.
  static constexpr Index most = std::numeric_limits<Index>::max() / 2;

  Index num_local_, num_global_;
};

}  // namespace gqa
