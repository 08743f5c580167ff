// SPDX-License-Identifier: Apache-2.0
// What tokens look like in memory where the kernels read them as they are: how they are stored and forgotten.
// Where such blocks are is a placement's business.
#pragma once

#include <Eigen/Core>  // caches are mostly of 16-bit floats
#include <algorithm>
#include <array>
#include <type_traits>

#include "gqa/core/memory.hpp"
#include "gqa/core/tensor.hpp"
#include "gqa/kv/row_converter.hpp"
#include "gqa/kv/view.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa::detail {

/// The memory of one head's keys and values of tile_keys tokens.
template <Scalar T>
struct PackedBlock {
  T* k;
  T* v;
};

/// A row a token, of one head, as many elements apart.
template <class X>
struct TokenRows {
  const X* data;
  Index stride;
  const X* next = nullptr;  // the first row of as many that come after these, if any

  /// Without the first n.
  TokenRows from(Index n) const { return {data + n * stride, stride, next}; }
};

/// Blocks of keys [D/E][64][E] and values [64/E][Dv][E], E the group of T, D padded to E and Dv to whole
/// vectors.
template <Scalar T>
class BlockLayout {
 public:
  static constexpr Index E = element_group<T>;

  BlockLayout(Index head_dim, Index value_dim) : head_dim_(head_dim), value_dim_(value_dim) {}

  Index head_dim() const { return head_dim_; }
  Index value_dim() const { return value_dim_; }
  Index key_elements() const { return round_up(head_dim_, E) * tile_keys; }
  Index value_elements() const { return value_row() * tile_keys; }

  /// Tokens `want` of a block.
  KVTile tile(const PackedBlock<T>& block, Range want) const {
    const T* k = block.k + want.begin * E;
    const T* v = block.v + want.begin / E * value_stride();
    return {.k = tile_side(k, tile_keys * E), .v = tile_side(v, value_stride()), .size = want.size()};
  }

  /// The first of the tokens `want`, up to where a packed tile may begin, as rows in memory of loose_bytes().
  KVTile loose_tile(const PackedBlock<T>& block, Range want, void* memory) const {
    const Index size = std::min(round_up(want.begin, simd::padding), want.end) - want.begin;
    T* const k = static_cast<T*>(memory);
    T* const v = k + simd::padding * head_dim_;
    for (Index t = 0; t < size; ++t) {
      const Index j = want.begin + t;
      for (Index d = 0; d < head_dim_; ++d)
        k[t * head_dim_ + d] = block.k[(d / E * tile_keys + j) * E + d % E];
      for (Index c = 0; c < value_dim_; ++c)
        v[t * value_dim_ + c] = block.v[j / E * value_stride() + c * E + j % E];
    }
    return {.k = tile_side<T>(k, head_dim_),
            .v = tile_side<T>(v, value_dim_),
            .size = size,
            .layout = TileLayout::token_major};
  }
  Index loose_bytes() const { return simd::padding * (head_dim_ + value_dim_) * Index{sizeof(T)}; }

  /// Stores a row for each of `tokens` of a block, converted to T. Of the block's tokens those before
  /// `written` are there already, and keep their values where they are others.
  template <Scalar TK, Scalar TV>
  void store(const PackedBlock<T>& block, Range tokens, TokenRows<TK> k, TokenRows<TV> v, Index written,
             const RowConverter<TK, T>& to_k, const RowConverter<TV, T>& to_v,
             const simd::Kernels<Accumulator<T>>& kernels) const {
    if (!round_keys(block.k + tokens.begin * E, tokens.size(), k, kernels))
      in_slices(k, tokens.size(), head_dim_, to_k, [&](TokenRows<T> rows, Range dims) {
        store_keys(block.k + dims.begin * tile_keys, tokens, rows, dims.size(), kernels);
      });
    if constexpr (E == 1) {
      for (Index i = 0; i < tokens.size(); ++i) {
        T* row = block.v + (tokens.begin + i) * value_row();
        prefetch_ahead(v, tokens.size(), i, {0, value_dim_});
        to_v(v.data + i * v.stride, value_dim_, row);
        std::fill(row + value_dim_, row + value_row(), T{});
      }
    } else {
      const Range rounded = round_values(block.v, tokens, v, kernels);
      for (const Range rest : {Range{tokens.begin, rounded.begin}, Range{rounded.end, tokens.end}})
        in_slices(v.from(rest.begin - tokens.begin), rest.size(), value_dim_, to_v,
                  [&](TokenRows<T> rows, Range dims) {
                    store_value_pairs(block.v + dims.begin * E, rest, rows, dims.size(), written, kernels);
                  });
    }
  }

