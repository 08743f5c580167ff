// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "gqa/mask/mask_fn.hpp"
#include "gqa/mask/mask_ref.hpp"

namespace gqa {

template <Mask A, Mask B>
class AndMask;
template <Mask A, Mask B>
class OrMask;
template <Mask A>
class NotMask;

namespace detail {

template <class A, class B>
concept BothPositionMasks = PositionMask<A> && PositionMask<B>;

/// Whether rows have a closed form, so that looking at all of a block's is cheap.
template <class M>
inline constexpr bool has_row_form = requires(const M& m, Index i) {
  m.bits(i, i, i);
};

/// The coverage of a block that two masks both cover in part, by its rows: exact. Past 256 words of rows, or
/// without a closed form, looking would cost more than it saves and the answer is `partial`.
template <PositionMask M>
constexpr Coverage coverage_by_rows(const M& mask, Range q, Range kv) {
  constexpr Index most = 256;
  if (!has_row_form<M> || q.size() > most || kv.size() > 64 * most ||
      q.size() * ceil_div(kv.size(), 64) > most)
    return Coverage::partial;
  bool some = false, all = true;
  for (Index i = q.begin; i < q.end; ++i) {
    for (Index j = kv.begin; j < kv.end; j += 64) {
      const Index count = std::min<Index>(64, kv.end - j);
      const std::uint64_t bits = row_bits(mask, i, j, count);
      some |= bits != 0;
      all &= bits == low_bits(count);
      if (some && !all) return Coverage::partial;
    }
  }
  return all ? Coverage::full : Coverage::none;
}

template <class M>
inline constexpr bool has_row_form<MaskRef<M>> = has_row_form<M>;

/// What & and | have in common: two masks, and what they ask of a call.
template <Mask A, Mask B>
class MaskPair {
 public:
  constexpr MaskPair(A a, B b) : a_(std::move(a)), b_(std::move(b)) {}

  constexpr HeadVariation varies_by_head() const { return std::max(head_variation(a_), head_variation(b_)); }
  constexpr bool varies_by_seq() const { return gqa::varies_by_seq(a_) || gqa::varies_by_seq(b_); }
  constexpr bool is_fixed() const { return detail::is_fixed(a_) && detail::is_fixed(b_); }
  void check(const AttentionExtent& extent) const {
    check_mask(a_, extent);
    check_mask(b_, extent);
  }

 protected:
  A a_;
  B b_;
};

template <class A, class B>
inline constexpr bool has_row_form<AndMask<A, B>> = has_row_form<A>&& has_row_form<B>;
template <class A, class B>
inline constexpr bool has_row_form<OrMask<A, B>> = has_row_form<A>&& has_row_form<B>;
template <class A>
inline constexpr bool has_row_form<NotMask<A>> = has_row_form<A>;

}  // namespace detail

/// Attends where both masks do. `none` where either is, `full` where both are; where both are `partial`,
/// their rows decide.
template <Mask A, Mask B>
class AndMask : public detail::MaskPair<A, B> {
 public:
  using detail::MaskPair<A, B>::MaskPair;

  constexpr bool operator()(Index q_pos, Index kv_pos) const requires detail::BothPositionMasks<A, B> {
    return this->a_(q_pos, kv_pos) && this->b_(q_pos, kv_pos);
  }

  constexpr Coverage coverage(Range q, Range kv) const requires detail::BothPositionMasks<A, B> {
    const Coverage a = this->a_.coverage(q, kv);
    if (a == Coverage::none) return a;
    const Coverage b = this->b_.coverage(q, kv);
    if (b == Coverage::none || a == Coverage::full) return b;
    return b == Coverage::full ? a : detail::coverage_by_rows(*this, q, kv);
  }

  constexpr Range bounds(Range q) const requires detail::BothPositionMasks<A, B> {
    return intersect(kv_bounds(this->a_, q), kv_bounds(this->b_, q));
  }

  /// Each side's next run from where the other's begins, until two meet.
  constexpr Range next_visible(Range q, Index from) const requires detail::BothPositionMasks<A, B> {
    while (true) {
      const Range a = gqa::next_visible(this->a_, q, from);
      const Range b = gqa::next_visible(this->b_, q, a.begin);
      const Range both = intersect(a, b);
      if (!both.empty() || b.empty()) return both;
      from = b.begin;  // past a's end: the search ends
    }
  }

  constexpr std::uint64_t bits(Index q_pos, Index kv_begin,
                               Index count) const requires detail::BothPositionMasks<A, B> {
    return row_bits(this->a_, q_pos, kv_begin, count) & row_bits(this->b_, q_pos, kv_begin, count);
  }

