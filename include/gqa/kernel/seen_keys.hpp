// SPDX-License-Identifier: Apache-2.0
// Which keys of a chunk the queries of a block see.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "gqa/core/ranges.hpp"
#include "gqa/kernel/group_mask.hpp"
#include "gqa/kernel/tuning.hpp"

namespace gqa::detail {

/// What is retained of one tile: its hull, and one bit a key.
struct RetainedTile {
  Range keys;
  std::uint64_t bits = 0;

  RetainedTile(const Ranges& retained, Index begin) {
    const Range tile = {begin, begin + tile_keys};
    if (retained.size() == 1) {  // mostly
      keys = intersect(retained[0], tile);
      bits = range_bits(keys, begin, tile_keys);
      return;
    }
    const Ranges here = intersect(retained, tile);
    keys = here.hull();
    for (const Range r : here) bits |= range_bits(r, begin, tile_keys);
  }
};

/// The queries of a block against one chunk: what is seen of each tile, and one 64-bit word a mask row and
/// tile where that is not everything. A mask row is one query position, or one query row where heads see
/// different keys.
struct SeenKeys {
  Index chunk_begin = 0;
  Coverage tiles[chunk_tiles];
  Index first_tile = 0;  // of those not ruled out
  Index last_tile = -1;
  bool whole = true;  // every tile between them is full and has 64 keys: no words
  std::uint64_t* words = nullptr;
  Index rows_per_mask = 1;
  Index num_masks = 0;

  bool any() const { return last_tile >= 0; }
  /// The columns of the scores from the first tile to the last.
  Range columns() const { return {first_tile * tile_keys, (last_tile + 1) * tile_keys}; }
  const std::uint64_t* row(Index mask_row) const { return words + mask_row * chunk_tiles; }
  /// What a row of the block sees of a tile.
  std::uint64_t word(Index row_of_block, Index tile) const {
    return whole ? ~std::uint64_t{0} : row(row_of_block / rows_per_mask)[tile];
  }

  /// Looks at every tile of the chunk at `chunk_begin` for the queries at positions `q`, `group_size` rows
  /// each.
  void look(const GroupMask& mask, Range q, Index group_size, Index begin, const Ranges& retained) {
    chunk_begin = begin;
    first_tile = chunk_tiles;
    last_tile = -1;
    whole = true;
    std::fill(tiles, tiles + chunk_tiles, Coverage::none);
    const Range there = tiles_of(intersect(retained.hull(), {begin, begin + chunk_keys}));
    for (Index t = there.begin; t < there.end; ++t) {
      const RetainedTile tile(retained, chunk_begin + t * tile_keys);
      if (!tile.keys.empty()) tiles[t] = mask.coverage(q, tile.keys);
      if (tiles[t] == Coverage::none) continue;
      first_tile = std::min(first_tile, t);
      last_tile = t;
      whole &= tiles[t] == Coverage::full && tile.bits == ~std::uint64_t{0};
    }
    for (Index t = first_tile; t <= last_tile; ++t) whole &= tiles[t] == Coverage::full;
    if (whole) return;

    rows_per_mask = mask.by_head() ? 1 : group_size;
    num_masks = mask.by_head() ? q.size() * group_size : q.size();
    for (Index t = first_tile; t <= last_tile; ++t) {
      const RetainedTile tile(retained, chunk_begin + t * tile_keys);
      const Index offset = tile.keys.begin - chunk_begin - t * tile_keys;
      for (Index row = 0; row < num_masks; ++row) {
        const Index q_pos = q.begin + (mask.by_head() ? row / group_size : row);
        const Index head = mask.by_head() ? row % group_size : 0;
        std::uint64_t word = 0;
        if (tiles[t] == Coverage::full)
          word = tile.bits;
        else if (tiles[t] == Coverage::partial)
          word = mask.bits(head, q_pos, tile.keys.begin, tile.keys.size()) << offset & tile.bits;
        words[row * chunk_tiles + t] = word;
      }
    }
  }

  /// Calls f(columns) for runs of keys that a row of the block sees, of whole tiles where those adjoin: a
  /// score function is called as seldom as can be.
  template <class F>
  void for_seen_runs(Index row_of_block, F&& f) const {
    const auto seen = [&](Index t) { return word(row_of_block, t); };
    for (Index t = first_tile; t <= last_tile; ++t) {
      if (seen(t) == 0) continue;
      const Index begin = t * tile_keys + std::countr_zero(seen(t));
      while (t < last_tile && std::countl_zero(seen(t)) == 0 && (seen(t + 1) & 1) != 0) ++t;
      f(Range{begin, (t + 1) * tile_keys - std::countl_zero(seen(t))});
    }
  }

 private:
  /// The tiles that positions of the chunk lie in.
  Range tiles_of(Range keys) const {
    if (keys.empty()) return {};
    return {(keys.begin - chunk_begin) / tile_keys, ceil_div(keys.end - chunk_begin, tile_keys)};
  }
};

/// Consecutive rows of a block and the columns of one piece of a tile that any of them sees.
struct RowRun {
  Index row, rows;  // of the block
  Range columns;    // within the piece
  bool uniform;     // every row sees all of them
};

/// The columns [0, size) of a piece at bit `offset` of its tile's words.
inline std::uint64_t piece_bits(std::uint64_t word, Index offset, Index size) {
  return word >> offset & low_bits(size);
}

/// Calls `f(RowRun)` for runs of mask rows that see some of a piece, of about `rows_wanted` query rows each:
/// on a causal diagonal, each run stops at its own last key.
template <class F>
void for_row_runs(const SeenKeys& mask, Index tile, Index offset, Index size, Index rows_wanted, F&& f) {
  const Index step = std::max<Index>(1, rows_wanted / mask.rows_per_mask);
  for (Index begin = 0; begin < mask.num_masks; begin += step) {
    const Index end = std::min(begin + step, mask.num_masks);
    std::uint64_t any = 0, all = ~std::uint64_t{0};
    for (Index row = begin; row < end; ++row) {
      const std::uint64_t bits = piece_bits(mask.row(row)[tile], offset, size);
      any |= bits;
      all &= bits;
    }
    if (any == 0) continue;
    const Range columns = {std::countr_zero(any), 64 - std::countl_zero(any)};
    const bool uniform = all == (low_bits(columns.end) & ~low_bits(columns.begin));
    f(RowRun{begin * mask.rows_per_mask, (end - begin) * mask.rows_per_mask, columns, uniform});
  }
}

}  // namespace gqa::detail
