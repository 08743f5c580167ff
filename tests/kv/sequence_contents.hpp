// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "gqa/kv/cache_blocks.hpp"
#include "gqa/kv/layer_group.hpp"

namespace gqa::test {

/// What a cache of one sequence was asked to be.
struct SequenceSizes {
  std::vector<CacheLayer> layers;
  Index max_tokens = 0;
  Index max_span = 1 << 20, rollback = 0;
  Index memory_limit = 0;
};

/// What such a cache should hold: for each layer the numbers of the tokens that are written, also those that
/// are dropped; and how much memory it should have taken.
class SequenceContents {
 public:
  explicit SequenceContents(SequenceSizes sizes) : sizes_(std::move(sizes)) {
    for (CacheLayer& l : sizes_.layers) l.sinks = std::min(l.sinks, sizes_.max_tokens);
    now_.written.resize(sizes_.layers.size());
    now_.first.assign(sizes_.layers.size(), 0);
    restart_windows();
  }

  struct Contents {
    Index size = 0;
    Index largest = 0;  // size there was since the beginning
    std::vector<std::vector<int>> written;
    std::vector<Index> first;  // tile that windowed layers have behind those of their sinks
  };
  bool windowed(std::size_t i) const { return sizes_.layers[i].window > 0; }
  bool any_unwindowed() const {
    return std::any_of(sizes_.layers.begin(), sizes_.layers.end(), [](auto& l) { return l.window == 0; });
  }
  detail::LayerShape shape(std::size_t i) const {
    const CacheLayer& l = sizes_.layers[i];
    return {l.num_kv_heads, l.head_dim, l.value_dim};
  }
  Index sink_tiles(std::size_t i) const { return ceil_div(sizes_.layers[i].sinks, tile_keys); }
  /// Tiles behind those of the sinks that there is room for.
  Index ring_tiles(std::size_t i) const {
    return std::min(ring_tokens(sizes_.layers[i].window, sizes_.max_span, sizes_.rollback) / tile_keys,
                    ceil_div(sizes_.max_tokens, tile_keys) - sink_tiles(i));
  }
  bool dropped(std::size_t i) const { return windowed(i) && now_.first[i] > sink_tiles(i); }
  Ranges retained_of(std::size_t i, Index written) const {
    if (!dropped(i)) return Range{0, written};
    const Range recent = {now_.first[i] * tile_keys, written};
    const Index sinks = sizes_.layers[i].sinks;
    return sinks == 0 ? Ranges(recent) : Ranges{{0, sinks}, recent};
  }
  /// Whatever was dropped, and as far back as truncating always goes.
  bool finds_window(std::size_t i, const Ranges& retained) const {
    const Index back = std::min(now_.largest - sizes_.rollback, std::ssize(now_.written[i]));
    return !dropped(i) || std::ssize(now_.written[i]) <= sizes_.layers[i].sinks ||
           retained[retained.size() - 1].begin <= std::max<Index>(0, back - sizes_.layers[i].window + 1);
  }
  Index oldest_truncation() const {
    Index oldest = 0;
    for (std::size_t i = 0; i < sizes_.layers.size(); ++i)
      if (dropped(i)) oldest = std::max(oldest, now_.first[i] * tile_keys + sizes_.layers[i].window - 1);
    return oldest;
  }
  bool can_truncate(Index n) const {
    for (std::size_t i = 0; i < sizes_.layers.size(); ++i)
      if (dropped(i) && n > sizes_.layers[i].sinks &&
          n < now_.first[i] * tile_keys + sizes_.layers[i].window - 1)
        return false;
    return true;
  }
  Index written_everywhere() const {
    Index least = now_.size;
    for (const auto& tokens : now_.written) least = std::min<Index>(least, std::ssize(tokens));
    return least;
  }
  /// Tokens that a layer has memory for.
  Index room_of(std::size_t i) const {
    if (windowed(i)) return has_ring_ ? (sink_tiles(i) + ring_tiles(i)) * tile_keys : 0;
    return slabs_ * 512;
  }
  /// Memory of this many tokens in all is taken, and what there is more of stays.
  void take_memory(Index tokens) {
    slabs_ = std::max(slabs_, ceil_div(tokens, 512));
    has_ring_ = has_ring_ || tokens > 0;
  }

  /// Windowed layers drop from the beginning again.
  void restart_windows() {
    for (std::size_t i = 0; i < sizes_.layers.size(); ++i) now_.first[i] = sink_tiles(i);
  }

 protected:
  SequenceSizes sizes_;
  Contents now_;
  Index slabs_ = 0;
  bool has_ring_ = false;
};

}  // namespace gqa::test