  constexpr auto at(Index seq, Index q_head, std::optional<Index> first_query = {}) const
      requires(!detail::BothPositionMasks<A, B>) {
    return AndMask<detail::BoundOf<A>, detail::BoundOf<B>>(mask_for(this->a_, seq, q_head, first_query),
                                                           mask_for(this->b_, seq, q_head, first_query));
  }
};

/// Attends where either mask does. `full` where either is, `none` where both are; where both are `partial`,
/// their rows decide.
template <Mask A, Mask B>
class OrMask : public detail::MaskPair<A, B> {
 public:
  using detail::MaskPair<A, B>::MaskPair;

  constexpr bool operator()(Index q_pos, Index kv_pos) const requires detail::BothPositionMasks<A, B> {
    return this->a_(q_pos, kv_pos) || this->b_(q_pos, kv_pos);
  }

  constexpr Coverage coverage(Range q, Range kv) const requires detail::BothPositionMasks<A, B> {
    const Coverage a = this->a_.coverage(q, kv);
    if (a == Coverage::full) return a;
    const Coverage b = this->b_.coverage(q, kv);
    if (b == Coverage::full || a == Coverage::none) return b;
    return b == Coverage::none ? a : detail::coverage_by_rows(*this, q, kv);
  }

  /// The hull of both: an empty one adds nothing to it.
  constexpr Range bounds(Range q) const requires detail::BothPositionMasks<A, B> {
    const Range a = kv_bounds(this->a_, q), b = kv_bounds(this->b_, q);
    if (a.empty()) return b;
    if (b.empty()) return a;
    return {std::min(a.begin, b.begin), std::max(a.end, b.end)};
  }

  /// The earlier of both sides' runs, joined with the other where they overlap or touch.
  constexpr Range next_visible(Range q, Index from) const requires detail::BothPositionMasks<A, B> {
    Range first = gqa::next_visible(this->a_, q, from), second = gqa::next_visible(this->b_, q, from);
    if (second.begin < first.begin) std::swap(first, second);
    if (second.begin <= first.end) first.end = std::max(first.end, second.end);
    return first;
  }

  constexpr std::uint64_t bits(Index q_pos, Index kv_begin,
                               Index count) const requires detail::BothPositionMasks<A, B> {
    return row_bits(this->a_, q_pos, kv_begin, count) | row_bits(this->b_, q_pos, kv_begin, count);
  }

  constexpr auto at(Index seq, Index q_head, std::optional<Index> first_query = {}) const
      requires(!detail::BothPositionMasks<A, B>) {
    return OrMask<detail::BoundOf<A>, detail::BoundOf<B>>(mask_for(this->a_, seq, q_head, first_query),
                                                          mask_for(this->b_, seq, q_head, first_query));
  }
};

/// Attends where the mask does not: its complement, with coverage as exact as the mask's own.
template <Mask A>
class NotMask {
 public:
  constexpr explicit NotMask(A a) : a_(std::move(a)) {}

  constexpr bool operator()(Index q_pos, Index kv_pos) const requires PositionMask<A> {
    return !a_(q_pos, kv_pos);
  }

  constexpr Coverage coverage(Range q, Range kv) const requires PositionMask<A> {
    if (q.empty() || kv.empty()) return Coverage::none;
    switch (a_.coverage(q, kv)) {
      case Coverage::none:
        return Coverage::full;
      case Coverage::full:
        return Coverage::none;
      default:
        return Coverage::partial;
    }
  }

  constexpr std::uint64_t bits(Index q_pos, Index kv_begin, Index count) const requires PositionMask<A> {
    return ~row_bits(a_, q_pos, kv_begin, count) & low_bits(count);
  }

  constexpr auto at(Index seq, Index q_head,
                    std::optional<Index> first_query = {}) const requires BoundMask<A> {
    return NotMask<detail::BoundOf<A>>(mask_for(a_, seq, q_head, first_query));
  }

  constexpr HeadVariation varies_by_head() const { return head_variation(a_); }
  constexpr bool varies_by_seq() const { return gqa::varies_by_seq(a_); }
  constexpr bool is_fixed() const { return detail::is_fixed(a_); }
  void check(const AttentionExtent& extent) const { check_mask(a_, extent); }

 private:
  A a_;
};

/// Where both attend. Either side may be a lambda `(q_pos, kv_pos) -> bool`.
template <class A, class B>
requires(Mask<A> || Mask<B>) && MaskLike<A>&& MaskLike<B> constexpr auto operator&(A a, B b) {
  return AndMask<MaskOf<A>, MaskOf<B>>(as_mask(std::move(a)), as_mask(std::move(b)));
}

/// Where either attends. Either side may be a lambda `(q_pos, kv_pos) -> bool`.
template <class A, class B>
requires(Mask<A> || Mask<B>) && MaskLike<A>&& MaskLike<B> constexpr auto operator|(A a, B b) {
  return OrMask<MaskOf<A>, MaskOf<B>>(as_mask(std::move(a)), as_mask(std::move(b)));
}

/// Where the mask does not attend.
template <Mask A>
constexpr auto operator!(A a) {
  return NotMask<A>(std::move(a));
}

}  // namespace gqa
