// SPDX-License-Identifier: Apache-2.0
// The keys and values of one chunk, ready to be multiplied.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>

#include "gqa/core/memory.hpp"
#include "gqa/kernel/plan.hpp"
#include "gqa/kernel/workspace.hpp"
#include "gqa/kv/view.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa::detail {

/// The right-hand side of a product: a matrix in element groups, and the kernel that reads it.
struct Operand {
  void (*product)(const simd::Product&) = nullptr;
  const std::byte* data = nullptr;
  Index stride = 0;  // elements between groups of rows
  Index group = 1;
  Index element_bytes = 4;

  /// From row r (a multiple of the group) and column c on.
  const void* at(Index row, Index column) const {
    return data + (row / group * stride + column * group) * element_bytes;
  }
};

/// Some keys of a tile: as stored, and as operands of the two products.
template <Scalar T>
struct Piece {
  Index column = 0;  // of its first key, in the chunk
  Index size = 0;
  Operand k;  // rows are dims, columns keys
  Operand v;  // rows are keys, columns dims
  enum class Finite : std::uint8_t { unknown, yes, no } finite = Finite::unknown;
};

/// Kernels for views of T, in two ways of reading it: in the accumulator, or by the bf16 dot product.
template <Scalar T>
struct ProductKernels {
  using Acc = Accumulator<T>;

  simd::Kernels<Accumulator<T>> stored;
  simd::Kernels<Acc> wide;
  simd::ConvertKernels<Accumulator<T>> convert;
  bool dot;  // queries and keys are bfloat16 and the processor multiplies them in pairs

  ProductKernels(Isa isa, bool queries_are_bf16)
      : stored(simd::kernels<T>(isa)),
        wide(simd::kernels<Acc>(isa)),
        convert(simd::convert_kernels<T>(isa)),
        dot(queries_are_bf16 && stored.product_dot != nullptr) {}
};

/// Scratch for one chunk, and what it holds now.
template <Scalar T>
class Chunk {
 public:
  using Acc = Accumulator<T>;

  Chunk(Arena& arena, Index head_dim, Index value_dim, Index view_scratch_bytes)
      : head_dim_(head_dim),
        value_dim_(value_dim),
        value_stride_(round_up(value_dim, simd::padding)),
        view_scratch_bytes_(scratch_stride(view_scratch_bytes)),
        pieces_(arena.take<Piece<T>>(chunk_keys)),
        keys_(arena.take<Acc>(chunk_keys * round_up(head_dim, 2) + simd::padding)),
        values_(arena.take<Acc>(chunk_keys * value_stride_)),
        clean_(arena.take<Acc>((tile_keys + 2) * value_stride_)),
        gathered_(arena.take<T>(tile_keys * (head_dim + value_dim))),
        view_scratch_(arena.take<std::byte>(checked_mul(chunk_tiles, view_scratch_bytes_, "workspace"))) {}

  /// Empties the chunk and places it: the first piece of each of its tiles is not there yet.
  void begin(Index chunk) {
    begin_ = chunk * chunk_keys;
    size_ = 0;
  }
  Index begin() const { return begin_; }

  Piece<T>* pieces_begin() const { return pieces_; }
  Piece<T>* pieces_end() const { return pieces_ + size_; }

