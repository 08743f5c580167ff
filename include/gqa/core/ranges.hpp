// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>

#include "gqa/core/shape.hpp"

namespace gqa {

/// A few ranges of positions, ascending and apart: what a ring with sinks retains, or what a mask lets be
/// seen. At least one, which may be empty. Throws std::length_error for more than it holds.
class Ranges {
 public:
  static constexpr Index most = 4;

  constexpr Ranges() = default;
  constexpr Ranges(Range only) : ranges_{only} {}  // NOLINT: converts on purpose
  constexpr Ranges(std::initializer_list<Range> ranges) {
    if (ranges.size() == 0) return;
    size_ = 0;
    for (const Range r : ranges) push_back(r);
  }

  constexpr void push_back(Range r) {
    GQA_CHECK(size_ < most, std::length_error, "ranges: more than " << most);
    ranges_[size_++] = r;
  }

  constexpr Index size() const { return size_; }
  constexpr const Range* begin() const { return ranges_; }
  constexpr const Range* end() const { return ranges_ + size_; }
  constexpr const Range& operator[](Index i) const { return ranges_[i]; }
  constexpr Range& back() { return ranges_[size_ - 1]; }

  /// From the first one's beginning to the last one's end.
  constexpr Range hull() const { return {ranges_[0].begin, ranges_[size_ - 1].end}; }
  /// Positions in all of them.
  constexpr Index positions() const {
    Index n = 0;
    for (const Range r : *this) n += r.size();
    return n;
  }
  constexpr bool empty() const { return positions() == 0; }

  friend constexpr bool operator==(const Ranges& a, const Ranges& b) {
    if (a.size_ != b.size_) return false;
    for (Index i = 0; i < a.size_; ++i)
      if (a.ranges_[i] != b.ranges_[i]) return false;
    return true;
  }

 private:
  Range ranges_[most] = {};
  Index size_ = 1;
};

/// Calls f(Range) for those of the ranges' positions that lie in r, which is not empty.
template <class F>
constexpr void for_common(const Ranges& ranges, Range r, F&& f) {
  for (const Range each : ranges) {
    const Range common = intersect(each, r);
    if (!common.empty()) f(common);
  }
}

/// Those of the ranges' positions that lie in r.
constexpr Ranges intersect(const Ranges& ranges, Range r) {
  Ranges result;
  bool first = true;
  for_common(ranges, r, [&](Range common) {
    if (first)
      result = common;
    else
      result.push_back(common);
    first = false;
  });
  return result;
}

}  // namespace gqa
