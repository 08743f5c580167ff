// SPDX-License-Identifier: Apache-2.0
// The keys and values of one chunk, ready to be multiplied.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

#include "gqa/core/arena.hpp"
#include "gqa/core/memory.hpp"
#include "gqa/kernel/tuning.hpp"
#include "gqa/kv/view.hpp"

namespace gqa::detail {

/// The right-hand side of a product: a matrix in element groups, and the kernels that read it.
template <class Acc>
struct Operand {
  const simd::Kernels<Acc>* kernels = nullptr;  // of what it holds
  void (*product)(const simd::Product&) = nullptr;
  const std::byte* data = nullptr;
  Index stride = 0;  // elements between groups of rows
  Index group = 1;
  Index element_bytes = 4;
  bool at_hand = false;  // was read lately, to be packed or ahead of its use: the caches have it

  /// From row r (a multiple of the group) and column c on.
  const void* at(Index row, Index column) const {
    return data + (row / group * stride + column * group) * element_bytes;
  }
};

/// Some keys of a tile as operands of the two products.
template <class Acc>
struct Piece {
  Index column = 0;  // of its first key, in the chunk
  Index size = 0;
  Operand<Acc> k;  // rows are dims, columns keys
  Operand<Acc> v;  // rows are keys, columns dims
  enum class Finite : std::uint8_t { unknown, yes, no } finite = Finite::unknown;

  Index tile() const { return column / tile_keys; }
  Index offset() const { return column % tile_keys; }  // in its tile
};

/// The kernels of a call, in one of two ways to multiply: in the type of the sums, or by bf16 dot products.
template <class Acc>
struct CallKernels {
  Isa set;
  const simd::Format* stored_format;
  const simd::Kernels<Acc>* stored;
  const simd::Kernels<Acc>& wide;
  const simd::RowKernels<Acc>& rows;
  bool dot;  // queries, keys and values are bfloat16 and the processor multiplies them in pairs
  void (*release)(simd::MatrixUnit&);  // null: products set no unit

  /// `format`: what keys and values are mostly held in.
  CallKernels(const simd::Format& format, bool queries_are_bf16, Isa isa)
      : set(isa),
        stored_format(&format),
        stored(&format.kernels<Acc>(isa)),
        wide(simd::kernels<Acc>(isa)),
        rows(simd::row_kernels<Acc>(isa)),
        dot(queries_are_bf16 && format.group == 2 && stored->product_dot != nullptr),
        release(dot ? stored->release : nullptr) {}

  const simd::Kernels<Acc>& of(const TileSide& side) const {
    return side.format == stored_format ? *stored : side.format->template kernels<Acc>(set);
  }
};

/// Scratch for one chunk, and what it holds now.
template <class Acc>
class Chunk {
 public:
  Chunk(Arena& arena, const KVSource& kv, const CallKernels<Acc>& kernels)
      : kv_(kv),
        kernels_(kernels),
        rules_(tile_rules<Acc>(kv)),
        value_stride_(round_up(kv.value_dim, simd::padding)),
        view_scratch_bytes_(scratch_stride(kv.scratch_bytes)),
        pieces_(arena.take<Piece<Acc>>(chunk_keys)),
        keys_(arena.take<Acc>(chunk_keys * round_up(kv.head_dim, 2) + simd::padding)),
        values_(arena.take<Acc>(chunk_keys * value_stride_)),
        clean_(arena.take<Acc>((tile_keys + 2) * value_stride_)),
        gathered_k_(arena.take<Acc>(tile_keys * kv.head_dim)),
        gathered_v_(arena.take<Acc>(tile_keys * kv.value_dim)),
        view_scratch_(arena.take<std::byte>(chunk_tiles, view_scratch_bytes_)) {}

  /// Empties the chunk and places it: the first piece of each of its tiles is not there yet.
  void begin(Index chunk) {
    begin_ = chunk * chunk_keys;
    size_ = 0;
  }
  Index begin() const { return begin_; }

  Piece<Acc>* pieces_begin() const { return pieces_; }
  Piece<Acc>* pieces_end() const { return pieces_ + size_; }
  bool empty() const { return size_ == 0; }