  /// Reads the keys `want`, of one tile, and makes operands of them for products with `rows_of_queries` rows.
  /// Short runs of token-major rows are gathered first: pairs of keys then fall as in a whole tile, and
  /// products are as long.
  template <class View>
  void read(const View& view, const ProductKernels<T>& kernels, Index seq, Index kv_head, Range want,
            Index rows_of_queries) {
    const Index slot = (want.begin - begin_) / tile_keys;
    void* scratch = view_scratch_bytes_ == 0 ? nullptr : view_scratch_ + slot * view_scratch_bytes_;
    Index gathered = 0;
    const auto add_gathered = [&] {
      if (gathered == 0) return;
      const KVTile<T> rows{gathered_,  head_dim_, gathered_ + tile_keys * head_dim_,
                           value_dim_, gathered,  TileLayout::token_major};
      add(rows, kernels, want.begin - gathered, gathered, rows_of_queries);
      gathered = 0;
    };
    if (kernels.dot && want.begin % element_group<T> != 0) {  // the first half of its pair is not there
      std::fill_n(gathered_, head_dim_, T{});
      std::fill_n(gathered_ + tile_keys * head_dim_, value_dim_, T{});
      gathered = 1;
    }
    while (!want.empty()) {
      const KVTile<T> tile = view.tile(seq, kv_head, want, scratch);
      check_tile(tile, want, value_dim_);
      const Index size = tile.size;
      const bool token_major = tile.layout == TileLayout::token_major;
      for (Index j = 0; token_major && j < size; ++j) {
        prefetch(tile.k + j * tile.k_stride, static_cast<std::size_t>(head_dim_) * sizeof(T));
        prefetch(tile.v + j * tile.v_stride, static_cast<std::size_t>(value_dim_) * sizeof(T));
      }
      // A dot product may add up whole steps of keys before it adds them to the rest: none may be cut in two.
      const bool cuts_step =
          kernels.dot && size < want.size() && (want.begin + size) % simd::matrix_depth != 0;
      if (token_major ? gathered > 0 || size < want.size() : gathered > 0 || cuts_step) {
        gather(tile, gathered, size);
        gathered += size;
      } else {
        add_gathered();
        add(tile, kernels, want.begin, size, rows_of_queries);
      }
      want.begin += size;
    }
    add_gathered();
  }

  /// Whether all values of a piece are finite, so that a weight of 0 makes nothing of them.
  bool finite(Piece<T>& piece, const ProductKernels<T>& kernels) const {
    using Finite = typename Piece<T>::Finite;
    if (piece.finite == Finite::unknown) {
      const auto columns = value_stride_;
      const bool is =
          piece.v.group == element_group<T> && piece.v.element_bytes == static_cast<Index>(sizeof(T))
              ? kernels.stored.all_finite(static_cast<const T*>(piece.v.at(0, 0)), piece.v.stride, piece.size,
                                          columns)
              : kernels.wide.all_finite(static_cast<const Acc*>(piece.v.at(0, 0)), piece.v.stride, piece.size,
                                        columns);
      piece.finite = is ? Finite::yes : Finite::no;
    }
    return piece.finite == Finite::yes;
  }

