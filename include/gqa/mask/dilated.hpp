// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/mask/mask_concept.hpp"

namespace gqa {

/// Keys whose distance from the query is a multiple of `step`, both ways.
class Dilated {
 public:
  /// Beyond the largest distance of two positions, any step is the same.
  constexpr explicit Dilated(Index step) : step_(std::min(step, 2 * max_position + 1)) {
    GQA_CHECK(step >= 1, std::invalid_argument, "dilated: step is " << step << ", expected at least 1");
    for (Index j = 0; j < 64; j += std::min<Index>(step, 64)) comb_ |= std::uint64_t{1} << j;
  }

  constexpr bool operator()(Index q_pos, Index kv_pos) const { return (q_pos - kv_pos) % step_ == 0; }

  /// Exact. The distances in a block are all those from its corner to the opposite corner.
  constexpr Coverage coverage(Range q, Range kv) const {
    if (q.empty() || kv.empty()) return Coverage::none;
    const Index nearest = q.begin - (kv.end - 1), farthest = q.end - 1 - kv.begin;
    if (nearest + remainder(-nearest) > farthest) return Coverage::none;
    return step_ == 1 || nearest == farthest ? Coverage::full : Coverage::partial;
  }

  constexpr std::uint64_t bits(Index q_pos, Index kv_begin, Index count) const {
    const Index first = remainder(q_pos - kv_begin);
    return first < count ? comb_ << first & low_bits(count) : 0;
  }

 private:
  constexpr Index remainder(Index distance) const {
    const Index rest = distance % step_;
    return rest < 0 ? rest + step_ : rest;
  }

  Index step_;
  std::uint64_t comb_ = 0;  // the bits of a query at kv_begin
};

/// `(q_pos - kv_pos) % step == 0`, as in `sliding_window(W) & dilated(step)` of Longformer and LongNet.
/// Throws std::invalid_argument unless step >= 1.
constexpr Dilated dilated(Index step) { return Dilated(step); }

}  // namespace gqa
