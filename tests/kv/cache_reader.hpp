// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>

#include "gqa/kv/view.hpp"
#include "support/message_of.hpp"

namespace gqa::test {

/// One token of a view, read by the definition of KVTile and nothing else.
template <class View>
class Token {
 public:
  using T = typename View::Scalar;

  Token(const View& view, Index seq, Index kv_head, Index position, void* scratch = nullptr) {
    // From the beginning of its tile, as attention asks.
    Index begin = std::max(round_down(position, tile_keys), Ranges(view.retained(seq)).hull().begin);
    for (;;) {
      const Index end =
          std::min(round_down(position, tile_keys) + tile_keys, Ranges(view.retained(seq)).hull().end);
      tile_ = view.tile(seq, kv_head, {begin, end}, scratch);
      j_ = position - begin;
      if (j_ < tile_.size) break;
      begin += tile_.size;
    }
  }

  const T& k(Index d) const {
    constexpr Index E = element_group<T>;
    return tile_.layout == TileLayout::packed ? tile_.k.as<T>()[d / E * tile_.k.stride + j_ * E + d % E]
                                              : tile_.k.as<T>()[j_ * tile_.k.stride + d];
  }
  const T& v(Index c) const {
    constexpr Index E = element_group<T>;
    return tile_.layout == TileLayout::packed ? tile_.v.as<T>()[j_ / E * tile_.v.stride + c * E + j_ % E]
                                              : tile_.v.as<T>()[j_ * tile_.v.stride + c];
  }
  const KVTile& tile() const { return tile_; }

 private:
  KVTile tile_;
  Index j_ = 0;
};

}  // namespace gqa::test
