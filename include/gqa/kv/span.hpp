// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

#include "gqa/core/shape.hpp"

namespace gqa {

/// Tokens that a cache has made room for: their positions, and which state of which cache they belong to.
struct Span {
  Range positions;
  std::uint64_t epoch = 0;  ///< of one cache, between two of its truncations; never 0

  Index size() const { return positions.size(); }
};

namespace detail {

/// A number that no state of any cache of the program has had.
inline std::uint64_t next_epoch() {
  static std::atomic<std::uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

}  // namespace detail

}  // namespace gqa
