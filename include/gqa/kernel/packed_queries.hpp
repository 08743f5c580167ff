// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstring>

#include "gqa/core/memory.hpp"
#include "gqa/kernel/item.hpp"

namespace gqa::detail {

/// The queries of an item side by side, in what the products multiply: the type of the sums, or bfloat16 for
/// dot products. The sign of the scale is in them.
template <class Acc>
class PackedQueries {
 public:
  PackedQueries(Arena& arena, const Call<Acc>& call, Index rows, bool dot)
      : call_(call),
        dot_(dot),
        element_bytes_(dot ? Index{scalar_bytes<bfloat16>} : Index{sizeof(Acc)}),
        stride_(round_up(call.head_dim(), simd::padding)),
        memory_(arena.take<std::byte>(rows, stride_ * element_bytes_)) {}

  const void* row(Index i) const { return memory_ + i * stride_ * element_bytes_; }
  Index stride() const { return stride_; }

  void pack(const Item<Acc>& item, const Block& block) {
    const Index dim = call_.head_dim(), q_bytes = dim * call_.q_format.bytes;
    const bool as_they_are = call_.scale.sign == Acc{1} && call_.q_format.bytes == element_bytes_;
    for (Index i = 0; i < block.rows; ++i) {
      const Index row = block.first_row + i, token = item.token(row);
      const std::byte* from = item.queries.q.at(0, token, item.q_head(row));
      if (token + tuning::rows_ahead < block.tokens.end)
        prefetch(from + tuning::rows_ahead * item.queries.q.token_stride, static_cast<std::size_t>(q_bytes));
      std::byte* to = memory_ + row * stride_ * element_bytes_;
      if (as_they_are)
        std::memcpy(to, from, static_cast<std::size_t>(q_bytes));
      else if (dot_)
        turn_around(from, to);
      else
        call_.q_format.convert->widen(from, dim, call_.scale.sign, reinterpret_cast<Acc*>(to));
      if (stride_ > dim)
        std::memset(to + dim * element_bytes_, 0, static_cast<std::size_t>((stride_ - dim) * element_bytes_));
    }
  }

 private:
  /// Rows of bfloat16 by a scale that is not positive.
  void turn_around(const std::byte* from, std::byte* to) const {
    constexpr Index most = 64;
    Acc wide[most];
    for (Index d = 0; d < call_.head_dim(); d += most) {
      const Index count = std::min(most, call_.head_dim() - d);
      call_.q_format.convert->widen(from + d * element_bytes_, count, call_.scale.sign, wide);
      call_.q_format.convert->narrow(wide, count, Acc{1}, to + d * element_bytes_);
    }
  }

  const Call<Acc>& call_;
  bool dot_;
  Index element_bytes_, stride_;
  std::byte* memory_;
};

}  // namespace gqa::detail
