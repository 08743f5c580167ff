// SPDX-License-Identifier: Apache-2.0
// The tokens of a cache as bytes, whatever kind of cache it is: what goes to a file or to a caller's memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gqa/core/memory.hpp"
#include "gqa/kv/cache_blocks.hpp"

namespace gqa::detail {

/// How a type's elements stand in a block.
struct PackedType {
  std::string_view name;
  Index element_bytes, group;
};

template <Scalar T>
inline constexpr PackedType packed_type{scalar_name<T>(), scalar_bytes<T>, element_group<T>};

/// Null for a name that is none of ours.
inline const PackedType* find_packed_type(std::string_view name) {
  for (const PackedType* type :
       {&packed_type<float>, &packed_type<double>, &packed_type<half>, &packed_type<bfloat16>})
    if (type->name == name) return type;
  return nullptr;
}

/// The tiles of 64 tokens that meet some positions, in ascending order.
class PackedTiles {
 public:
  PackedTiles() = default;
  explicit PackedTiles(const Ranges& positions) {
    Index next = 0;  // the first tile that is not among them yet
    for (const Range r : positions) {
      if (r.empty()) continue;
      const Range more = {std::max(next, r.begin / tile_keys), ceil_div(r.end, tile_keys)};
      if (!more.empty()) tiles_.push_back(more);
      next = std::max(next, more.end);
    }
  }

  Index size() const { return tiles_.positions(); }
  /// How many of them come before `tile`, one of them.
  Index slot(Index tile) const {
    Index before = 0;
    for (const Range r : tiles_) before += intersect(r, {0, tile}).size();
    return before;
  }
  template <class F>
  void for_each(F&& f) const {
    for (const Range r : tiles_)
      for (Index tile = r.begin; tile < r.end; ++tile) f(tile);
  }

 private:
  Ranges tiles_;
};

/// The bytes of one head's block of keys and block of values. Throws std::length_error.
struct PackedBlockBytes {
  Index keys, values, both;

  PackedBlockBytes(const PackedType& type, const LayerShape& shape)
      : keys(bytes(type, shape.head_dim, type.group)),
        values(bytes(type, shape.value_dim, simd::padding)),
        both(checked_add(keys, values, "packed block")) {}

 private:
  static Index bytes(const PackedType& type, Index dim, Index multiple) {
    const Index padded = checked_add(dim, multiple - 1, "packed block") / multiple * multiple;
    return checked_mul(checked_mul(padded, tile_keys, "packed block"), type.element_bytes, "packed block");
  }
};

/// Where a section begins and ends: so that it can be mapped.
inline constexpr Index section_alignment = 4096;

/// One layer of one sequence of packed tokens. Its section is, for each head, for each tile that meets
/// `retained`, a block of keys and a block of values as BlockLayout has them, and zeros up to a multiple of
/// section_alignment. Tokens that are not retained are zeros.
struct PackedLayer {
  LayerShape shape;
  Ranges retained;
  std::uint64_t checksum = 0;

  /// Throws std::length_error.
  Index section_bytes(const PackedType& type) const {
    const Index tiles = PackedTiles(retained).size();
    const Index a_head = checked_mul(PackedBlockBytes(type, shape).both, tiles, "section");
    const Index bytes = checked_mul(a_head, shape.num_kv_heads, "section");
    return checked_add(bytes, section_alignment - 1, "section") / section_alignment * section_alignment;
  }
};

/// The sections of a cache as they will be packed, without checksums.
template <PackableCache C>
std::vector<PackedLayer> packed_layers(const C& cache) {
  using Blocks = CacheBlocks<C>;
  std::vector<PackedLayer> layers(static_cast<std::size_t>(Blocks::num_layers(cache) * num_seqs_of(cache)));
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const Index layer = static_cast<Index>(i);
    layers[i] = {.shape = Blocks::shape(cache, layer), .retained = Blocks::retained(cache, layer)};
  }
  return layers;
}

inline std::vector<Ranges> retained_of(std::span<const PackedLayer> layers) {
  std::vector<Ranges> retained;
  for (const PackedLayer& layer : layers) retained.push_back(layer.retained);
  return retained;
}

/// Pieces of memory on their way to a sink or from a source, in batches: as much as stays in a processor's
/// cache between two looks at it, and no more pieces than the system takes in one call.
template <class Byte, class Move>
class PieceBatch {
 public:
  explicit PieceBatch(Move& move) : move_(move) { pieces_.reserve(most_pieces); }

  void add(Byte* data, Index size) {
    while (size > 0) {
      const Index part = std::min(size, most_bytes - bytes_);
      pieces_.push_back({data, static_cast<std::size_t>(part)});
      bytes_ += part;
      data += part;
      size -= part;
      if (bytes_ == most_bytes || pieces_.size() == most_pieces) flush();
    }
  }
  void flush() {
    if (!pieces_.empty()) move_(std::span<const std::span<Byte>>(pieces_));
    pieces_.clear();
    bytes_ = 0;
  }

 private:
  static constexpr std::size_t most_pieces = 1000;
  static constexpr Index most_bytes = Index{1} << 20;

  Move& move_;
  std::vector<std::span<Byte>> pieces_;
  Index bytes_ = 0;
};

