// SPDX-License-Identifier: Apache-2.0
// The way back: from what the kernels read to rows of tokens.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "gqa/core/tensor.hpp"
#include "gqa/kv/view.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa::detail {

/// Converts runs of elements, each to the nearest To, every bit kept where the types agree.
template <Scalar From, Scalar To>
class RowConverter {
 public:
  /// Throws std::invalid_argument where isa() does.
  RowConverter() : from_(simd::convert_kernels<From>(isa())), to_(simd::convert_kernels<To>(isa())) {}

  /// At most `most` elements.
  void operator()(const From* x, Index n, To* y) const {
    if constexpr (std::is_same_v<From, To>) {
      std::copy_n(x, n, y);
    } else if constexpr (std::is_same_v<From, double> || std::is_same_v<To, double>) {
      for (Index i = 0; i < n; ++i) y[i] = rounded_to<To>(x[i]);
    } else if constexpr (std::is_same_v<To, float>) {
      from_.widen(x, n, 1, y);
    } else {
      float wide[most];
      from_.widen(x, n, 1, wide);
      to_.narrow(wide, n, 1, y);
      // Outputs of attention have no negative zeros, so narrow() makes none.
      for (Index i = 0; i < n; ++i)
        if (wide[i] == 0) y[i] = static_cast<To>(wide[i]);
    }
  }
  static constexpr Index most = 64;

 private:
  simd::ConvertKernels<From> from_;
  simd::ConvertKernels<To> to_;
};

/// Tokens [first, first + size) of a packed tile.
template <Scalar T>
struct PackedRows {
  KVTile<T> tile;
  Index first;
  Index size;

  /// Dims [begin, begin + count) of all keys, to rows `stride` apart. A line of 16 dims at a time: what the
  /// next tokens need of the tile is then in the first-level cache.
  void keys(Index begin, Index count, T* rows, Index stride) const {
    constexpr Index line = 16;
    Index d = 0;
    for (; d + line * E <= count; d += line * E)
      for (Index t = 0; t < size; ++t)
        for (Index i = 0; i < line; ++i) move(key(t, begin + d + i * E), rows + t * stride + d + i * E);
    for (Index t = 0; t < size; ++t) {
      Index e = d;
      for (; e + E <= count; e += E) move(key(t, begin + e), rows + t * stride + e);
      if (e < count) rows[t * stride + e] = *key(t, begin + e);
    }
  }

  void values(Index begin, Index count, T* rows, Index stride) const {
    for (Index t = 0; t < size; ++t) {
      const Index j = first + t;
      const T* from = tile.v + j / E * tile.v_stride + begin * E + j % E;
      for (Index c = 0; c < count; ++c) rows[t * stride + c] = from[c * E];
    }
  }

 private:
  static constexpr Index E = element_group<T>;

  const T* key(Index t, Index d) const { return tile.k + d / E * tile.k_stride + (first + t) * E; }
  /// A group of dims, as one.
  static void move(const T* from, T* to) {
    std::memcpy(static_cast<void*>(to), static_cast<const void*>(from), E * sizeof(T));
  }
};

/// Copies rows of `dim` elements of T, which `unpack(begin, count, rows, stride)` gives, to rows of To.
template <Scalar T, Scalar To, class Unpack>
void read_rows(Index size, Index dim, To* rows, Index stride, const RowConverter<T, To>& convert,
               Unpack unpack) {
  if constexpr (std::is_same_v<T, To>) {
    unpack(0, dim, rows, stride);
  } else {
    constexpr Index dims = RowConverter<T, To>::most;
    T block[tile_keys * dims];
    for (Index d = 0; d < dim; d += dims) {
      const Index n = std::min(dims, dim - d);
      unpack(d, n, block, dims);
      for (Index t = 0; t < size; ++t) convert(block + t * dims, n, rows + t * stride + d);
    }
  }
}

/// Copies the tokens at `positions` to k and v, as many tokens x heads x dims. `tile_at(head, want)` is a
/// packed tile, all of `want`.
template <Scalar T, class TileAt, Scalar TK, Scalar TV>
void read_tokens(Range positions, TileAt&& tile_at, const TensorView<TK>& k, const TensorView<TV>& v) {
  const RowConverter<T, TK> to_k;
  const RowConverter<T, TV> to_v;
  for (Index begin = positions.begin; begin < positions.end;) {
    const Index first = begin % tile_keys;
    const Index size = std::min(tile_keys - first, positions.end - begin), token = begin - positions.begin;
    for (Index head = 0; head < k.heads; ++head) {
      const PackedRows<T> rows{tile_at(head, Range{begin - first, begin + size}), first, size};
      read_rows(size, k.dim, k.at(0, token, head), k.token_stride, to_k,
                [&](auto... to) { rows.keys(to...); });
      read_rows(size, v.dim, v.at(0, token, head), v.token_stride, to_v,
                [&](auto... to) { rows.values(to...); });
    }
    begin += size;
  }
}

}  // namespace gqa::detail
