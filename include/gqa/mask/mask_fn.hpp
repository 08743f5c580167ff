// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>
#include <utility>

#include "gqa/mask/mask_concept.hpp"

namespace gqa {

/// A function `(q_pos, kv_pos) -> bool` that is not itself a mask.
template <class F>
concept MaskFunction = !Mask<F> && requires(const F& f, Index position) {
  { f(position, position) } -> std::same_as<bool>;
};

/// A mask made of a function. It knows nothing of blocks, so each is `partial`: all are read and tested.
template <MaskFunction F>
class FunctionMask {
 public:
  constexpr explicit FunctionMask(F f) : f_(std::move(f)) {}

  constexpr bool operator()(Index q_pos, Index kv_pos) const { return f_(q_pos, kv_pos); }
  constexpr Coverage coverage(Range q, Range kv) const {
    return q.empty() || kv.empty() ? Coverage::none : Coverage::partial;
  }

 private:
  F f_;
};

/// The mask of a function `(q_pos, kv_pos) -> bool`; compose it with a mask that has coverage to skip blocks.
template <MaskFunction F>
constexpr auto mask_fn(F f) {
  return FunctionMask<F>(std::move(f));
}

/// A mask or a function that can be made one.
template <class M>
concept MaskLike = Mask<M> || MaskFunction<M>;

/// The mask itself, or the mask of a function.
template <MaskLike M>
constexpr auto as_mask(M m) {
  if constexpr (Mask<M>) {
    return m;
  } else {
    return FunctionMask<M>(std::move(m));
  }
}

template <MaskLike M>
using MaskOf = decltype(as_mask(std::declval<M>()));

}  // namespace gqa