/// Hands one layer's section to `sink(std::span<const std::span<const std::byte>>)`, a batch of pieces a
/// call, each gone after it. Whole tiles are the cache's own memory.
template <PackableCache C, class Sink>
void write_section(const C& cache, Index layer, const PackedLayer& packed, Sink&& sink) {
  using Blocks = CacheBlocks<C>;
  using T = typename Blocks::Scalar;
  static constexpr std::byte zeros[section_alignment] = {};
  const BlockLayout<T> layout(packed.shape.head_dim, packed.shape.value_dim);
  const PackedBlockBytes bytes(packed_type<T>, packed.shape);
  PieceBatch<const std::byte, std::remove_reference_t<Sink>> batch(sink);
  const auto add = [&](const PackedBlock<T>& block) {
    batch.add(reinterpret_cast<const std::byte*>(block.k), bytes.keys);
    batch.add(reinterpret_cast<const std::byte*>(block.v), bytes.values);
  };
  AlignedArray<T> copy;
  for (Index head = 0; head < packed.shape.num_kv_heads; ++head) {
    PackedTiles(packed.retained).for_each([&](Index tile) {
      const PackedBlock<T> block = Blocks::block_at(cache, layer, head, tile);
      const Range positions = {tile * tile_keys, (tile + 1) * tile_keys};
      const Ranges held = intersect(packed.retained, positions);
      if (held.positions() == tile_keys) return add(block);
      if (copy == nullptr) copy = allocate_aligned<T>(static_cast<std::size_t>(bytes.both));
      const PackedBlock<T> cleared = {copy.get(), copy.get() + layout.key_elements()};
      std::memcpy(static_cast<void*>(cleared.k), block.k, static_cast<std::size_t>(bytes.keys));
      std::memcpy(static_cast<void*>(cleared.v), block.v, static_cast<std::size_t>(bytes.values));
      Index end = 0;
      for (const Range r : held) {
        layout.zero(cleared, {end, r.begin - positions.begin});
        end = r.end - positions.begin;
      }
      layout.zero(cleared, {end, tile_keys});
      add(cleared);
      batch.flush();  // before the next one takes its place
    });
  }
  const Index end = PackedTiles(packed.retained).size() * packed.shape.num_kv_heads * bytes.both;
  batch.add(zeros, packed.section_bytes(packed_type<T>) - end);
  batch.flush();
}

/// Fills the blocks of one layer that `block_at(head, tile)` names from its section, as
/// `source(std::span<const std::span<std::byte>>)` fills a batch of pieces a call.
template <Scalar T, class BlockAt, class Source>
void read_section(const PackedLayer& packed, BlockAt&& block_at, Source&& source) {
  const PackedBlockBytes bytes(packed_type<T>, packed.shape);
  PieceBatch<std::byte, std::remove_reference_t<Source>> batch(source);
  for (Index head = 0; head < packed.shape.num_kv_heads; ++head) {
    PackedTiles(packed.retained).for_each([&](Index tile) {
      const PackedBlock<T> block = block_at(head, tile);
      batch.add(reinterpret_cast<std::byte*>(block.k), bytes.keys);
      batch.add(reinterpret_cast<std::byte*>(block.v), bytes.values);
    });
  }
  std::byte padding[section_alignment];
  const Index end = PackedTiles(packed.retained).size() * packed.shape.num_kv_heads * bytes.both;
  batch.add(padding, packed.section_bytes(packed_type<T>) - end);
  batch.flush();
}

/// Fills a cache of as many sequences with packed layers, read in order from `source`; `finish(section)` may
/// throw where what came is not what was written. All or nothing: the cache changes after the last of them.
/// Throws format_error where the shapes differ, and what staging, `source` and `finish` throw.
template <PackableCache C, class Source, class Finish>
void read_sections(C& cache, std::span<const PackedLayer> layers, Source&& source, Finish&& finish) {
  using Blocks = CacheBlocks<C>;
  const Index num_layers = Blocks::num_layers(cache), num_seqs = num_seqs_of(cache);
  const Index sections = num_layers * num_seqs;
  GQA_CHECK(std::ssize(layers) == sections, format_error,
            "num_layers is " << std::ssize(layers) / num_seqs << ", expected the cache's " << num_layers);
  for (Index i = 0; i < sections; ++i) {
    const LayerShape is = layers[static_cast<std::size_t>(i)].shape, expected = Blocks::shape(cache, i);
    GQA_CHECK(is == expected, format_error,
              section_name(i, num_seqs) << " is " << is.num_kv_heads << " x " << is.head_dim << " and x "
                                        << is.value_dim << ", expected the cache's " << expected.num_kv_heads
                                        << " x " << expected.head_dim << " and x " << expected.value_dim);
  }
  const std::vector<Ranges> retained = retained_of(layers);
  auto staged = Blocks::stage(std::as_const(cache), retained);
  for (Index i = 0; i < sections; ++i) {
    const auto block_at = [&](Index head, Index tile) { return Blocks::block_at(staged, i, head, tile); };
    read_section<typename Blocks::Scalar>(layers[static_cast<std::size_t>(i)], block_at, source);
    finish(i);
  }
  Blocks::adopt(cache, std::move(staged), retained);
}

}  // namespace gqa::detail