  /// Reads the keys `want`, of one tile, and makes operands of them for products with `rows` rows of queries.
  void read(Index seq, Index kv_head, Range want, Index rows) {
    const Index slot = (want.begin - begin_) / tile_keys;
    void* scratch = view_scratch_bytes_ == 0 ? nullptr : view_scratch_ + slot * view_scratch_bytes_;
    const KVTile tile = kv_.tile(seq, kv_head, want, scratch);
    check_tile(tile, want, rules_);
    if (tile.layout == TileLayout::token_major) prefetch_rows(tile);
    if (tile.size == want.size() && !(kernels_.dot && want.begin % 2 != 0))
      add(tile, want.begin, rows);
    else
      read_pieces(tile, seq, kv_head, want, scratch, rows);
  }

  /// Whether all values of a piece are finite, so that a weight of 0 makes nothing of them.
  bool finite(Piece<Acc>& piece) const {
    using Finite = typename Piece<Acc>::Finite;
    if (piece.finite == Finite::unknown)
      piece.finite = piece.v.kernels->all_finite(piece.v.at(0, 0), piece.v.stride, piece.size, value_stride_)
                         ? Finite::yes
                         : Finite::no;
    return piece.finite == Finite::yes;
  }

  /// A copy of the piece's values that has zeros for every key whose bit is not set, to be used before the
  /// next one.
  Operand<Acc> clean_values(const Piece<Acc>& piece, std::uint64_t visible) {
    const Operand<Acc>& v = piece.v;
    Operand<Acc> copy = v;
    copy.data = reinterpret_cast<const std::byte*>(clean_);
    copy.stride = value_stride_ * v.group;
    for (Index j = 0; j < round_up(piece.size, v.group); ++j) {
      const bool keep = j < piece.size && (visible >> j & 1) != 0;
      auto* to = reinterpret_cast<std::byte*>(clean_) + j / v.group * copy.stride * v.element_bytes;
      const auto* from = static_cast<const std::byte*>(v.at(j / v.group * v.group, 0));
      const auto bytes = static_cast<std::size_t>(v.element_bytes);
      for (Index c = 0; c < value_stride_; ++c) {
        const Index at = (c * v.group + j % v.group) * v.element_bytes;
        if (keep)
          std::memcpy(to + at, from + at, bytes);
        else
          std::memset(to + at, 0, bytes);
      }
    }
    return copy;
  }

 private:
  static Index scratch_stride(Index view_scratch_bytes) {
    GQA_CHECK(view_scratch_bytes >= 0, std::invalid_argument,
              "scratch_bytes is " << view_scratch_bytes << ", expected at least 0");
    return round_down(checked_add(view_scratch_bytes, 63, "scratch_bytes"), 64);
  }

  void prefetch_rows(const KVTile& tile) const {
    const auto rows = [&](const TileSide& side, Index dim, Index j) {
      const Index bytes = side.format->bytes;
      prefetch(side.as<std::byte>() + j * side.stride * bytes, static_cast<std::size_t>(dim * bytes));
    };
    for (Index j = 0; j < tile.size; ++j) {
      rows(tile.k, kv_.head_dim, j);
      rows(tile.v, kv_.value_dim, j);
    }
  }

