// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/mask/mask_concept.hpp"

namespace gqa {

/// Everything a mask owes, for one whose queries each see a single range of keys, `Derived::visible(q_pos)`.
///
/// Both ends of the range must not fall as q_pos rises, and the ranges of neighbours must meet or touch. What
/// a block of queries sees is then one range, from the first one's beginning to the last one's end, and what
/// each of them sees is the last one's beginning to the first one's end: coverage is exact and costs two
/// ranges.
template <class Derived>
class IntervalMask {
 public:
  constexpr bool operator()(Index q_pos, Index kv_pos) const { return visible(q_pos).contains(kv_pos); }

  constexpr Coverage coverage(Range q, Range kv) const {
    if (q.empty() || intersect(bounds(q), kv).empty()) return Coverage::none;
    const Range all = {visible(q.end - 1).begin, visible(q.begin).end};
    return all.begin <= kv.begin && kv.end <= all.end ? Coverage::full : Coverage::partial;
  }

  constexpr Range bounds(Range q) const { return {visible(q.begin).begin, visible(q.end - 1).end}; }

  constexpr std::uint64_t bits(Index q_pos, Index kv_begin, Index count) const {
    return range_bits(visible(q_pos), kv_begin, count);
  }

 private:
  constexpr Range visible(Index q_pos) const { return static_cast<const Derived&>(*this).visible(q_pos); }
};

}  // namespace gqa
