// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <type_traits>

#include "gqa/mask/mask_fn.hpp"
#include "gqa/mask/mask_ref.hpp"

namespace gqa {

/// Any mask behind one type, also one of heads and sequences, for masks chosen at run time. A copy shares
/// what it holds. What it is for one sequence and head is a small value whose calls are virtual, which the
/// kernel pays once for 64 keys; it refers to the mask.
class AnyMask {
 public:
  class Plane;

 private:
  /// A mask of positions, whatever it is.
  struct Positions {
    virtual ~Positions() = default;
    virtual bool visible(Index q_pos, Index kv_pos) const = 0;
    virtual Coverage coverage(Range q, Range kv) const = 0;
    virtual Range bounds(Range q) const = 0;
    virtual Range next_visible(Range q, Index from) const = 0;
    virtual std::uint64_t bits(Index q_pos, Index kv_begin, Index count) const = 0;
    virtual void copy_to(Plane& plane) const = 0;
  };
  template <PositionMask M>
  struct PositionsOf;

 public:
  /// The mask of one sequence and head: one that the AnyMask holds, or one made for them, which lies in the
  /// plane's own memory unless it is uncommonly large.
  class Plane {
   public:
    Plane(const Plane& other) {
      if (other.place_ == Place::elsewhere)
        mask_ = other.mask_;
      else
        other.mask_->copy_to(*this);
    }
    Plane& operator=(const Plane&) = delete;
    ~Plane() {
      if (place_ == Place::here) mask_->~Positions();
      if (place_ == Place::heap) delete mask_;
    }

    bool operator()(Index q_pos, Index kv_pos) const { return mask_->visible(q_pos, kv_pos); }
    Coverage coverage(Range q, Range kv) const { return mask_->coverage(q, kv); }
    Range bounds(Range q) const { return mask_->bounds(q); }
    Range next_visible(Range q, Index from) const { return mask_->next_visible(q, from); }
    std::uint64_t bits(Index q_pos, Index kv_begin, Index count) const {
      return mask_->bits(q_pos, kv_begin, count);
    }

   private:
    friend class AnyMask;

    Plane() = default;  // filled by its maker
    explicit Plane(const Positions& held) : mask_(&held) {}

    /// Keeps what `bind()` returns, without a copy.
    template <PositionMask Bound, class Bind>
    void keep(Bind bind) {
      using Kept = PositionsOf<Bound>;
      if constexpr (sizeof(Kept) <= sizeof memory_ && alignof(Kept) <= alignof(std::max_align_t)) {
        mask_ = ::new (static_cast<void*>(memory_)) Kept(bind);
        place_ = Place::here;
      } else {
        mask_ = new Kept(bind);
        place_ = Place::heap;
      }
    }

    // Several tensors and windows together fit.
    alignas(std::max_align_t) std::byte memory_[256];
    const Positions* mask_ = nullptr;
    enum class Place { elsewhere, here, heap } place_ = Place::elsewhere;
  };

  template <class M>
  requires(!std::same_as<M, AnyMask> && MaskLike<M>) AnyMask(M mask);  // NOLINT: converts on purpose

  Plane at(Index seq, Index q_head, std::optional<Index> first_query = {}) const {
    return mask_->at(seq, q_head, first_query);
  }
  HeadVariation varies_by_head() const { return mask_->by_head; }
  bool varies_by_seq() const { return mask_->by_seq; }
  /// Whether all its planes are one: a mask of positions, or made of such.
  bool is_fixed() const { return mask_->fixed; }
  void check(const AttentionExtent& extent) const { mask_->check(extent); }

 private:
  struct Interface {
    Interface(HeadVariation head, bool seq, bool same) : by_head(head), by_seq(seq), fixed(same) {}
    virtual ~Interface() = default;
    virtual Plane at(Index seq, Index q_head, std::optional<Index> first_query) const = 0;
    virtual void check(const AttentionExtent& extent) const = 0;
    HeadVariation by_head;
    bool by_seq, fixed;
  };
  template <Mask M>
  struct Model;

  std::shared_ptr<const Interface> mask_;
};

template <PositionMask M>
struct AnyMask::PositionsOf final : Positions {
  template <class Bind>
  explicit PositionsOf(Bind& bind) : mask(bind()) {}
  bool visible(Index q_pos, Index kv_pos) const override { return mask(q_pos, kv_pos); }
  Coverage coverage(Range q, Range kv) const override { return mask.coverage(q, kv); }
  Range bounds(Range q) const override { return kv_bounds(mask, q); }
  Range next_visible(Range q, Index from) const override { return gqa::next_visible(mask, q, from); }
  std::uint64_t bits(Index q_pos, Index kv_begin, Index count) const override {
    return row_bits(mask, q_pos, kv_begin, count);
  }
  void copy_to(Plane& plane) const override {
    plane.keep<M>([&]() -> const M& { return mask; });
  }
  M mask;
};

/// What an AnyMask shares: a mask, and its one plane where it has but one.
template <Mask M>
struct AnyMask::Model final : Interface {
  using Bound = detail::BoundOf<M>;

  explicit Model(M m)
      : Interface(head_variation(m), gqa::varies_by_seq(m), detail::is_fixed(m)), mask(std::move(m)) {
    if (!fixed) return;
    const auto bind = [&]() -> decltype(auto) { return mask_for(mask, 0, 0); };
    plane.emplace(bind);
  }

  Plane at(Index seq, Index q_head, std::optional<Index> first_query) const override {
    if (fixed) return Plane(*plane);
    if constexpr (std::is_same_v<Bound, Plane>) {
      return mask_for(mask, seq, q_head, first_query);
    } else {
      Plane made;
      made.keep<Bound>([&]() -> decltype(auto) { return mask_for(mask, seq, q_head, first_query); });
      return made;
    }
  }
  void check(const AttentionExtent& extent) const override { check_mask(mask, extent); }

  M mask;
  std::optional<PositionsOf<Bound>> plane;
};

template <class M>
requires(!std::same_as<M, AnyMask> && MaskLike<M>) AnyMask::AnyMask(M mask)
    : mask_(std::make_shared<const Model<MaskOf<M>>>(as_mask(std::move(mask)))) {}

}  // namespace gqa
