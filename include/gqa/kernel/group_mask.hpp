// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

#include "gqa/core/head_grouping.hpp"
#include "gqa/core/ranges.hpp"
#include "gqa/mask/mask_concept.hpp"
#include "gqa/mask/mask_ref.hpp"

namespace gqa::detail {

constexpr Range shifted(Range r, Index by) { return {r.begin + by, r.end + by}; }

/// What the kernels ask of a mask, behind pointers: once a tile, or once a row of a tile. The first two are
/// of the mask, the others of what it is for one sequence and head.
struct MaskCalls {
  Index bound_bytes;  // of it for one sequence and head; 0: the mask is that itself
  void (*bind)(const void* mask, Index seq, Index q_head, Index first_query, void* bound);
  void (*destroy)(void* bound);
  Coverage (*coverage)(const void* bound, Range q, Range kv);
  std::uint64_t (*bits)(const void* bound, Index q_pos, Index kv_begin, Index count);
  Range (*bounds)(const void* bound, Range q);
  Range (*next_visible)(const void* bound, Range q, Index from);
};

template <Mask M>
inline constexpr MaskCalls mask_calls = [] {
  // A mask of positions is asked itself, others as bound.
  using Bound = std::conditional_t<PositionMask<M>, M, BoundOf<M>>;
  static_assert(alignof(Bound) <= 64);
  MaskCalls calls{};
  if constexpr (!PositionMask<M>) {
    calls.bound_bytes = round_up(sizeof(Bound), 64);
    calls.bind = [](const void* mask, Index seq, Index q_head, Index first_query, void* bound) {
      ::new (bound) Bound(mask_for(*static_cast<const M*>(mask), seq, q_head, first_query));
    };
    calls.destroy = [](void* bound) { std::destroy_at(static_cast<Bound*>(bound)); };
  }
  calls.coverage = [](const void* m, Range q, Range kv) {
    return static_cast<const Bound*>(m)->coverage(q, kv);
  };
  calls.bits = [](const void* m, Index q_pos, Index kv_begin, Index count) {
    return row_bits(*static_cast<const Bound*>(m), q_pos, kv_begin, count);
  };
  calls.bounds = [](const void* m, Range q) { return kv_bounds(*static_cast<const Bound*>(m), q); };
  calls.next_visible = [](const void* m, Range q, Index from) {
    return gqa::next_visible(*static_cast<const Bound*>(m), q, from);
  };
  return calls;
}();

/// Any mask, referred to.
struct MaskSource {
  const void* mask = nullptr;
  const MaskCalls* calls = nullptr;
  HeadVariation variation = HeadVariation::none;

  bool by_q_head() const { return variation == HeadVariation::by_q_head; }
  /// The memory it needs bound to the heads of a group.
  Index bytes(Index group_size) const {
    return checked_mul(calls->bound_bytes, by_q_head() ? group_size : 1, "workspace");
  }
};
template <Mask M>
MaskSource source_of(const M& mask) {
  return {&mask, &mask_calls<M>, head_variation(mask)};
}

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
