// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "gqa/core/shape.hpp"

namespace gqa::detail {

/// Lays arrays out one after another, each at a multiple of 64 bytes. Run once without memory to learn the
/// size.
class Arena {
 public:
  explicit Arena(std::byte* memory = nullptr) : memory_(memory) {}

  template <class T>
  T* take(Index count) {
    return reinterpret_cast<T*>(take_bytes(count, sizeof(T)));
  }
  /// `rows` rows of `columns`.
  template <class T>
  T* take(Index rows, Index columns) {
    return take<T>(checked_mul(rows, columns, "workspace"));
  }
  Index used() const { return used_; }

 private:
  // Not inlined: a call lays out some thirty arrays.
  [[gnu::noinline]] std::byte* take_bytes(Index count, Index bytes) {
    std::byte* at = memory_ == nullptr ? nullptr : memory_ + used_;
    const Index size = checked_mul(count, bytes, "workspace");
    used_ = checked_add(used_, round_down(checked_add(size, 63, "workspace"), 64), "workspace");
    return at;
  }

  std::byte* memory_;
  Index used_ = 0;
};

}  // namespace gqa::detail
