// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <type_traits>

#include "gqa/score/mask_fn.hpp"

namespace gqa {

/// Any mask of positions behind one type, for masks chosen at run time. A copy shares what it holds; a call
/// is virtual, which the kernel pays once for 64 keys.
class AnyMask {
 public:
  template <class M>
  requires(!std::same_as<M, AnyMask> && MaskLike<M>) AnyMask(M mask)  // NOLINT: converts on purpose
      : mask_(std::make_shared<const Model<MaskOf<M>>>(as_mask(std::move(mask)))) {}

  bool operator()(Index q_pos, Index kv_pos) const { return mask_->visible(q_pos, kv_pos); }
  Coverage coverage(Range q, Range kv) const { return mask_->coverage(q, kv); }
  Range bounds(Range q) const { return mask_->bounds(q); }
  std::uint64_t bits(Index q_pos, Index kv_begin, Index count) const {
    return mask_->bits(q_pos, kv_begin, count);
  }
  void check(const AttentionExtent& extent) const { mask_->check(extent); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual bool visible(Index q_pos, Index kv_pos) const = 0;
    virtual Coverage coverage(Range q, Range kv) const = 0;
    virtual Range bounds(Range q) const = 0;
    virtual std::uint64_t bits(Index q_pos, Index kv_begin, Index count) const = 0;
    virtual void check(const AttentionExtent& extent) const = 0;
  };

  template <PositionMask M>
  struct Model final : Interface {
    explicit Model(M m) : mask(std::move(m)) {}
    bool visible(Index q_pos, Index kv_pos) const override { return mask(q_pos, kv_pos); }
    Coverage coverage(Range q, Range kv) const override { return mask.coverage(q, kv); }
    Range bounds(Range q) const override { return kv_bounds(mask, q); }
    std::uint64_t bits(Index q_pos, Index kv_begin, Index count) const override {
      return row_bits(mask, q_pos, kv_begin, count);
    }
    void check(const AttentionExtent& extent) const override { check_mask(mask, extent); }
    M mask;
  };

  std::shared_ptr<const Interface> mask_;
};

}  // namespace gqa
