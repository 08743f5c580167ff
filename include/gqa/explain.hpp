// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <iomanip>
#include <sstream>
#include <string>
#include <vector>

#include "gqa/mask/mask_concept.hpp"

namespace gqa {

namespace detail {

/// The multiple at or below `a`, which may be negative.
constexpr Index floor_to(Index a, Index multiple) {
  const Index rest = a % multiple;
  return a - (rest < 0 ? rest + multiple : rest);
}

}  // namespace detail

/// What of a mask to explain, and in which blocks a kernel would ask it.
struct ExplainOptions {
  Index seq = 0;
  Index q_head = 0;
  Index q_block = 64;
  Index kv_block = 64;
  Index max_rows = 64;  ///< characters of the picture; beyond, one stands for several blocks
  Index max_columns = 128;
};

/// Which keys each query sees, and which blocks are never read, as figures, as text and as SVG.
class Explanation {
 public:
  /// A cell of the picture: a pair, or a rectangle of whole blocks where there are too many pairs.
  enum class Cell : char {
    skipped = ' ',  ///< never read
    masked = '.',   ///< read, but does not attend (pairs only)
    mixed = '+',    ///< some of it attends (blocks only)
    attends = '#'
  };

  Index num_pairs = 0;            ///< queries x keys
  Index num_visible = 0;          ///< pairs that attend
  Index num_computed = 0;         ///< pairs in blocks that are read
  Index blocks_skipped = 0;       ///< never read
  Index blocks_partial = 0;       ///< read and tested
  Index blocks_full = 0;          ///< read, never tested
  Index q_cell = 1, kv_cell = 1;  ///< positions a cell stands for
  Range q, kv;
  std::vector<std::vector<Cell>> cells;  ///< rows of queries, columns of keys

  double visible_fraction() const { return fraction(num_visible); }
  double computed_fraction() const { return fraction(num_computed); }

  /// The figures in one line, such as "53.1 % of pairs attend, 56.2 % are computed; blocks: ...".
  std::string summary() const {
    std::ostringstream out;
    out << std::fixed << std::setprecision(1) << 100 * visible_fraction() << " % of pairs attend, "
        << 100 * computed_fraction() << " % are computed; blocks: " << blocks_skipped << " skipped, "
        << blocks_partial << " partial, " << blocks_full << " full";
    return out.str();
  }

  /// A row of characters for each row of cells, labelled with its first query, and the summary.
  std::string text() const {
    std::ostringstream out;
    const auto width = static_cast<int>(
        std::max(std::to_string(q.begin).size(), std::to_string(std::max<Index>(q.end - 1, 0)).size()));
    for (std::size_t row = 0; row < cells.size(); ++row) {
      out << std::setw(width) << row_begin(row) << " |";
      for (const Cell cell : cells[row]) out << static_cast<char>(cell);
      out << "|\n";
    }
    out << "Queries " << q.begin << " to " << q.end - 1 << " down, keys " << kv.begin << " to " << kv.end - 1
        << " across";
    if (pairs()) {
      out << ". # attends, . is masked, blank is never read.\n";
    } else {
      out << ", " << q_cell << " x " << kv_cell
          << " a character. # attends, + in part, blank is never read.\n";
    }
    out << summary() << '\n';
    return out.str();
  }

  /// The same picture as a standalone SVG document.
  std::string svg() const {
    const std::size_t rows = cells.size(), columns = rows == 0 ? 0 : cells[0].size();
    constexpr int size = 8, margin = 4, caption = 20;
    const std::size_t width = std::max<std::size_t>(columns * size, 560) + 2 * margin;
    std::ostringstream out;
    out << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << width << "\" height=\""
        << rows * size + 2 * margin + caption << "\">\n<title>" << summary() << "</title>\n"
        << "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        << "<rect x=\"" << margin << "\" y=\"" << margin << "\" width=\"" << columns * size << "\" height=\""
        << rows * size << "\" fill=\"#f4f4f4\" stroke=\"#888\"/>\n";
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t begin = 0, end = 0; begin < columns; begin = end) {
        const Cell cell = cells[row][begin];
        while (end < columns && cells[row][end] == cell) ++end;
        if (cell == Cell::skipped) continue;
        out << "<rect x=\"" << margin + begin * size << "\" y=\"" << margin + row * size << "\" width=\""
            << (end - begin) * size << "\" height=\"" << size << "\" fill=\""
            << (cell == Cell::attends ? "#1f6f9f"
                : cell == Cell::mixed ? "#7fb4d4"
                                      : "#d3e5f0")
            << "\"/>\n";
      }
    }
    out << "<text x=\"" << margin << "\" y=\"" << rows * size + margin + 15
        << "\" font-family=\"sans-serif\" font-size=\"12\">" << summary() << "</text>\n</svg>\n";
    return out.str();
  }

 private:
  double fraction(Index part) const {
    return num_pairs == 0 ? 0 : static_cast<double>(part) / static_cast<double>(num_pairs);
  }
  bool pairs() const { return q_cell == 1 && kv_cell == 1; }
  /// Cells of blocks begin at multiples of their size, the first one where the queries do.
  Index row_begin(std::size_t row) const {
    const Index first = static_cast<Index>(row) * q_cell;
    return row == 0 || pairs() ? q.begin + first : detail::floor_to(q.begin, q_cell) + first;
  }
};

