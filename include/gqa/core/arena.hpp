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
    std::byte* at = memory_ == nullptr ? nullptr : memory_ + used_;
    const Index size = checked_mul(count, sizeof(T), "workspace");
    used_ = checked_add(used_, round_down(checked_add(size, 63, "workspace"), 64), "workspace");
    return reinterpret_cast<T*>(at);
  }
  Index used() const { return used_; }

 private:
  std::byte* memory_;
  Index used_ = 0;
};

}  // namespace gqa::detail
