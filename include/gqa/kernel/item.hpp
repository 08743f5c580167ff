// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/kernel/call.hpp"
#include "gqa/kernel/plan.hpp"

namespace gqa::detail {

/// Rows of an item that are multiplied at once. They are position-major, row = token * group_size + head, so
/// that a causal block's rows end in order.
struct Block {
  Range tokens;                   // of the sequence's queries
  Range positions;                // of those, as the view counts
  Index first_row = 0, rows = 0;  // of the item
};

/// A task with all that its blocks and chunks ask for, made once: queries, heads, mask, what is retained.
template <class Acc>
struct Item {
  Index seq, kv_head, group_size;
  Range tokens;  // of the sequence's queries
  Range kv;      // positions to look at
  Ranges retained;
  SequenceQueries<Acc> queries;
  const HeadTable& heads;
  GroupMask mask;

  Item(const Call<Acc>& call, const WorkItem& work, std::byte* mask_memory)
      : seq(work.seq),
        kv_head(work.kv_head),
        group_size(call.heads.size(work.kv_head)),
        tokens(work.q),
        kv(work.kv),
        retained(call.kv.retained(work.seq)),
        queries(call.queries(work.seq, retained.hull().end)),
        heads(call.heads),
        mask(call.mask, call.heads, work.seq, work.kv_head, queries.first_position, queries.position_shift,
             mask_memory) {}

  Range positions() const { return queries.positions(tokens); }
  Index num_rows() const { return tokens.size() * group_size; }
  Index token(Index row) const { return tokens.begin + row / group_size; }
  Index q_head(Index row) const { return heads.q_head(kv_head, row % group_size); }
  /// The row among all rows of the call, where its state is kept.
  Index call_row(Index row) const {
    return (queries.first_row + token(row)) * heads.num_q_heads + q_head(row);
  }
  /// The coordinates of a row's scores from position `position` on, as the view counts.
  ScoreRow score_row(Index row, Index position) const {
    const Index shift = queries.position_shift;
    return {.seq = seq,
            .q_head = q_head(row),
            .q_pos = queries.first_position + token(row) + shift,
            .kv_begin = position + shift,
            .first_query = queries.first_position + shift};
  }
  /// The merge unit of a chunk.
  Index unit(Index chunk) const { return (chunk * chunk_keys + queries.position_shift) / merge_keys; }

  /// Block i of those of at most `block_tokens` tokens.
  Block block(Index i, Index block_tokens) const {
    const Index begin = tokens.begin + i * block_tokens;
    const Range mine = {begin, std::min(begin + block_tokens, tokens.end)};
    return {mine, queries.positions(mine), i * block_tokens * group_size, mine.size() * group_size};
  }
  /// The blocks of at most `block_rows` rows (or of one token) in order.
  template <class F>
  void for_blocks(Index block_rows, F&& f) const {
    const Index block_tokens = std::max<Index>(1, block_rows / group_size);
    for (Index i = 0; i * block_tokens < tokens.size(); ++i) f(block(i, block_tokens));
  }

  static constexpr Index nothing_seen = -1;

  /// The first retained position of `kv` from `from` on near which a query of the item may see a key.
  Index next_seen(Index from) const {
    from = std::max(kv.begin, from);
    while (from < kv.end) {
      const Range seen = mask.next_visible(positions(), from);
      if (seen.empty() || seen.begin >= kv.end) return nothing_seen;
      const Ranges there = intersect(retained, intersect(seen, kv));
      if (!there.empty()) return there.hull().begin;
      from = std::max(seen.end, from + 1);
    }
    return nothing_seen;
  }
};

}  // namespace gqa::detail
