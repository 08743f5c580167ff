// SPDX-License-Identifier: Apache-2.0
// What a call of attention is cut into.
#pragma once

#include <algorithm>
#include <vector>

#include "gqa/core/function_ref.hpp"
#include "gqa/core/ranges.hpp"
#include "gqa/kernel/tuning.hpp"

namespace gqa::detail {

/// What one task computes: the queries `q` (indices into the sequence's own) of one sequence that share
/// `kv_head`, against the positions `kv`. Prefill slices q, decode slices kv; nothing else differs.
struct WorkItem {
  Index seq = 0;
  Index kv_head = 0;
  Range q;
  Range kv;
  Index split = -1;  ///< which group of items shares these queries; -1: this item has all their keys
  Index part = 0;    ///< which of the split's items it is
  Index slot = 0;    ///< where its first result is kept until the split's other items are done
};

/// The chunks that somebody may see, numbered without those between them.
class ChunkList {
 public:
  ChunkList() = default;
  explicit ChunkList(const Ranges& positions) {
    for (const Range r : positions) {
      if (r.empty()) continue;
      Range chunks = {r.begin / chunk_keys, ceil_div(r.end, chunk_keys)};
      if (size_ > 0) chunks.begin = std::max(chunks.begin, ranges_.back().end);
      if (chunks.empty()) continue;
      if (size_ == 0)
        ranges_ = chunks;
      else if (ranges_.back().end == chunks.begin)
        ranges_.back().end = chunks.end;
      else
        ranges_.push_back(chunks);
      size_ += chunks.size();
    }
  }

  Index size() const { return size_; }
  /// The chunk with number i.
  Index operator[](Index i) const {
    for (const Range r : ranges_) {
      if (i < r.size()) return r.begin + i;
      i -= r.size();
    }
    return ranges_.hull().end;
  }

 private:
  Ranges ranges_;
  Index size_ = 0;
};

/// What is kept of a split's chunks: one state for all chunks of a merge unit where one part has them all,
/// else one for each chunk.
struct Slot {
  Index slot;
  Range numbers;  // of the chunks, in the list
  Index unit;     // of merge_keys positions
};

/// Items that share their queries: how many are to finish before what they kept can merge.
struct Split {
  Index num_items = 0;
  Index first_slot = 0;
  Index num_slots = 0;
  ChunkList chunks;
  Index shift = 0;  ///< what positions are above those of the view, for which the merge units are counted

  Range part(Index i) const { return {chunks.size() * i / num_items, chunks.size() * (i + 1) / num_items}; }
  Index unit_of(Index number) const { return (chunks[number] * chunk_keys + shift) / merge_keys; }

  /// Calls f(Slot) for each state that a part keeps, in ascending order. Returns how many.
  Index for_slots(Index which, Index slot, FunctionRef<void(const Slot&)> f) const {
    const Range mine = part(which);
    const Index first = slot;
    for (Index i = mine.begin; i < mine.end;) {
      const Index unit = unit_of(i);
      Index end = i + 1;
      while (end < mine.end && unit_of(end) == unit) ++end;
      const bool whole = (i == 0 || unit_of(i - 1) != unit) && (end == chunks.size() || unit_of(end) != unit);
      if (whole)
        f(Slot{slot++, {i, end}, unit});
      else
        for (Index j = i; j < end; ++j) f(Slot{slot++, {j, j + 1}, unit});
      i = end;
    }
    return slot - first;
  }
};

/// The tasks of a call and what they need.
struct Plan {
  std::vector<WorkItem> items;
  Index num_workers = 0;
  std::vector<Split> splits;
  Index num_slots = 0;         ///< states to keep until their split is complete
  Index max_rows = 0;          ///< query rows of the largest item
  bool several_units = false;  ///< an item may see more than one merge unit
};

}  // namespace gqa::detail
