// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include "gqa/core/arena.hpp"
#include "gqa/core/memory.hpp"
#include "gqa/core/shape.hpp"
#include "gqa/kernel/plan.hpp"

namespace gqa {

/// Memory that attention works in. A caller who keeps one across calls pays for its memory once: calls no
/// larger than an earlier one allocate nothing. It belongs to one call at a time, and holds nothing worth
/// keeping between two.
class Workspace {
 public:
  /// What it holds now.
  Index bytes() const { return bytes_with(0); }

  /// What it holds after reserve(size).
  Index bytes_with(Index size) const {
    return std::max(own_.capacity, size) + between_.capacity +
           static_cast<Index>(plan_.items.capacity() * sizeof(detail::WorkItem) +
                              plan_.splits.capacity() * sizeof(detail::Split));
  }

  /// At least `size` bytes, aligned to 64; what was there before is lost. Throws std::bad_alloc.
  std::byte* reserve(Index size) { return own_.reserve(size); }

  /// The same, of memory that reserve() leaves alone: for what is made of several calls, as a cascade is.
  std::byte* reserve_between_calls(Index size) { return between_.reserve(size); }

  detail::Plan& plan() { return plan_; }

 private:
  struct Memory {
    AlignedArray<std::byte> bytes;
    Index capacity = 0;

    Memory() = default;
    Memory(Memory&& other) noexcept { swap(other); }
    Memory& operator=(Memory&& other) noexcept {
      Memory(std::move(other)).swap(*this);
      return *this;
    }
    void swap(Memory& other) noexcept {
      std::swap(bytes, other.bytes);
      std::swap(capacity, other.capacity);
    }

    std::byte* reserve(Index size) {
      if (size > capacity) {
        bytes.reset();
        capacity = 0;
        bytes = allocate_aligned<std::byte>(static_cast<std::size_t>(size));
        capacity = size;
      }
      return bytes.get();
    }
  };

  Memory own_, between_;
  detail::Plan plan_;
};

}  // namespace gqa
