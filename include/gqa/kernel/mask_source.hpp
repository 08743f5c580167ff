// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

#include "gqa/core/extent.hpp"
#include "gqa/core/shape.hpp"
#include "gqa/mask/mask_concept.hpp"
#include "gqa/mask/mask_ref.hpp"

namespace gqa::detail {

/// What is asked of a mask, behind pointers: by kernels once a tile, or once a row of a tile. bind and check
/// are of the mask, the others of what it is for one sequence and head.
struct MaskCalls {
  Index bound_bytes;  // of it for one sequence and head; 0: the mask is that itself
  void (*bind)(const void* mask, Index seq, Index q_head, Index first_query, void* bound);
  void (*destroy)(void* bound);
  Coverage (*coverage)(const void* bound, Range q, Range kv);
  std::uint64_t (*bits)(const void* bound, Index q_pos, Index kv_begin, Index count);
  Range (*bounds)(const void* bound, Range q);
  Range (*next_visible)(const void* bound, Range q, Index from);
  void (*check)(const void* mask, const AttentionExtent& extent);  // null: it has an answer for every extent
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
  if constexpr (requires(const M& m, const AttentionExtent& extent) { m.check(extent); })
    calls.check = [](const void* m, const AttentionExtent& extent) {
      static_cast<const M*>(m)->check(extent);
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

}  // namespace gqa::detail