  /// Reads keys that do not come in one piece, of which `tile` is the first. Short runs of token-major rows
  /// are gathered first: pairs of keys then fall as in a whole tile, and products are as long.
  [[gnu::noinline]] void read_pieces(KVTile tile, Index seq, Index kv_head, Range want, void* scratch,
                                     Index rows) {
    KVTile run{.layout = TileLayout::token_major};  // what has been gathered, up to want.begin
    const auto add_gathered = [&] {
      if (run.size > 0) add(run, want.begin - run.size, rows);
      run.size = 0;
    };
    if (kernels_.dot && want.begin % 2 != 0) {  // the first half of its pair is not there
      start_run(run, *kv_.format, *kv_.format);
      std::memset(static_cast<void*>(gathered_k_), 0,
                  static_cast<std::size_t>(kv_.head_dim * kv_.format->bytes));
      std::memset(static_cast<void*>(gathered_v_), 0,
                  static_cast<std::size_t>(kv_.value_dim * kv_.format->bytes));
      run.size = 1;
    }
    for (;;) {
      const bool token_major = tile.layout == TileLayout::token_major;
      // A dot product may add up whole steps of keys before it adds them to the rest: none may be cut in two.
      const bool cuts_step =
          kernels_.dot && tile.size < want.size() && (want.begin + tile.size) % simd::matrix_depth != 0;
      const bool fits = !tile.k.scaled() && !tile.v.scaled() &&
                        (run.size == 0 || (run.k.format == tile.k.format && run.v.format == tile.v.format));
      if (fits && (run.size > 0 || (token_major ? tile.size < want.size() : cuts_step))) {
        if (run.size == 0) start_run(run, *tile.k.format, *tile.v.format);
        gather(tile, run);
      } else {
        add_gathered();
        add(tile, want.begin, rows);
      }
      want.begin += tile.size;
      if (want.empty()) break;
      tile = kv_.tile(seq, kv_head, want, scratch);
      check_tile(tile, want, rules_);
      if (tile.layout == TileLayout::token_major) prefetch_rows(tile);
    }
    add_gathered();
  }

  void start_run(KVTile& run, const simd::Format& k, const simd::Format& v) {
    run.k = {.format = &k, .data = gathered_k_, .stride = kv_.head_dim};
    run.v = {.format = &v, .data = gathered_v_, .stride = kv_.value_dim};
  }

  /// Copies the keys and values of a tile behind those of the run, as token-major rows.
  void gather(const KVTile& tile, KVTile& run) {
    const bool packed = tile.layout == TileLayout::packed;
    const auto copy = [&](const TileSide& from, Acc* gathered, Index dim, Index j, bool dim_major) {
      const Index bytes = from.format->bytes, group = from.format->group;
      std::byte* to = reinterpret_cast<std::byte*>(gathered) + (run.size + j) * dim * bytes;
      const std::byte* data = from.as<std::byte>();
      if (!packed) {
        std::memcpy(to, data + j * from.stride * bytes, static_cast<std::size_t>(dim * bytes));
        return;
      }
      for (Index d = 0; d < dim; ++d) {
        const Index outer = dim_major ? d : j, inner = dim_major ? j : d;
        const Index at = outer / group * from.stride + inner * group + outer % group;
        std::memcpy(to + d * bytes, data + at * bytes, static_cast<std::size_t>(bytes));
      }
    };
    for (Index j = 0; j < tile.size; ++j) {
      copy(tile.k, gathered_k_, kv_.head_dim, j, true);
      copy(tile.v, gathered_v_, kv_.value_dim, j, false);
    }
    run.size += tile.size;
  }

  [[gnu::noinline]] void add(const KVTile& tile, Index position, Index rows) {
    auto& piece = *::new (pieces_ + size_++) Piece<Acc>;
    piece.column = position - begin_;
    piece.size = tile.size;
    if (kernels_.dot) {
      read_pairs(tile, piece);
    } else {
      piece.k = wide_keys(tile, piece, rows);
      piece.v = wide_values(tile, piece, rows);
    }
  }

  Operand<Acc> stored(const TileSide& side) const {
    const auto& kernels = kernels_.of(side);
    return {&kernels,    kernels.product,    side.as<std::byte>(),
            side.stride, side.format->group, side.format->bytes};
  }
  Operand<Acc> widened(const Acc* data, Index stride) const {
    return {&kernels_.wide,
            kernels_.wide.product,
            reinterpret_cast<const std::byte*>(data),
            stride,
            1,
            Index{sizeof(Acc)},
            true};
  }
  /// Whether a packed side is multiplied as it stands.
  static bool as_stored(const TileSide& side, Index rows) {
    return !side.scaled() && (side.format->bytes == Index{sizeof(Acc)} || !tuning::widens_once(rows));
  }

