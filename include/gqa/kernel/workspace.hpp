// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

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
           static_cast<Index>(plan_.items.capacity() * sizeof(WorkItem) +
                              plan_.splits.capacity() * sizeof(Split));
  }

  /// At least `size` bytes, aligned to 64; what was there before is lost. Throws std::bad_alloc.
  std::byte* reserve(Index size) { return own_.reserve(size); }

  /// The same, of memory that reserve() leaves alone: for what is made of several calls, as a cascade is.
  std::byte* reserve_between_calls(Index size) { return between_.reserve(size); }

  Plan& plan() { return plan_; }

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
  Plan plan_;
};

namespace detail {

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

}  // namespace detail

}  // namespace gqa