/// A picture of `mask` on queries at positions `q` and keys at `kv`. A block is skipped where coverage says
/// `none`; blocks begin at multiples of their size. Throws std::invalid_argument for blocks below 1, a
/// negative key or positions beyond max_position.
template <Mask M>
Explanation explain(const M& mask, Range q, Range kv, ExplainOptions options = {}) {
  GQA_CHECK(options.q_block >= 1, std::invalid_argument,
            "explain: q_block is " << options.q_block << ", expected at least 1");
  GQA_CHECK(options.kv_block >= 1, std::invalid_argument,
            "explain: kv_block is " << options.kv_block << ", expected at least 1");
  GQA_CHECK(options.max_rows >= 1 && options.max_columns >= 1, std::invalid_argument,
            "explain: the picture is " << options.max_rows << " x " << options.max_columns
                                       << ", expected at least 1 x 1");
  GQA_CHECK(kv.begin >= 0, std::invalid_argument,
            "explain: kv begins at " << kv.begin << ", expected at least 0");
  GQA_CHECK(-max_position <= q.begin && q.end <= max_position && kv.end <= max_position,
            std::invalid_argument,
            "explain: q is positions " << q.begin << " to " << q.end << " and kv " << kv.begin << " to "
                                       << kv.end << ", expected none beyond " << max_position);
  options.q_block = std::min(options.q_block, max_position);
  options.kv_block = std::min(options.kv_block, max_position);
  using Cell = Explanation::Cell;
  decltype(auto) m = mask_for(mask, options.seq, options.q_head, q.begin);

  Explanation e;
  e.q = q;
  e.kv = kv;
  e.num_pairs = checked_mul(q.size(), kv.size(), "explain");
  if (e.num_pairs == 0) return e;
  const bool pairs = q.size() <= options.max_rows && kv.size() <= options.max_columns;
  if (!pairs) {
    const auto cell_size = [&](Range range, Index block, Index most) {
      Index size = block;
      // Cells begin at multiples: positions on both sides of 0 never fit into one.
      while ((range.end - detail::floor_to(range.begin, size) - 1) / size >= most &&
             size < std::max(range.end, -range.begin))
        size += block;
      return size;
    };
    e.q_cell = cell_size(q, options.q_block, options.max_rows);
    e.kv_cell = cell_size(kv, options.kv_block, options.max_columns);
  }
  const Index q_origin = pairs ? q.begin : detail::floor_to(q.begin, e.q_cell);
  const Index kv_origin = pairs ? kv.begin : detail::floor_to(kv.begin, e.kv_cell);
  const auto count = [](Index origin, Index end, Index size) {
    return static_cast<std::size_t>((end - origin - 1) / size + 1);
  };
  const std::size_t rows = count(q_origin, q.end, e.q_cell), columns = count(kv_origin, kv.end, e.kv_cell);
  e.cells.assign(rows, std::vector<Cell>(columns, Cell::skipped));
  std::vector<std::vector<bool>> touched(rows, std::vector<bool>(columns));
  const auto paint = [&](Index i, Index j, Cell cell) {
    const auto row = static_cast<std::size_t>((i - q_origin) / e.q_cell);
    const auto column = static_cast<std::size_t>((j - kv_origin) / e.kv_cell);
    Cell& to = e.cells[row][column];
    to = !touched[row][column] || to == cell ? cell : Cell::mixed;
    touched[row][column] = true;
  };

  for (Index qb = detail::floor_to(q.begin, options.q_block); qb < q.end; qb += options.q_block) {
    const Range block_q = intersect(q, {qb, qb + options.q_block});
    for (Index kb = detail::floor_to(kv.begin, options.kv_block); kb < kv.end; kb += options.kv_block) {
      const Range block_kv = intersect(kv, {kb, kb + options.kv_block});
      const Coverage coverage = m.coverage(block_q, block_kv);
      (coverage == Coverage::none   ? e.blocks_skipped
       : coverage == Coverage::full ? e.blocks_full
                                    : e.blocks_partial) += 1;
      if (coverage != Coverage::none) e.num_computed += block_q.size() * block_kv.size();
      if (!pairs) {
        paint(block_q.begin, block_kv.begin,
              coverage == Coverage::none   ? Cell::skipped
              : coverage == Coverage::full ? Cell::attends
                                           : Cell::mixed);
      }
      if (coverage == Coverage::none) continue;
      for (Index i = block_q.begin; i < block_q.end; ++i) {
        for (Index j = block_kv.begin; j < block_kv.end; j += 64) {
          const Index n = std::min<Index>(64, block_kv.end - j);
          const std::uint64_t bits = row_bits(m, i, j, n);
          e.num_visible += std::popcount(bits);
          for (Index b = 0; pairs && b < n; ++b)
            paint(i, j + b, bits >> b & 1 ? Cell::attends : Cell::masked);
        }
      }
    }
  }
  return e;
}

/// The same for the last `num_q_tokens` queries of `num_kv_tokens` keys.
template <Mask M>
Explanation explain(const M& mask, Index num_q_tokens, Index num_kv_tokens,
                    const ExplainOptions& options = {}) {
  for (const Index tokens : {num_q_tokens, num_kv_tokens})
    GQA_CHECK(tokens >= 0 && tokens <= max_position, std::invalid_argument,
              "explain: " << num_q_tokens << " queries of " << num_kv_tokens << " keys, expected 0 to "
                          << max_position << " of either");
  return explain(mask, Range{num_kv_tokens - num_q_tokens, num_kv_tokens}, Range{0, num_kv_tokens}, options);
}

}  // namespace gqa
