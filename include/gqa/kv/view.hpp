// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

#include "gqa/core/scalar.hpp"
#include "gqa/core/shape.hpp"
#include "gqa/simd/product.hpp"

namespace gqa {

using simd::element_group;
using simd::tile_keys;

/// How a tile's elements stand in memory.
enum class TileLayout {
  packed,       ///< keys dim-major, in element groups: what the kernels read as it is
  token_major,  ///< a caller's tensor: a row a token, for keys and values; packed into scratch before use
};

/// Consecutive keys and values of one sequence and KV head that can be read as one piece. With E =
/// element_group<T>:
///
///     packed:       key j, dim d at k[(d / E) * k_stride + j * E + d % E]
///                   value j, dim c at v[(j / E) * v_stride + c * E + j % E]
///     token_major:  k[j * k_stride + d],  v[j * v_stride + c]
///
/// A packed tile begins at a multiple of simd::padding keys and is readable up to the next multiple of that
/// many keys (of k) and dims (of v). Where E is 2, the second half of an odd last dim of k is 0.
template <Scalar T>
struct KVTile {
  const T* k = nullptr;
  Index k_stride = 0;
  const T* v = nullptr;
  Index v_stride = 0;
  Index size = 0;
  TileLayout layout = TileLayout::packed;
};

/// Where keys and values are: what attention reads, and all it knows of a cache.
///
/// `retained(seq)` are the absolute positions that can be read. `tile(seq, kv_head, want, scratch)` is the
/// longest prefix of `want` that can be read as one piece, never empty; `want` is retained and never crosses
/// a multiple of tile_keys. A view that has to decode what it stores does so into `scratch`, which has
/// `scratch_bytes()` and stays valid while the tile is used. It is the same for all the pieces that a tile of
/// tile_keys positions comes in: packed ones must decode into different parts of it. Pages, rings and
/// quantised blocks merely shorten or decode tiles.
template <class V>
concept KVView = requires(const V& view, Index i, Range want, void* scratch) {
  typename V::Scalar;
  { view.num_seqs() } -> std::convertible_to<Index>;
  { view.num_kv_heads() } -> std::convertible_to<Index>;
  { view.head_dim() } -> std::convertible_to<Index>;
  { view.value_dim() } -> std::convertible_to<Index>;
  { view.retained(i) } -> std::same_as<Range>;
  { view.tile(i, i, want, scratch) } -> std::same_as<KVTile<typename V::Scalar>>;
  { view.scratch_bytes() } -> std::convertible_to<Index>;
};

namespace detail {

/// What a view retains of a sequence. Throws std::invalid_argument where that cannot be.
template <KVView View>
Range checked_retained(const View& view, Index seq) {
  const Range kv = view.retained(seq);
  GQA_CHECK(0 <= kv.begin && kv.begin <= kv.end && kv.end <= max_position, std::invalid_argument,
            "retained: positions " << kv.begin << " to " << kv.end << " of sequence " << seq
                                   << ", expected a range within 0 to " << max_position);
  return kv;
}

/// Says what is wrong with a tile. Takes copies: whatever a call refers to has to stand in memory.
template <Scalar T>
[[noreturn, gnu::noinline, gnu::cold]] void refuse_tile(KVTile<T> tile, Range want) {
  GQA_CHECK(tile.size > 0 && tile.size <= want.size(), std::invalid_argument,
            "tile: size is " << tile.size << ", expected 1 to " << want.size() << " for the positions "
                             << want.begin << " to " << want.end);
  GQA_CHECK(tile.k != nullptr && tile.v != nullptr, std::invalid_argument,
            "tile: " << (tile.k == nullptr ? "k" : "v") << " is null, expected the " << tile.size
                     << " positions from " << want.begin << " on");
  GQA_CHECK(false, std::invalid_argument,
            "tile: packed from position " << want.begin << " on, expected a multiple of " << simd::padding
                                          << "; return a longer tile before it, or token_major ones");
}

/// Once a tile: a view is often the user's, and what it returns is followed without another look. Throws
/// std::invalid_argument naming what it returned.
template <Scalar T>
void check_tile(KVTile<T> tile, Range want, Index value_dim) {
  const bool sized = tile.size > 0 && tile.size <= want.size();
  const bool there = tile.k != nullptr && (tile.v != nullptr || value_dim == 0);
  const bool aligned = tile.layout == TileLayout::token_major || want.begin % simd::padding == 0;
  if (!sized || !there || !aligned) [[unlikely]]
    refuse_tile(tile, want);
}

}  // namespace detail

}  // namespace gqa
