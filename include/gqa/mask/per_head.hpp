// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "gqa/mask/any_mask.hpp"

namespace gqa {

/// A mask of its own for each query head. A copy shares the list.
class HeadMasks {
 public:
  explicit HeadMasks(std::vector<AnyMask> masks)
      : masks_(std::make_shared<const std::vector<AnyMask>>(std::move(masks))) {
    GQA_CHECK(!masks_->empty(), std::invalid_argument, "per_head: masks is empty, expected one a query head");
  }

  AnyMask::Plane at(Index seq, Index q_head, std::optional<Index> first_query = {}) const {
    GQA_CHECK(q_head >= 0 && q_head < static_cast<Index>(masks_->size()), std::invalid_argument,
              "per_head: query head " << q_head << ", expected one of the " << masks_->size() << " masks");
    return (*masks_)[static_cast<std::size_t>(q_head)].at(seq, q_head, first_query);
  }
  bool varies_by_seq() const {
    return std::any_of(masks_->begin(), masks_->end(), [](const AnyMask& m) { return m.varies_by_seq(); });
  }

  void check(const AttentionExtent& extent) const {
    GQA_CHECK(static_cast<Index>(masks_->size()) == extent.num_q_heads, std::invalid_argument,
              "per_head: masks has " << masks_->size() << " entries, expected one for each of "
                                     << extent.num_q_heads << " query heads");
    for (const AnyMask& mask : *masks_) mask.check(extent);
  }

 private:
  std::shared_ptr<const std::vector<AnyMask>> masks_;
};

namespace detail {

/// The plane of a mask that nobody else keeps. A copy binds its own mask again, as a plane may refer to it.
template <BoundMask M>
class OwnedPlane {
 public:
  OwnedPlane(M mask, Index seq, Index q_head, std::optional<Index> first_query)
      : mask_(std::move(mask)),
        seq_(seq),
        q_head_(q_head),
        first_query_(first_query),
        plane_(mask_for(mask_, seq, q_head, first_query)) {}
  OwnedPlane(const OwnedPlane& other)
      : OwnedPlane(other.mask_, other.seq_, other.q_head_, other.first_query_) {}
  OwnedPlane& operator=(const OwnedPlane&) = delete;

  bool operator()(Index q_pos, Index kv_pos) const { return plane_(q_pos, kv_pos); }
  Coverage coverage(Range q, Range kv) const { return plane_.coverage(q, kv); }
  Range bounds(Range q) const { return kv_bounds(plane_, q); }
  Range next_visible(Range q, Index from) const { return gqa::next_visible(plane_, q, from); }
  std::uint64_t bits(Index q_pos, Index kv_begin, Index count) const {
    return row_bits(plane_, q_pos, kv_begin, count);
  }

 private:
  M mask_;
  Index seq_, q_head_;
  std::optional<Index> first_query_;
  BoundOf<M> plane_;
};

}  // namespace detail

/// A mask given by a function of the query head.
template <class F>
class HeadFunctionMask {
 public:
  constexpr explicit HeadFunctionMask(F f) : f_(std::move(f)) {}

  constexpr auto at([[maybe_unused]] Index seq, Index q_head,
                    [[maybe_unused]] std::optional<Index> first_query = {}) const {
    using M = decltype(of_head(q_head));
    if constexpr (PositionMask<M>)
      return of_head(q_head);
    else
      return detail::OwnedPlane<M>(of_head(q_head), seq, q_head, first_query);
  }
  static constexpr bool varies_by_seq() {
    return !PositionMask<decltype(as_mask(std::declval<const F&>()(Index{})))>;
  }

  void check(const AttentionExtent& extent) const {
    for (Index h = 0; h < extent.num_q_heads; ++h) check_mask(of_head(h), extent);
  }

 private:
  constexpr auto of_head(Index q_head) const { return as_mask(f_(q_head)); }

  F f_;
};

/// Head h uses `masks[h]`: `per_head({causal(), sliding_window(64)})` has one global and one local head.
/// Throws std::invalid_argument for an empty list, and attention does for one that is not num_q_heads long.
inline HeadMasks per_head(std::vector<AnyMask> masks) { return HeadMasks(std::move(masks)); }

/// Head h uses `mask_of_head(h)`: `per_head([](Index h) { return sliding_window(h % 2 ? 64 : 1024); })`. The
/// function is called once for each task and head, and to check and plan the call.
template <std::invocable<Index> F>
constexpr auto per_head(F mask_of_head) {
  return HeadFunctionMask<F>(std::move(mask_of_head));
}

}  // namespace gqa