  /// A copy of the piece's values that has zeros for every key whose bit is not set, to be used before the
  /// next one.
  Operand clean_values(const Piece<T>& piece, std::uint64_t visible) {
    const Operand& v = piece.v;
    Operand copy = v;
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
  // From this many rows on 16-bit keys are widened once, not in each pass over them: that takes as long as
  // about 10 passes' conversions, each a fifth of a pass. With fewer rows the products stream what is stored.
  // The sums are the same: each widened element enters the same multiply-add.
  static constexpr Index widen_rows = 64;

  // From this many rows on a caller's values are copied to rows that stand side by side: token strides of
  // whole pages, as G heads of D often make, leave all rows in a few sets of the cache and miss in every
  // pass.
  static constexpr Index copy_rows = 24;

  static Index scratch_stride(Index view_scratch_bytes) {
    GQA_CHECK(view_scratch_bytes >= 0, std::invalid_argument,
              "scratch_bytes is " << view_scratch_bytes << ", expected at least 0");
    return round_down(checked_add(view_scratch_bytes, 63, "scratch_bytes"), 64);
  }

  /// Copies `size` keys and values behind those there already, as token-major rows.
  void gather(const KVTile<T>& tile, Index there, Index size) {
    constexpr Index E = element_group<T>;
    for (Index j = 0; j < size; ++j) {
      T* k = gathered_ + (there + j) * head_dim_;
      T* v = gathered_ + tile_keys * head_dim_ + (there + j) * value_dim_;
      if (tile.layout == TileLayout::token_major) {
        std::copy_n(tile.k + j * tile.k_stride, head_dim_, k);
        std::copy_n(tile.v + j * tile.v_stride, value_dim_, v);
      } else {
        for (Index d = 0; d < head_dim_; ++d) k[d] = tile.k[d / E * tile.k_stride + j * E + d % E];
        for (Index c = 0; c < value_dim_; ++c) v[c] = tile.v[j / E * tile.v_stride + c * E + j % E];
      }
    }
  }

  void add(const KVTile<T>& tile, const ProductKernels<T>& kernels, Index position, Index size, Index rows) {
    auto& piece = *::new (pieces_ + size_++) Piece<T>;
    piece.column = position - begin_;
    piece.size = size;
    if (kernels.dot)
      read_pairs(tile, kernels, piece);
    else
      read_wide(tile, kernels, piece, rows);
  }

  void read_wide(const KVTile<T>& tile, const ProductKernels<T>& kernels, Piece<T>& piece, Index rows) {
    constexpr Index T_bytes = sizeof(T), Acc_bytes = sizeof(Acc);
    const Index column = piece.column, offset = column % tile_keys;
    Acc* keys = keys_ + (column - offset) * round_up(head_dim_, 2) + offset;
    Acc* values = values_ + column * value_stride_;
    const auto bytes = [](const auto* p) { return reinterpret_cast<const std::byte*>(p); };
    const bool packed = tile.layout == TileLayout::packed;
    const Operand wide_k{kernels.wide.product, bytes(keys), tile_keys, 1, Acc_bytes};
    const Operand wide_v{kernels.wide.product, bytes(values), value_stride_, 1, Acc_bytes};
    if (packed && (std::is_same_v<T, Acc> || rows < widen_rows)) {
      piece.k = {kernels.stored.product, bytes(tile.k), tile.k_stride, element_group<T>, T_bytes};
      piece.v = {kernels.stored.product, bytes(tile.v), tile.v_stride, element_group<T>, T_bytes};
    } else if (packed) {
      piece.k = wide_k;
      piece.v = wide_v;
      kernels.stored.widen(tile.k, tile.k_stride, round_up(head_dim_, element_group<T>), piece.size, keys,
                           tile_keys);
      kernels.stored.widen(tile.v, tile.v_stride, piece.size, value_stride_, values, value_stride_);
    } else {
      piece.k = wide_k;
      kernels.stored.transpose_keys(tile.k, tile.k_stride, piece.size, head_dim_, tile_keys - offset, keys);
      if constexpr (std::is_same_v<T, Acc>) {
        if (value_dim_ == value_stride_ && tile.k != gathered_ && rows < copy_rows) {
          piece.v = {kernels.wide.product, bytes(tile.v), tile.v_stride, 1, Acc_bytes};
          return;
        }
      }
      piece.v = wide_v;
      for (Index j = 0; j < piece.size; ++j) {
        Acc* row = values + j * value_stride_;
        kernels.convert.widen(tile.v + j * tile.v_stride, value_dim_, Acc{1}, row);
        std::fill(row + value_dim_, row + value_stride_, Acc{0});
      }
    }
  }

  void read_pairs(const KVTile<T>& tile, const ProductKernels<T>& kernels, Piece<T>& piece) {
    constexpr Index T_bytes = sizeof(T), E = element_group<T>;
    const auto bytes = [](const auto* p) { return reinterpret_cast<const std::byte*>(p); };
    piece.k = {kernels.stored.product_dot, bytes(tile.k), tile.k_stride, E, T_bytes};
    piece.v = {kernels.stored.product_dot, bytes(tile.v), tile.v_stride, E, T_bytes};
    if (tile.layout == TileLayout::packed) return;
    const Index column = piece.column, offset = column % tile_keys;
    T* keys = reinterpret_cast<T*>(keys_) + (column - offset) * round_up(head_dim_, E) + offset * E;
    T* values = reinterpret_cast<T*>(values_) + round_up(column, E) * value_stride_;
    kernels.stored.transpose_stored(tile.k, tile.k_stride, piece.size, head_dim_, tile_keys - offset, keys);
    kernels.stored.interleave_pairs(tile.v, tile.v_stride, piece.size, value_dim_, values, value_stride_ * E);
    piece.k.data = bytes(keys);
    piece.k.stride = tile_keys * E;
    piece.v.data = bytes(values);
    piece.v.stride = value_stride_ * E;
  }

  Index head_dim_, value_dim_, value_stride_, view_scratch_bytes_;
  Piece<T>* pieces_;
  Acc* keys_;
  Acc* values_;
  Acc* clean_;
  T* gathered_;
  std::byte* view_scratch_;
  Index begin_ = 0, size_ = 0;
};

}  // namespace gqa::detail