  Operand<Acc> wide_keys(const KVTile& tile, const Piece<Acc>& piece, Index rows) {
    const TileSide& k = tile.k;
    const bool packed = tile.layout == TileLayout::packed;
    if (packed && as_stored(k, rows)) return stored(k);
    const Index offset = piece.offset();
    Acc* keys = keys_ + (piece.column - offset) * round_up(kv_.head_dim, 2) + offset;
    const auto& kernels = kernels_.of(k);
    if (packed)
      kernels.widen(k.data, k.stride, round_up(kv_.head_dim, k.format->group), piece.size, keys, tile_keys);
    else
      kernels.transpose_keys(k.data, k.stride, piece.size, kv_.head_dim, tile_keys - offset, keys);
    scale(k, keys, tile_keys, kv_.head_dim, piece.size);
    return widened(keys, tile_keys);
  }

  Operand<Acc> wide_values(const KVTile& tile, const Piece<Acc>& piece, Index rows) {
    const TileSide& v = tile.v;
    const bool packed = tile.layout == TileLayout::packed;
    if (packed && as_stored(v, rows)) return stored(v);
    Acc* values = values_ + piece.column * value_stride_;
    if (packed) {
      kernels_.of(v).widen(v.data, v.stride, piece.size, value_stride_, values, value_stride_);
    } else {
      const bool whole_vectors = kv_.value_dim == value_stride_ && v.data != gathered_v_;
      if (v.format->bytes == Index{sizeof(Acc)} && whole_vectors && !v.scaled() &&
          !tuning::copies_values(rows, v.stride * v.format->bytes))
        return widened(v.as<Acc>(), v.stride);
      const auto& kernels = kernels_.of(v);
      const Index row_bytes = v.stride * v.format->bytes;
      for (Index j = 0; j < piece.size; ++j) {
        Acc* row = values + j * value_stride_;
        kernels.widen_row(v.as<std::byte>() + j * row_bytes, kv_.value_dim, Acc{1}, row);
        std::fill(row + kv_.value_dim, row + value_stride_, Acc{0});  // to whole vectors
      }
    }
    scale(v, values, value_stride_, piece.size, kv_.value_dim);
    return widened(values, value_stride_);
  }

  static void scale(const TileSide& side, Acc* elements, Index stride, Index rows, Index columns) {
    if (!side.scaled()) return;
    for (Index r = 0; r < rows; ++r) {
      Acc* row = elements + r * stride;
      if (side.depth_scale != nullptr)
        for (Index c = 0; c < columns; ++c) row[c] *= static_cast<Acc>(side.depth_scale[r]);
      if (side.column_scale != nullptr)
        for (Index c = 0; c < columns; ++c) row[c] *= static_cast<Acc>(side.column_scale[c]);
    }
  }

  void read_pairs(const KVTile& tile, Piece<Acc>& piece) {
    const auto& kernels = kernels_.of(tile.k);
    piece.k = stored(tile.k);
    piece.v = stored(tile.v);
    piece.k.product = piece.v.product = kernels.product_dot;
    if (tile.layout == TileLayout::packed) return;
    piece.k.at_hand = piece.v.at_hand = true;
    const Index offset = piece.offset();
    auto* keys = reinterpret_cast<std::uint16_t*>(keys_) +
                 (piece.column - offset) * round_up(kv_.head_dim, 2) + offset * 2;
    auto* values = reinterpret_cast<std::uint16_t*>(values_) + round_up(piece.column, 2) * value_stride_;
    kernels.transpose_stored(tile.k.data, tile.k.stride, piece.size, kv_.head_dim, tile_keys - offset, keys);
    kernels.interleave_pairs(tile.v.data, tile.v.stride, piece.size, kv_.value_dim, values,
                             value_stride_ * 2);
    piece.k.data = reinterpret_cast<const std::byte*>(keys);
    piece.k.stride = tile_keys * 2;
    piece.v.data = reinterpret_cast<const std::byte*>(values);
    piece.v.stride = value_stride_ * 2;
  }

  const KVSource& kv_;
  const CallKernels<Acc>& kernels_;
  TileRules rules_;
  Index value_stride_, view_scratch_bytes_;
  Piece<Acc>* pieces_;
  Acc* keys_;
  Acc* values_;
  Acc* clean_;
  Acc* gathered_k_;
  Acc* gathered_v_;
  std::byte* view_scratch_;
  Index begin_ = 0, size_ = 0;
};

}  // namespace gqa::detail