  /// Makes token n of a block one that is not there. Where it shares pairs with the one before, its values
  /// become 0.
  void forget(const PackedBlock<T>& block, Index n) const {
    if (n % E == 0) return;
    T* row = block.v + n / E * value_stride();
    for (Index c = 0; c < value_row(); ++c) row[c * E + n % E] = T{};
  }

  /// Makes every element of these tokens of a block 0.
  void zero(const PackedBlock<T>& block, Range tokens) const {
    for (Index j = tokens.begin; j < tokens.end; ++j) {
      for (Index d = 0; d < round_up(head_dim_, E); ++d) block.k[(d / E * tile_keys + j) * E + d % E] = T{};
      T* row = block.v + j / E * value_stride();
      for (Index c = 0; c < value_row(); ++c) row[c * E + j % E] = T{};
    }
  }

 private:
  Index value_row() const { return round_up(value_dim_, simd::padding); }
  Index value_stride() const { return value_row() * E; }

  // Rows lie pages apart: whoever converts one after the other would wait for each.
  static constexpr Index rows_ahead = 16;

  /// Asks for `dims` of the row that comes rows_ahead after row i.
  template <class X>
  [[gnu::always_inline]] static void prefetch_ahead(TokenRows<X> rows, Index tokens, Index i, Range dims) {
    const Index ahead = i + rows_ahead;
    const X* row = rows.data + ahead * rows.stride;
    if (ahead >= tokens) {
      if (rows.next == nullptr || ahead - tokens >= tokens) return;
      row = rows.next + (ahead - tokens) * rows.stride;
    }
    prefetch(row + dims.begin, static_cast<std::size_t>(dims.size()) * sizeof(X));
  }

  /// Calls f(rows of T, dims) for all dims: at once where the rows hold T already, else for as many as a
  /// scratch holds that stays in the first cache.
  template <class X, class F>
  static void in_slices(TokenRows<X> rows, Index tokens, Index dim, const RowConverter<X, T>& convert,
                        F&& f) {
    if constexpr (std::is_same_v<X, T>) {
      f(rows, Range{0, dim});
    } else {
      constexpr Index bytes = 256, most = bytes / Index{sizeof(T)};  // whole vectors
      // Not of T: Eigen's 16-bit floats would be set to 0 first.
      alignas(64) unsigned char scratch[static_cast<std::size_t>(tile_keys * bytes)];
      T* converted = reinterpret_cast<T*>(scratch);
      for (Index d = 0; d < dim; d += most) {
        const Index n = std::min(most, dim - d);
        for (Index i = 0; i < tokens; ++i) {
          prefetch_ahead(rows, tokens, i, {d, d + n});
          convert(rows.data + i * rows.stride + d, n, converted + i * most);
        }
        f(TokenRows<T>{converted, most}, Range{d, d + n});
      }
    }
  }

  // A kernel transposes as many tokens as a vector has lanes, wanted or not.
  static constexpr Index fewest_in_a_run = 4;

  /// Beside an odd last dim stands a zero, which kernels multiply by 0.
  static void store_keys(T* keys, Range tokens, TokenRows<T> rows, Index dim,
                         const simd::Kernels<Accumulator<T>>& kernels) {
    const Index n = tokens.size();
    if (n < fewest_in_a_run) {
      for (Index i = 0; i < n; ++i) {
        T* key = keys + (tokens.begin + i) * E;
        const T* row = rows.data + i * rows.stride;
        Index d = 0;
        for (; d + E <= dim; d += E) std::copy_n(row + d, E, key + d * tile_keys);
        if (d < dim) std::copy_n(std::array{row[d], T{}}.data(), E, key + d * tile_keys);
      }
    } else if constexpr (std::is_same_v<T, Accumulator<T>>) {
      kernels.transpose_keys(rows.data, rows.stride, n, dim, n, keys + tokens.begin);
    } else {
      kernels.transpose_stored(rows.data, rows.stride, n, dim, n, keys + tokens.begin * E);
    }
  }

  /// Calls f(first, count) for runs of `length` rows, those rows_ahead on their way. Floats go to where they
  /// belong while they are rounded, not by way of a scratch.
  template <class F>
  static void in_runs(TokenRows<float> rows, Index tokens, Index length, Index dim, F&& f) {
    for (Index first = 0; first < tokens; first += length) {
      const Index count = std::min(length, tokens - first);
      for (Index i = first; i < first + count; ++i) prefetch_ahead(rows, tokens, i, {0, dim});
      f(first, count);
    }
  }

