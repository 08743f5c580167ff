// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "gqa/score/any_mask.hpp"

namespace gqa {

/// A mask of its own for each query head. A copy shares the list.
class HeadMasks {
 public:
  explicit HeadMasks(std::vector<AnyMask> masks)
      : masks_(std::make_shared<const std::vector<AnyMask>>(std::move(masks))) {
    GQA_CHECK(!masks_->empty(), std::invalid_argument, "per_head: masks is empty, expected one a query head");
  }

  const AnyMask& at(Index, Index q_head) const { return (*masks_)[static_cast<std::size_t>(q_head)]; }
  static constexpr bool varies_by_seq() { return false; }

  void check(const AttentionExtent& extent) const {
    GQA_CHECK(static_cast<Index>(masks_->size()) == extent.num_q_heads, std::invalid_argument,
              "per_head: masks has " << masks_->size() << " entries, expected one for each of "
                                     << extent.num_q_heads << " query heads");
    for (const AnyMask& mask : *masks_) mask.check(extent);
  }

 private:
  std::shared_ptr<const std::vector<AnyMask>> masks_;
};

/// A mask given by a function of the query head.
template <class F>
class HeadFunctionMask {
 public:
  constexpr explicit HeadFunctionMask(F f) : f_(std::move(f)) {}

  constexpr auto at(Index, Index q_head) const { return as_mask(f_(q_head)); }
  static constexpr bool varies_by_seq() { return false; }

  void check(const AttentionExtent& extent) const {
    for (Index h = 0; h < extent.num_q_heads; ++h) check_mask(at(0, h), extent);
  }

 private:
  F f_;
};

/// Head h uses `masks[h]`: `per_head({causal(), sliding_window(64)})` has one global and one local head.
/// Throws std::invalid_argument for an empty list, and attention does for one that is not num_q_heads long.
inline HeadMasks per_head(std::vector<AnyMask> masks) { return HeadMasks(std::move(masks)); }

/// Head h uses `mask_of_head(h)`: `per_head([](Index h) { return sliding_window(h % 2 ? 64 : 1024); })`.
template <std::invocable<Index> F>
constexpr auto per_head(F mask_of_head) {
  return HeadFunctionMask<F>(std::move(mask_of_head));
}

}  // namespace gqa
