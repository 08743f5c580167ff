// SPDX-License-Identifier: Apache-2.0
// The keys and values of one step of backward, in every order that its products read.
#pragma once

#include <algorithm>
#include <cstring>

#include "gqa/core/arena.hpp"
#include "gqa/kernel/chunk.hpp"

namespace gqa::detail {

/// Keys as rows (for dQ += dS K) and as columns (for Q K^T), values as columns (for dO V^T), all in the type
/// of the sums, whatever the view holds. What is not retained is zero.
template <class Acc>
class BackwardKeys {
 public:
  BackwardKeys(Arena& arena, const KVSource& kv, const CallKernels<Acc>& kernels)
      : kv_(kv),
        kernels_(kernels),
        rules_(tile_rules<Acc>(kv)),
        key_stride_(round_up(kv.head_dim, simd::padding)),
        value_stride_(round_up(kv.value_dim, simd::padding)),
        keys_(arena.take<Acc>(tuning::backward_keys, key_stride_)),
        values_(arena.take<Acc>(tile_keys, value_stride_)),
        key_columns_(arena.take<Acc>(tuning::backward_keys, kv.head_dim)),
        value_columns_(arena.take<Acc>(tuning::backward_keys, kv.value_dim)),
        element_row_(arena.take<Acc>(std::max(kv.head_dim, kv.value_dim))),
        scratch_(arena.take<std::byte>(kv.scratch_bytes)) {}

  /// Reads what is retained of tile t of the step, from position `begin` on.
  void read(Index seq, Index kv_head, Index t, Index begin, const Ranges& retained) {
    Acc* keys = keys_ + t * tile_keys * key_stride_;
    const bool whole = intersect(retained, {begin, begin + tile_keys}).positions() == tile_keys;
    if (!whole) {
      std::fill_n(keys, tile_keys * key_stride_, Acc{0});
      std::fill_n(values_, tile_keys * value_stride_, Acc{0});
    }
    for_common(retained, {begin, begin + tile_keys}, [&](Range want) {
      while (!want.empty()) {
        const KVTile tile = kv_.tile(seq, kv_head, want, scratch_);
        check_tile(tile, want, rules_);
        const bool packed = tile.layout == TileLayout::packed;
        const Index row = want.begin - begin;
        widen(tile.k, packed, true, tile.size, kv_.head_dim, keys + row * key_stride_, key_stride_);
        widen(tile.v, packed, false, tile.size, kv_.value_dim, values_ + row * value_stride_, value_stride_);
        want.begin += tile.size;
      }
    });
    kernels_.wide.transpose_keys(keys, key_stride_, tile_keys, kv_.head_dim, tile_keys,
                                 key_columns_ + t * tile_keys * kv_.head_dim);
    kernels_.wide.transpose_keys(values_, value_stride_, tile_keys, kv_.value_dim, tile_keys,
                                 value_columns_ + t * tile_keys * kv_.value_dim);
    finite_[t] = kernels_.wide.all_finite(keys, key_stride_, tile_keys, key_stride_);
  }

  /// Key j of the step as a row.
  const Acc* row(Index j) const { return keys_ + j * key_stride_; }
  Index key_stride() const { return key_stride_; }
  Index value_stride() const { return value_stride_; }
  /// Tile t as columns: element (d, j) at [d * tile_keys + j].
  const Acc* key_columns(Index t) const { return key_columns_ + t * tile_keys * kv_.head_dim; }
  const Acc* value_columns(Index t) const { return value_columns_ + t * tile_keys * kv_.value_dim; }
  /// Whether all keys of tile t are finite.
  bool finite(Index t) const { return finite_[t]; }

 private:
  /// The tokens of one side of a tile as rows, in Acc and scaled.
  void widen(const TileSide& side, bool packed, bool dim_major, Index tokens, Index dim, Acc* rows,
             Index stride) {
    const auto& kernels = kernels_.of(side);
    const Index bytes = side.format->bytes, group = side.format->group;
    for (Index j = 0; j < tokens; ++j) {
      const std::byte* from = side.as<std::byte>() + j * side.stride * bytes;
      if (packed) {
        auto* gathered = reinterpret_cast<std::byte*>(element_row_);
        for (Index d = 0; d < dim; ++d) {
          const Index outer = dim_major ? d : j, inner = dim_major ? j : d;
          const Index at = outer / group * side.stride + inner * group + outer % group;
          std::memcpy(gathered + d * bytes, side.as<std::byte>() + at * bytes,
                      static_cast<std::size_t>(bytes));
        }
        from = gathered;
      } else if (j + tuning::rows_ahead < tokens) {
        prefetch(from + tuning::rows_ahead * side.stride * bytes, static_cast<std::size_t>(dim * bytes));
      }
      Acc* row = rows + j * stride;
      kernels.widen_row(from, dim, Acc{1}, row);
      std::fill(row + dim, row + stride, Acc{0});
      if (side.scaled()) scale(side, dim_major, j, dim, row);
    }
  }

  /// As a factor of a product keys are dims x tokens: their depth is the dim, that of values the token.
  static void scale(const TileSide& side, bool dim_major, Index token, Index dim, Acc* row) {
    for (Index d = 0; d < dim; ++d) {
      if (side.depth_scale != nullptr) row[d] *= static_cast<Acc>(side.depth_scale[dim_major ? d : token]);
      if (side.column_scale != nullptr) row[d] *= static_cast<Acc>(side.column_scale[dim_major ? token : d]);
    }
  }

  const KVSource& kv_;
  const CallKernels<Acc>& kernels_;
  TileRules rules_;
  Index key_stride_, value_stride_;
  Acc* keys_;
  Acc* values_;
  Acc* key_columns_;
  Acc* value_columns_;
  Acc* element_row_;
  std::byte* scratch_;
  bool finite_[tuning::backward_tiles] = {};
};

}  // namespace gqa::detail
