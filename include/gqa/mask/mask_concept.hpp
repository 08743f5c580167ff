// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <optional>

#include "gqa/core/extent.hpp"
#include "gqa/core/shape.hpp"

namespace gqa {

/// What a mask says of a block of queries by keys: no pair, some pairs or every pair may attend.
enum class Coverage { none, partial, full };

/// A mask whose answer depends on the two absolute positions alone.
///
/// `m(q_pos, kv_pos)` is whether the query at q_pos attends to the key at kv_pos. `m.coverage(q, kv)` speaks
/// for a whole block: `none` blocks are never read and `full` ones never tested, so it may answer `partial`
/// when it does not know, but must never claim `none` or `full` wrongly. A block without pairs is `none`.
///
/// Key positions are >= 0; query positions may be negative (more queries than keys, last on last). Three
/// members are optional, and make a mask cheap:
/// - `Range m.bounds(Range q)`: a superset of the keys that queries in q see, so that far keys are not
///   visited;
/// - `Range m.next_visible(Range q, Index from)`: the next run of keys at or after `from` that queries in q
///   may see, so that keys between two runs are not visited either. No query in q sees a key between `from`
///   and the run, which may claim more than is seen but never less, and is empty only where nothing at or
///   after `from` is seen: then it is {max_position, max_position}. It says nothing of the keys from its end
///   on: ask again from there. Asked only with a q that is not empty and a `from` that a key may have;
/// - `uint64_t m.bits(Index q_pos, Index kv_begin, Index count)`: bit j is `m(q_pos, kv_begin + j)`, bits
///   from count (at most 64) on are 0.
/// A fourth, `m.check(extent)`, throws std::invalid_argument when the mask has no answer for positions, heads
/// or sequences of an AttentionExtent (a mask tensor of the wrong shape).
template <class M>
concept PositionMask = requires(const M& m, Index position, Range range) {
  { m(position, position) } -> std::convertible_to<bool>;
  { m.coverage(range, range) } -> std::same_as<Coverage>;
};

/// Which heads may see different keys. Each promises less than the one before, so a composition has the
/// largest of its parts.
enum class HeadVariation {
  none,        ///< every head sees the same
  by_kv_head,  ///< query heads that share a KV head see the same, however heads are grouped
  by_q_head,   ///< each query head may see its own
};

/// A mask that also depends on the sequence or the query head: `m.at(seq, q_head)` is the PositionMask of
/// one, asked for once by each task, which keeps it. It may refer to the mask. Where it depends on where the
/// queries stand, `m.at(seq, q_head, first_query)` takes the position of the sequence's first query, a
/// std::optional<Index>. `m.varies_by_seq()` and `m.varies_by_head()` are optional and taken as true where
/// they are missing. The latter is a HeadVariation or a bool, whose true is HeadVariation::by_q_head.
template <class M>
concept BoundMask = !PositionMask<M> && requires(const M& m, Index index) {
  { m.at(index, index) } -> PositionMask;
};

/// What attention takes as a mask.
template <class M>
concept Mask = PositionMask<M> || BoundMask<M>;

/// Every key position.
inline constexpr Range all_positions = {0, max_position};

/// The lowest `count` bits set; count in [0, 64].
constexpr std::uint64_t low_bits(Index count) {
  return count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

/// The bits of the keys `[kv_begin, kv_begin + count)` that lie in `keys`.
constexpr std::uint64_t range_bits(Range keys, Index kv_begin, Index count) {
  const Index first = std::clamp<Index>(keys.begin - kv_begin, 0, count);
  const Index last = std::clamp<Index>(keys.end - kv_begin, 0, count);
  return low_bits(last) & ~low_bits(first);
}

/// Bit j is `mask(q_pos, kv_begin + j)` for j < count <= 64; the mask's own `bits` where it has one.
template <PositionMask M>
constexpr std::uint64_t row_bits(const M& mask, Index q_pos, Index kv_begin, Index count) {
  if constexpr (requires { mask.bits(q_pos, kv_begin, count); }) {
    return mask.bits(q_pos, kv_begin, count);
  } else {
    std::uint64_t bits = 0;
    for (Index j = 0; j < count; ++j) bits |= std::uint64_t{mask(q_pos, kv_begin + j)} << j;
    return bits;
  }
}

/// A superset of the key positions that queries in q see; all positions where the mask has no `bounds`.
template <PositionMask M>
constexpr Range kv_bounds(const M& mask, Range q) {
  if (q.empty()) return {};
  if constexpr (requires { mask.bounds(q); }) {
    return intersect(mask.bounds(q), all_positions);
  } else {
    return all_positions;
  }
}

/// The next run of keys at or after `from` that queries in q may see, inside all_positions: the mask's own
/// `next_visible` where it has one, else what of its bounds lies there. {max_position, max_position} when
/// there is none.
template <PositionMask M>
constexpr Range next_visible(const M& mask, Range q, Index from) {
  const Range nothing = {max_position, max_position}, rest = intersect({from, max_position}, all_positions);
  if (q.empty() || rest.empty()) return nothing;
  Range run;
  if constexpr (requires { mask.next_visible(q, rest.begin); }) {
    run = intersect(mask.next_visible(q, rest.begin), rest);
  } else {
    run = intersect(kv_bounds(mask, q), rest);
  }
  return run.empty() ? nothing : run;
}

/// The mask of one sequence, whose queries begin at `first_query` where that is known, and one query head:
/// the mask itself (by reference) when it depends on neither.
template <Mask M>
constexpr decltype(auto) mask_for(const M& mask, Index seq, Index q_head,
                                  [[maybe_unused]] std::optional<Index> first_query = {}) {
  if constexpr (PositionMask<M>) {
    return static_cast<const M&>(mask);
  } else if constexpr (requires { mask.at(seq, q_head, first_query); }) {
    return mask.at(seq, q_head, first_query);
  } else {
    return mask.at(seq, q_head);
  }
}

/// Which heads may see different keys. Known at compile time for a PositionMask: none.
template <Mask M>
constexpr HeadVariation head_variation(const M& mask) {
  if constexpr (PositionMask<M>) {
    return HeadVariation::none;
  } else if constexpr (requires { mask.varies_by_head(); }) {
    const auto answer = mask.varies_by_head();
    if constexpr (std::same_as<decltype(answer), const HeadVariation>)
      return answer;
    else
      return answer ? HeadVariation::by_q_head : HeadVariation::none;
  } else {
    return HeadVariation::by_q_head;
  }
}

/// Whether heads may see different keys.
template <Mask M>
constexpr bool varies_by_head(const M& mask) {
  return head_variation(mask) != HeadVariation::none;
}

/// Whether sequences of a batch may see different keys.
template <Mask M>
constexpr bool varies_by_seq(const M& mask) {
  if constexpr (PositionMask<M>) {
    return false;
  } else if constexpr (requires { mask.varies_by_seq(); }) {
    return mask.varies_by_seq();
  } else {
    return true;
  }
}

namespace detail {

/// Whether m.at(...) is the same whatever it is asked for, though the type does not tell.
template <Mask M>
constexpr bool is_fixed(const M& mask) {
  if constexpr (PositionMask<M>) {
    return true;
  } else if constexpr (requires { mask.is_fixed(); }) {
    return mask.is_fixed();
  } else {
    return false;
  }
}

}  // namespace detail

/// Throws std::invalid_argument when the mask has no answer for some of the extent.
template <Mask M>
void check_mask(const M& mask, const AttentionExtent& extent) {
  if constexpr (requires { mask.check(extent); }) mask.check(extent);
}

}  // namespace gqa