  /// Stores rows from the column `keys` of a block on; false where that is not for these.
  template <class TK>
  bool round_keys(T* keys, Index tokens, TokenRows<TK> rows,
                  const simd::Kernels<Accumulator<T>>& kernels) const {
    if constexpr (std::is_same_v<TK, float> && std::is_same_v<T, half>) {
      if (tokens < fewest_in_a_run) return false;
      in_runs(rows, tokens, rows_ahead, head_dim_, [&](Index first, Index count) {
        kernels.transpose_rounded(rows.from(first).data, rows.stride, count, head_dim_, count, keys + first);
      });
      return true;
    }
    return false;
  }

  /// Stores the whole pairs of `tokens`, if these are for it. Returns which tokens it stored.
  template <class TV>
  Range round_values(T* values, Range tokens, TokenRows<TV> rows,
                     const simd::Kernels<Accumulator<T>>& kernels) const {
    const Range pairs = {round_up(tokens.begin, E), round_down(tokens.end, E)};
    if constexpr (std::is_same_v<TV, float>) {
      if (pairs.size() >= fewest_in_a_run) {
        const TokenRows<TV> paired = rows.from(pairs.begin - tokens.begin);
        in_runs(paired, pairs.size(), fewest_in_a_run, value_dim_, [&](Index first, Index count) {
          kernels.interleave_rounded(paired.from(first).data, rows.stride, count, value_dim_,
                                     values + (pairs.begin + first) / E * value_stride(), value_stride());
        });
        return pairs;
      }
    }
    return {tokens.begin, tokens.begin};
  }

  /// Padding gets zeros, as does the value beside an odd last token: kernels multiply both by 0.
  void store_value_pairs(T* values, Range tokens, TokenRows<T> rows, Index dim, Index written,
                         const simd::Kernels<Accumulator<T>>& kernels) const {
    while (!tokens.empty()) {
      const Index j = tokens.begin;
      T* pairs = values + j / E * value_stride();
      // A kernel writes whole pairs: not where the other half is there and stays.
      Index n = tokens.end < written ? round_down(tokens.size(), E) : tokens.size();
      if (j % E == 0 && n > 0) {
        kernels.interleave_pairs(rows.data, rows.stride, n, dim, pairs, value_stride());
      } else {
        n = 1;
        for (Index c = 0; c < dim; ++c) pairs[c * E + j % E] = rows.data[c];
        for (Index c = dim; c < round_up(dim, simd::padding); ++c) pairs[c * E + j % E] = T{};
      }
      rows.data += n * rows.stride;
      tokens.begin += n;
    }
  }

  Index head_dim_, value_dim_;
};

/// Positions of one tile as the tokens of its block.
constexpr Range tokens_of_block(Range positions) {
  const Index begin = round_down(positions.begin, tile_keys);
  return {positions.begin - begin, positions.end - begin};
}

/// Makes token n one that is not there in the blocks that `block_at(layer, head)` names, those of its tile.
template <Scalar T, class BlockAt>
void forget_token(const BlockLayout<T>& layout, Index num_layers, Index num_kv_heads, Index n,
                  BlockAt&& block_at) {
  if (n % tile_keys == 0) return;  // no block has tokens on both sides
  for (Index layer = 0; layer < num_layers; ++layer)
    for (Index head = 0; head < num_kv_heads; ++head) layout.forget(block_at(layer, head), n % tile_keys);
}

/// Stores the tokens of `positions`, k and v for all heads, converted to T, in the blocks that
/// `block_at(head, tile)` names. Those there already, before `written`, keep their values. Throws
/// nothing where isa() has not thrown.
template <Scalar T, class BlockAt, class TK, class TV>
void store_tokens(const BlockLayout<T>& layout, BlockAt&& block_at, Range positions, const TensorView<TK>& k,
                  const TensorView<TV>& v, Index written, const simd::Kernels<Accumulator<T>>& kernels) {
  const RowConverter<std::remove_const_t<TK>, T> to_k;
  const RowConverter<std::remove_const_t<TV>, T> to_v;
  // All heads of a tile, then the next: they lie side by side in the caller's memory.
  for (Index position = positions.begin; position < positions.end;) {
    const Index tile = position / tile_keys, begin = tile * tile_keys;
    const Range some = {position, std::min(begin + tile_keys, positions.end)};
    for (Index head = 0; head < k.heads; ++head) {
      const auto rows = [&](const auto& x) {
        using X = std::remove_const_t<typename std::remove_cvref_t<decltype(x)>::value_type>;
        const Index token = position - positions.begin;
        return TokenRows<X>{x.at(0, token, head), x.token_stride,
                            head + 1 < x.heads ? x.at(0, token, head + 1) : nullptr};
      };
      layout.store(block_at(head, tile), {some.begin - begin, some.end - begin}, rows(k), rows(v),
                   written - begin, to_k, to_v, kernels);
    }
    position = some.end;
  }
}

}  // namespace gqa::detail
