// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "gqa/mask/mask_concept.hpp"

namespace gqa::detail {

/// A table of bits, rows packed into words.
class Bitmap {
 public:
  Bitmap(Index rows, Index columns, const char* what)
      : rows_(rows), columns_(columns), words_per_row_(columns / 64 + (columns % 64 != 0)) {
    words_.resize(static_cast<std::size_t>(checked_mul(rows, words_per_row_, what)));
  }

  Index rows() const { return rows_; }
  Index columns() const { return columns_; }

  void set(Index row, Index column) { word(row, column / 64) |= std::uint64_t{1} << column % 64; }
  /// Adds all bits of `other` to `row`.
  void merge_row(Index row, Index other) {
    for (Index w = 0; w < words_per_row_; ++w) word(row, w) |= word(other, w);
  }

  bool operator()(Index row, Index column) const { return word(row, column / 64) >> column % 64 & 1; }

  /// How many bits of the row are set in `columns`, which lies inside the table.
  Index count(Index row, Range columns) const {
    Index total = 0;
    for (Index begin = columns.begin; begin < columns.end; begin = round_down(begin, 64) + 64) {
      total += std::popcount(bits(row, begin, std::min(round_down(begin, 64) + 64, columns.end) - begin));
    }
    return total;
  }

  /// From the row's first set bit to its last; empty if there is none.
  Range hull(Index row) const {
    Index first = 0, last = words_per_row_ - 1;
    while (first <= last && word(row, first) == 0) ++first;
    if (first > last) return {};
    while (word(row, last) == 0) --last;
    return {64 * first + std::countr_zero(word(row, first)),
            64 * last + 64 - std::countl_zero(word(row, last))};
  }

  /// The next run of columns at or after `from` that are each set in one of the rows; empty, at the last
  /// column's end, if there is none.
  Range next_run(Range rows, Index from) const {
    const Index begin = find(rows, from, 0);
    return {begin, find(rows, begin, ~std::uint64_t{0})};
  }

  /// Bits `[begin, begin + count)` of the row, count <= 64; those outside the table are 0.
  std::uint64_t bits(Index row, Index begin, Index count) const {
    if (begin < 0) return begin <= -count ? 0 : bits(row, 0, count + begin) << -begin;
    const Index w = begin / 64, shift = begin % 64;
    if (w >= words_per_row_) return 0;
    std::uint64_t result = word(row, w) >> shift;
    if (shift > 0 && w + 1 < words_per_row_) result |= word(row, w + 1) << (64 - shift);
    return result & low_bits(count);
  }

 private:
  std::uint64_t& word(Index row, Index w) {
    return words_[static_cast<std::size_t>(row * words_per_row_ + w)];
  }
  std::uint64_t word(Index row, Index w) const {
    return words_[static_cast<std::size_t>(row * words_per_row_ + w)];
  }

  /// The first column at or after `from` that is set in one of the rows, or with all of `flip` set in none.
  Index find(Range rows, Index from, std::uint64_t flip) const {
    std::uint64_t wanted = ~low_bits(from % 64);
    for (Index w = from / 64; w < words_per_row_; ++w) {
      std::uint64_t any = 0;
      for (Index row = rows.begin; row < rows.end; ++row) any |= word(row, w);
      wanted &= any ^ flip;
      // No bit is set past the last column: a flipped search ends right there.
      if (wanted != 0) return 64 * w + std::countr_zero(wanted);
      wanted = ~std::uint64_t{0};
    }
    return columns_;
  }

  Index rows_, columns_, words_per_row_;
  std::vector<std::uint64_t> words_;
};

}  // namespace gqa::detail
