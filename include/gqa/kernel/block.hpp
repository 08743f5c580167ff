// SPDX-License-Identifier: Apache-2.0
// Which keys of a chunk the queries of a block see.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "gqa/kernel/call.hpp"
#include "gqa/kernel/plan.hpp"
#include "gqa/mask/mask_fn.hpp"
#include "gqa/mask/mask_ref.hpp"
#include "gqa/mask/window.hpp"

namespace gqa::detail {

/// A mask for the queries of one sequence and KV head, whether or not it tells heads or sequences apart. One
/// that does is bound once for each head, and kept in memory of the caller's.
template <Mask M>
class GroupMask {
  static constexpr bool direct = PositionMask<M>;  // nothing to bind
  using Bound = BoundOf<M>;
  static_assert(alignof(Bound) <= 64);

 public:
  /// What it needs for `num_heads` heads, at a multiple of 64.
  static Index bytes(Index num_heads) {
    return direct ? 0 : checked_mul(num_heads, sizeof(Bound), "workspace");
  }
  /// The memory of a mask that does not tell heads apart.
  struct alignas(64) Memory {
    std::byte bytes[direct ? 1 : sizeof(Bound)];
  };

  /// The queries of the whole sequence begin at `first_position`, as the view counts positions; `shift` is
  /// what the mask's positions are above the view's, which is how everything else here counts.
  GroupMask(const M& mask, const HeadTable& heads, Index seq, Index kv_head, Index first_position,
            Index shift, void* memory)
      : GroupMask(mask, heads.size(kv_head), shift, memory) {
    if constexpr (!direct) {
      for (; num_bound_ < (by_head_ ? num_heads_ : 1); ++num_bound_)
        ::new (static_cast<void*>(bound_ + num_bound_))
            Bound(mask_for(mask, seq, heads.q_head(kv_head, num_bound_), first_position + shift));
    }
  }
  GroupMask(const GroupMask&) = delete;
  GroupMask& operator=(const GroupMask&) = delete;
  ~GroupMask() {
    if constexpr (!direct) std::destroy_n(bound_, num_bound_);
  }

  bool by_head() const { return by_head_; }

  Range bounds(Range q) const {
    Range all = kv_bounds(one(0), shifted(q, shift_));
    for (Index i = 1; by_head_ && i < num_heads_; ++i) {
      const Range r = kv_bounds(one(i), shifted(q, shift_));
      if (r.empty()) continue;
      all = all.empty() ? r : Range{std::min(all.begin, r.begin), std::max(all.end, r.end)};
    }
    return shifted(all, -shift_);
  }

  Coverage coverage(Range q, Range kv) const {
    const Coverage first = one(0).coverage(shifted(q, shift_), shifted(kv, shift_));
    for (Index i = 1; by_head_ && i < num_heads_; ++i)
      if (one(i).coverage(shifted(q, shift_), shifted(kv, shift_)) != first) return Coverage::partial;
    return first;
  }

  std::uint64_t bits(Index head_in_group, Index q_pos, Index kv_begin, Index count) const {
    return row_bits(one(head_in_group), q_pos + shift_, kv_begin + shift_, count);
  }

 private:
  // An object from here on: what it has bound so far is destroyed where binding another throws.
  GroupMask(const M& mask, Index num_heads, Index shift, [[maybe_unused]] void* memory)
      : mask_(mask), num_heads_(num_heads), shift_(shift), by_head_(varies_by_head(mask)) {
    if constexpr (!direct) bound_ = static_cast<Bound*>(memory);
  }

  const auto& one([[maybe_unused]] Index head_in_group) const {
    if constexpr (direct)
      return mask_;
    else
      return bound_[head_in_group];
  }

  const M& mask_;
  Bound* bound_ = nullptr;
  Index num_bound_ = 0;
  Index num_heads_, shift_;
  bool by_head_;
};

/// The queries of a block against one chunk: what is seen of each tile, and one 64-bit word a mask row and
/// tile where that is not everything. A mask row is one query position, or one query row where heads see
/// different keys.
struct SeenKeys {
  Coverage tiles[chunk_tiles];
  Index first_tile = 0;  // of those not ruled out
  Index last_tile = -1;
  bool whole = true;  // every tile between them is full and has 64 keys: no words
  std::uint64_t* words = nullptr;
  Index rows_per_mask = 1;
  Index num_masks = 0;

  const std::uint64_t* row(Index mask_row) const { return words + mask_row * chunk_tiles; }

  /// Looks at every tile of the chunk at `chunk_begin` for the queries at positions `q`, `group_size` rows
  /// each.
  template <Mask M>
  void look(const GroupMask<M>& mask, Range q, Index group_size, Index chunk_begin, Range retained) {
    first_tile = chunk_tiles;
    last_tile = -1;
    whole = true;
    Range keys[chunk_tiles];
    for (Index t = 0; t < chunk_tiles; ++t) {
      const Index begin = chunk_begin + t * tile_keys;
      keys[t] = intersect({begin, begin + tile_keys}, retained);
      tiles[t] = keys[t].empty() ? Coverage::none : mask.coverage(q, keys[t]);
      if (tiles[t] == Coverage::none) continue;
      first_tile = std::min(first_tile, t);
      last_tile = t;
    }
    for (Index t = first_tile; t <= last_tile; ++t)
      whole &= tiles[t] == Coverage::full && keys[t].size() == tile_keys;
    if (whole) return;

    rows_per_mask = mask.by_head() ? 1 : group_size;
    num_masks = mask.by_head() ? q.size() * group_size : q.size();
    for (Index row = 0; row < num_masks; ++row) {
      const Index q_pos = q.begin + (mask.by_head() ? row / group_size : row);
      const Index head = mask.by_head() ? row % group_size : 0;
      for (Index t = first_tile; t <= last_tile; ++t) {
        const Index offset = keys[t].begin - chunk_begin - t * tile_keys;
        std::uint64_t word = 0;
        if (tiles[t] == Coverage::full)
          word = low_bits(keys[t].size());
        else if (tiles[t] == Coverage::partial)
          word = mask.bits(head, q_pos, keys[t].begin, keys[t].size());
        words[row * chunk_tiles + t] = word << offset;
      }
    }
  }
};

/// Consecutive rows of a block and the columns of one piece of a tile that any of them sees.
struct RowRun {
  Index row, rows;  // of the block
  Index mask_row;   // of its first row
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
    f(RowRun{begin * mask.rows_per_mask, (end - begin) * mask.rows_per_mask, begin, columns, uniform});
  }
}

}  // namespace gqa::detail
