// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "gqa/core/head_grouping.hpp"
#include "gqa/core/ranges.hpp"
#include "gqa/kernel/mask_source.hpp"

namespace gqa::detail {

constexpr Range shifted(Range r, Index by) { return {r.begin + by, r.end + by}; }

/// A mask for the queries of one sequence and KV head: bound once for each head where it tells them apart, in
/// memory of the caller's.
class GroupMask {
 public:
  /// The queries of the whole sequence begin at `first_position`, as the view counts positions; `shift` is
  /// what the mask's positions are above the view's, which is how everything else here counts.
  GroupMask(const MaskSource& source, const HeadTable& heads, Index seq, Index kv_head, Index first_position,
            Index shift, std::byte* memory)
      : GroupMask(source, source.by_q_head() ? heads.size(kv_head) : 1, shift, memory) {
    if (calls_.bind == nullptr) return;
    for (; num_bound_ < num_masks_; ++num_bound_)
      calls_.bind(source.mask, seq, heads.q_head(kv_head, num_bound_), first_position + shift,
                  memory + num_bound_ * calls_.bound_bytes);
  }
  GroupMask(const GroupMask&) = delete;
  GroupMask& operator=(const GroupMask&) = delete;
  ~GroupMask() {
    for (; num_bound_ > 0; --num_bound_)
      calls_.destroy(const_cast<std::byte*>(masks_) + (num_bound_ - 1) * calls_.bound_bytes);
  }

  bool by_head() const { return by_head_; }

  Range bounds(Range q) const {
    Range all = calls_.bounds(one(0), shifted(q, shift_));
    for (Index i = 1; i < num_masks_; ++i) {
      const Range r = calls_.bounds(one(i), shifted(q, shift_));
      if (r.empty()) continue;
      all = all.empty() ? r : Range{std::min(all.begin, r.begin), std::max(all.end, r.end)};
    }
    return shifted(all, -shift_);
  }

  /// See next_visible of mask_concept.hpp: what any of the heads sees.
  Range next_visible(Range q, Index from) const {
    const auto next = [&](Index i) { return calls_.next_visible(one(i), shifted(q, shift_), from + shift_); };
    Range first = next(0);
    for (Index i = 1; i < num_masks_; ++i) {
      const Range r = next(i);
      if (r.empty()) continue;
      if (first.empty() || r.end < first.begin)
        first = r;
      else if (r.begin <= first.end)
        first = {std::min(first.begin, r.begin), std::max(first.end, r.end)};
    }
    return shifted(first, -shift_);
  }

  Coverage coverage(Range q, Range kv) const {
    const Coverage first = calls_.coverage(one(0), shifted(q, shift_), shifted(kv, shift_));
    for (Index i = 1; i < num_masks_; ++i)
      if (calls_.coverage(one(i), shifted(q, shift_), shifted(kv, shift_)) != first) return Coverage::partial;
    return first;
  }

  std::uint64_t bits(Index head_in_group, Index q_pos, Index kv_begin, Index count) const {
    return calls_.bits(one(by_head_ ? head_in_group : 0), q_pos + shift_, kv_begin + shift_, count);
  }

 private:
  // An object from here on: what it has bound so far is destroyed where binding another throws.
  GroupMask(const MaskSource& source, Index num_masks, Index shift, std::byte* memory)
      : calls_(*source.calls),
        masks_(calls_.bind == nullptr ? static_cast<const std::byte*>(source.mask) : memory),
        num_masks_(num_masks),
        shift_(shift),
        by_head_(source.by_q_head()) {}

  const void* one(Index i) const { return masks_ + i * calls_.bound_bytes; }

  const MaskCalls& calls_;
  const std::byte* masks_;
  Index num_masks_, shift_;
  Index num_bound_ = 0;
  bool by_head_;
};

/// The retained positions that queries in q may see, in as many ranges as Ranges holds: the last takes in
/// what is left.
inline Ranges visible_ranges(const GroupMask& mask, Range q, const Ranges& retained) {
  const Range all = intersect(retained.hull(), mask.bounds(q));
  Ranges visible = Range{all.end, all.end};
  bool first = true;
  for (Index from = all.begin; from < all.end;) {
    Range seen = mask.next_visible(q, from);
    if (seen.empty() || seen.begin >= all.end) break;
    seen = {std::max(seen.begin, from), std::min(seen.end, all.end)};
    from = std::max(seen.end, from + 1);
    const bool full = visible.size() == Ranges::most;
    for (const Range there : intersect(retained, full ? Range{seen.begin, all.end} : seen)) {
      if (there.empty()) continue;
      if (first)
        visible = there;
      else if (visible.back().end == there.begin || visible.size() == Ranges::most)
        visible.back().end = there.end;
      else
        visible.push_back(there);
      first = false;
    }
    if (full) break;
  }
  return visible;
}

}  // namespace gqa::detail
