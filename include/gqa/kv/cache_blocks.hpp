// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gqa/core/ranges.hpp"
#include "gqa/core/scalar.hpp"
#include "gqa/kv/cache_shape.hpp"
#include "gqa/kv/packed_block.hpp"

namespace gqa::detail {

/// The sizes of a token in one layer.
struct LayerShape {
  Index num_kv_heads = 0;
  Index head_dim = 0;
  Index value_dim = 0;

  friend bool operator==(const LayerShape&, const LayerShape&) = default;
};
/// Of each layer of a cache whose layers are alike.
inline LayerShape layer_shape(const CacheShape& s) { return {s.num_kv_heads, s.head_dim, s.value_dim}; }

/// What messages call a section of a cache of so many sequences.
inline std::string section_name(Index section, Index num_seqs) {
  std::string name = "layer " + std::to_string(section / num_seqs);
  if (num_seqs > 1) name += " of sequence " + std::to_string(section % num_seqs);
  return name;
}

/// What packing a cache's tokens has to know of it: where its blocks are. Each member of the family says so
/// beside its class. A member that holds several sequences, S of them, has sections where another has layers:
/// `layer` is then layer * S + sequence, and num_layers() still counts layers. Of a paged cache, C is a
/// handle of one sequence.
///
///     template <> struct CacheBlocks<C> {
///       using Scalar = ...;                                        // of its blocks
///       static Index num_layers(const C&);
///       static Index num_seqs(const C&);                           // where it is not 1
///       static LayerShape shape(const C&, Index layer);
///       static Ranges retained(const C&, Index layer);             // what is written, and still held
///       static PackedBlock<Scalar> block_at(const C&, Index layer, Index head, Index tile);
///
///       // Room for these tokens a layer, apart from those of the cache, which stays as it is. Throws
///       // std::length_error where they are too many, format_error where no such cache retains these.
///       static Staged stage(const C&, std::span<const Ranges> retained);
///       static PackedBlock<Scalar> block_at(const Staged&, Index layer, Index head, Index tile);
///       // Holds what has been staged and filled in place of what it held; spans and views end as by
///       clear(). static void adopt(C&, Staged&&, std::span<const Ranges> retained) noexcept;
///     };
///
/// A tile is named by its number in the sequence, position / tile_keys, wherever its block is. Only tiles
/// that meet `retained` are asked for, of which tokens outside it may hold anything.
template <class C>
struct CacheBlocks;

/// A cache whose tokens can be packed and restored.
template <class C>
concept PackableCache = requires(C& cache, const C& held, Index i, std::span<const Ranges> retained) {
  typename CacheBlocks<C>::Scalar;
  { CacheBlocks<C>::num_layers(held) } -> std::same_as<Index>;
  { CacheBlocks<C>::shape(held, i) } -> std::same_as<LayerShape>;
  { CacheBlocks<C>::retained(held, i) } -> std::same_as<Ranges>;
  { CacheBlocks<C>::block_at(held, i, i, i) } -> std::same_as<PackedBlock<typename CacheBlocks<C>::Scalar>>;
  CacheBlocks<C>::adopt(cache, CacheBlocks<C>::stage(held, retained), retained);
};

template <class C>
Index num_seqs_of(const C& cache) {
  if constexpr (requires { CacheBlocks<C>::num_seqs(cache); })
    return CacheBlocks<C>::num_seqs(cache);
  else
    return 1;
}

/// How many tokens a sequence has of which its layers retain these.
inline Index tokens_of(std::span<const Ranges> retained) {
  Index tokens = 0;
  for (const Ranges& ranges : retained) tokens = std::max(tokens, ranges.empty() ? 0 : ranges.hull().end);
  return tokens;
}

/// How many tokens each of so many sequences has, of sections that retain these. Throws format_error where
/// they are not all from token 0 on, as of caches that keep every token.
inline std::vector<Index> tokens_of_each(std::span<const Ranges> retained, Index num_seqs) {
  std::vector<Index> tokens(static_cast<std::size_t>(num_seqs));
  for (std::size_t i = 0; i < retained.size(); ++i) {
    const Ranges& r = retained[i];
    GQA_CHECK(r.size() == 1 && r[0].begin == 0, format_error,
              section_name(static_cast<Index>(i), num_seqs)
                  << " retains tokens " << r[0].begin << " to " << r.hull().end << " in " << r.size()
                  << " ranges, expected all from token 0 on");
    tokens[i % tokens.size()] = std::max(tokens[i % tokens.size()], r[0].end);
  }
  return tokens;
}

}  // namespace gqa::detail
