// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <memory>
#include <span>

#include "gqa/mask/bitmap.hpp"

namespace gqa {

/// Which blocks of `q_block` queries by `kv_block` keys attend: block (i, j) holds the queries at positions
/// `[i * q_block, (i + 1) * q_block)` and the keys at `[j * kv_block, (j + 1) * kv_block)`. A copy shares the
/// table.
class BlockMask {
 public:
  struct Shape {
    Index num_q_blocks, num_kv_blocks;
    Index q_block = 64, kv_block = 64;
  };

  /// `allowed` lists the blocks row by row, num_q_blocks x num_kv_blocks. Throws std::invalid_argument if it
  /// does not, or for a shape that is not positive.
  static BlockMask from_bitmap(const Shape& shape, std::span<const bool> allowed) {
    const Index cells = checked_mul(shape.num_q_blocks, shape.num_kv_blocks, "blocks");
    GQA_CHECK(static_cast<Index>(allowed.size()) == cells, std::invalid_argument,
              "blocks: bitmap has " << allowed.size() << " entries, expected " << shape.num_q_blocks << " x "
                                    << shape.num_kv_blocks);
    return from_predicate(shape, [&](Index i, Index j) {
      return allowed[static_cast<std::size_t>(i * shape.num_kv_blocks + j)];
    });
  }

  /// `allowed(i, j)` is asked once for each block.
  template <std::predicate<Index, Index> F>
  static BlockMask from_predicate(const Shape& shape, F&& allowed) {
    GQA_CHECK(shape.num_q_blocks >= 0 && shape.num_kv_blocks >= 0, std::invalid_argument,
              "blocks: the bitmap is " << shape.num_q_blocks << " x " << shape.num_kv_blocks
                                       << ", expected neither to be negative");
    GQA_CHECK(shape.q_block >= 1, std::invalid_argument,
              "blocks: q_block is " << shape.q_block << ", expected at least 1");
    GQA_CHECK(shape.kv_block >= 1, std::invalid_argument,
              "blocks: kv_block is " << shape.kv_block << ", expected at least 1");
    checked_mul(shape.num_q_blocks, shape.q_block, "blocks");
    checked_mul(shape.num_kv_blocks, shape.kv_block, "blocks");
    detail::Bitmap bitmap(shape.num_q_blocks, shape.num_kv_blocks, "blocks");
    for (Index i = 0; shape.num_kv_blocks > 0 && i < shape.num_q_blocks; ++i) {
      for (Index j = 0; j < shape.num_kv_blocks; ++j) {
        if (allowed(i, j)) bitmap.set(i, j);
      }
    }
    return BlockMask(shape, std::move(bitmap));
  }

  const Shape& shape() const { return shape_; }
  bool allowed(Index q_block, Index kv_block) const { return (*bitmap_)(q_block, kv_block); }
  const detail::Bitmap& bitmap() const { return *bitmap_; }

  /// The share of blocks that attend.
  double density() const {
    if (shape_.num_q_blocks == 0 || shape_.num_kv_blocks == 0) return 0;
    Index set = 0;
    for (Index i = 0; i < shape_.num_q_blocks; ++i) set += bitmap_->count(i, {0, shape_.num_kv_blocks});
    return static_cast<double>(set) / static_cast<double>(shape_.num_q_blocks * shape_.num_kv_blocks);
  }

 private:
  BlockMask(const Shape& shape, detail::Bitmap bitmap)
      : shape_(shape), bitmap_(std::make_shared<const detail::Bitmap>(std::move(bitmap))) {}

  Shape shape_;
  std::shared_ptr<const detail::Bitmap> bitmap_;
};

/// The mask of a BlockMask.
class Blocks {
 public:
  explicit Blocks(BlockMask table) : table_(std::move(table)) {}

  bool operator()(Index q_pos, Index kv_pos) const {
    return q_positions().contains(q_pos) && kv_positions().contains(kv_pos) &&
           table_.allowed(q_pos / table_.shape().q_block, kv_pos / table_.shape().kv_block);
  }

  /// Exact: counts the blocks met.
  Coverage coverage(Range q, Range kv) const {
    const Range rows = q_blocks(q), columns = kv_blocks(kv);
    const Index met = rows.size() * columns.size();
    Index set = 0;
    for (Index i = rows.begin; i < rows.end; ++i) set += table_.bitmap().count(i, columns);
    if (set == 0) return Coverage::none;
    const bool inside = intersect(q, q_positions()) == q && intersect(kv, kv_positions()) == kv;
    return inside && set == met ? Coverage::full : Coverage::partial;
  }

  /// From the first to the last block that one of the queries' blocks allows.
  Range bounds(Range q) const {
    const Range rows = q_blocks(q);
    Range columns = {table_.shape().num_kv_blocks, 0};
    for (Index i = rows.begin; i < rows.end; ++i) {
      const Range row = table_.bitmap().hull(i);
      if (row.empty()) continue;
      columns = {std::min(columns.begin, row.begin), std::max(columns.end, row.end)};
    }
    return {columns.begin * table_.shape().kv_block, columns.end * table_.shape().kv_block};
  }

  /// Exact: neighbouring blocks that one of the queries' blocks allows.
  Range next_visible(Range q, Index from) const {
    const Index size = table_.shape().kv_block;
    const Range columns = table_.bitmap().next_run(q_blocks(q), from / size);
    if (columns.empty()) return {max_position, max_position};
    return {std::max(columns.begin * size, from), columns.end * size};
  }

  std::uint64_t bits(Index q_pos, Index kv_begin, Index count) const {
    if (!q_positions().contains(q_pos)) return 0;
    const Index row = q_pos / table_.shape().q_block, size = table_.shape().kv_block;
    const Range columns = kv_blocks({kv_begin, kv_begin + count});
    std::uint64_t bits = 0;
    for (Index j = columns.begin; j < columns.end; ++j) {
      if (table_.allowed(row, j)) bits |= range_bits({j * size, (j + 1) * size}, kv_begin, count);
    }
    return bits;
  }

  void check(const AttentionExtent& extent) const {
    const auto& s = table_.shape();
    GQA_CHECK(extent.q.end <= q_positions().end, std::invalid_argument,
              "blocks: the bitmap has " << s.num_q_blocks << " blocks of " << s.q_block
                                        << " queries, expected to reach position " << extent.q.end);
    GQA_CHECK(extent.kv.end <= kv_positions().end, std::invalid_argument,
              "blocks: the bitmap has " << s.num_kv_blocks << " blocks of " << s.kv_block
                                        << " keys, expected to reach position " << extent.kv.end);
  }

 private:
  Range q_positions() const { return {0, table_.shape().num_q_blocks * table_.shape().q_block}; }
  Range kv_positions() const { return {0, table_.shape().num_kv_blocks * table_.shape().kv_block}; }

  static Range blocks_met(Range positions, Index size) {
    if (positions.empty()) return {};
    return {positions.begin / size, (positions.end - 1) / size + 1};
  }
  Range q_blocks(Range q) const { return blocks_met(intersect(q, q_positions()), table_.shape().q_block); }
  Range kv_blocks(Range kv) const {
    return blocks_met(intersect(kv, kv_positions()), table_.shape().kv_block);
  }

  BlockMask table_;
};

/// Block-sparse attention: a query sees the keys of the blocks its own block allows, and no position outside
/// the table.
inline Blocks blocks(BlockMask table) { return Blocks(std::move(table)); }

}  // namespace gqa
