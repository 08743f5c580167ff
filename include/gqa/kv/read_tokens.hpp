// SPDX-License-Identifier: Apache-2.0
// The way back: from what the kernels read to rows of tokens.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "gqa/core/tensor.hpp"
#include "gqa/kv/row_converter.hpp"
#include "gqa/kv/view.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa::detail {

/// What read() writes keys or values to.
template <class X>
auto as_output(X& x) {
  const auto view = as_view(x);
  static_assert(!std::is_const_v<typename decltype(view)::value_type>,
                "gqa: read() writes to k and v: not const");
  return view;
}

/// Rows of the caller's, as many elements apart.
template <class To>
struct OutputRows {
  To* data;
  Index stride;
};

/// Reads tokens [first, first + size) of packed tiles.
template <Scalar T>
class TileReader {
 public:
  /// Throws std::invalid_argument where isa() does.
  TileReader() : kernels_(simd::kernels<T>(isa())) {}

  /// The keys: the way back is the transposition that packed them, with dims for tokens.
  template <Scalar To>
  void keys(const KVTile& tile, Index first, Index size, Index dim, const OutputRows<To>& rows,
            const RowConverter<T, To>& convert) {
    for (Index d = 0; d < dim; d += block_dims) {
      const Index n = std::min(block_dims, dim - d), groups = ceil_div(n, E);
      const T* from = tile.k.as<T>() + d / E * tile.k.stride + first * E;
      if constexpr (std::is_same_v<T, Accumulator<T>>)
        kernels_.transpose_keys(from, tile.k.stride, groups, size, groups, block_);
      else
        kernels_.transpose_stored(from, tile.k.stride, groups, size * E, groups, block_);
      for (Index t = 0; t < size; ++t) convert(block_ + t * block_dims, n, rows.data + t * rows.stride + d);
    }
  }

  template <Scalar To>
  void values(const KVTile& tile, Index first, Index size, Index dim, const OutputRows<To>& rows,
              const RowConverter<T, To>& convert) {
    for (Index t = 0; t < size; ++t) {
      const T* from = tile.v.as<T>() + (first + t) / E * tile.v.stride;
      To* to = rows.data + t * rows.stride;
      if constexpr (E == 1) {
        convert(from, dim, to);
      } else {
        for (Index c = 0; c < dim; c += block_dims) {
          const Index n = std::min(block_dims, dim - c);
          take_half(from + c * E, (first + t) % E, n);
          convert(block_, n, to + c);
        }
      }
    }
  }

 private:
  static constexpr Index E = element_group<T>;
  static constexpr Index block_dims = tile_keys * E;

  /// Each first or second of n pairs. Pairs are padded to whole vectors.
  void take_half(const T* pairs, Index half, Index n) {
    for (Index c = 0; c < n; c += simd::padding) {
      Pairs both;
      std::memcpy(&both, static_cast<const void*>(pairs + c * E), sizeof both);
      const auto one = __builtin_convertvector(both >> static_cast<std::uint32_t>(16 * half), Halves);
      std::memcpy(static_cast<void*>(block_ + c), &one, sizeof one);
    }
  }
  using Pairs [[gnu::vector_size(4 * simd::padding)]] = std::uint32_t;
  using Halves [[gnu::vector_size(2 * simd::padding)]] = std::uint16_t;

  simd::Kernels<Accumulator<T>> kernels_;
  T block_[static_cast<std::size_t>(tile_keys * block_dims)];
};

/// Copies the tokens at `positions` to k and v, as many tokens x heads x dims. `tile_at(head, want)` is a
/// packed tile, all of `want`.
template <Scalar T, class TileAt, Scalar TK, Scalar TV>
void read_tokens(Range positions, TileAt&& tile_at, const TensorView<TK>& k, const TensorView<TV>& v) {
  const RowConverter<T, TK> to_k;
  const RowConverter<T, TV> to_v;
  TileReader<T> read;
  for (Index begin = positions.begin; begin < positions.end;) {
    const Index first = begin % tile_keys, token = begin - positions.begin;
    const Index size = std::min(tile_keys - first, positions.end - begin);
    for (Index head = 0; head < k.heads; ++head) {
      const KVTile tile = tile_at(head, Range{begin - first, begin + size});
      read.keys(tile, first, size, k.dim, OutputRows<TK>{k.at(0, token, head), k.token_stride}, to_k);
      read.values(tile, first, size, v.dim, OutputRows<TV>{v.at(0, token, head), v.token_stride}, to_v);
    }
    begin += size;
  }
}

}  // namespace gqa::detail
