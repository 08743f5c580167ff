// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>
#include <utility>

#include "gqa/mask/mask_concept.hpp"

namespace gqa::detail {

/// A mask that lives elsewhere.
template <PositionMask M>
class MaskRef {
 public:
  constexpr MaskRef(const M& mask) : mask_(&mask) {}  // NOLINT: converts on purpose

  constexpr bool operator()(Index q_pos, Index kv_pos) const { return (*mask_)(q_pos, kv_pos); }
  constexpr Coverage coverage(Range q, Range kv) const { return mask_->coverage(q, kv); }
  constexpr Range bounds(Range q) const { return kv_bounds(*mask_, q); }
  constexpr Range next_visible(Range q, Index from) const { return gqa::next_visible(*mask_, q, from); }
  constexpr std::uint64_t bits(Index q_pos, Index kv_begin, Index count) const {
    return row_bits(*mask_, q_pos, kv_begin, count);
  }

 private:
  const M* mask_;
};

/// What is kept of a mask bound to a sequence and a head: the bound mask itself where it was made for them,
/// else a reference, as copies of masks may share tables between threads.
template <class Bound>
using BoundPart = std::conditional_t<std::is_reference_v<Bound>, MaskRef<std::remove_cvref_t<Bound>>, Bound>;
template <Mask M>
using BoundOf = BoundPart<decltype(mask_for(std::declval<const M&>(), Index{}, Index{}, std::nullopt))>;

}  // namespace gqa::detail
