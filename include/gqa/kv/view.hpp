// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

#include "gqa/core/ranges.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa {

using simd::element_group;
using simd::tile_keys;

/// How a tile's elements stand in memory.
enum class TileLayout {
  packed,       ///< keys dim-major, in element groups: what the kernels read as it is
  token_major,  ///< a caller's tensor: a row a token, for keys and values; packed into scratch before use
};

/// The keys or the values of a tile: what is stored, where, and what it is to be multiplied with. As a factor
/// of a product, keys are dims x tokens and values tokens x dims; element (k, n) of that counts as
///
///     stored(k, n) * depth_scale[k] * column_scale[n]
///
/// each where it is not null, rounded after each product in the type that sums. A scale a token is a
/// column_scale of keys and a depth_scale of values, a scale a dim the other way round.
struct TileSide {
  const simd::Format* format = nullptr;  ///< simd::format<T> for memory of T
  const void* data = nullptr;
  Index stride = 0;  ///< elements, see KVTile
  const float* depth_scale = nullptr;
  const float* column_scale = nullptr;

  bool scaled() const { return depth_scale != nullptr || column_scale != nullptr; }
  /// The same memory as its elements.
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

/// Memory of T as one side of a tile.
template <Scalar T>
constexpr TileSide tile_side(const T* data, Index stride) {
  return {.format = &simd::format<T>, .data = data, .stride = stride};
}

/// Consecutive keys and values of one sequence and KV head that can be read as one piece. With E = the group
/// of a side's format:
///
///     packed:       key j, dim d at k[(d / E) * stride + j * E + d % E]
///                   value j, dim c at v[(j / E) * stride + c * E + j % E]
///     token_major:  k[j * stride + d],  v[j * stride + c]
///
/// A packed tile begins at a multiple of simd::padding keys and is readable up to the next multiple of that
/// many keys (of k) and dims (of v). Where E is 2, the second half of an odd last dim of k is 0. Keys and
/// values may differ in format, and may be the same memory.
struct KVTile {
  TileSide k = {}, v = {};
  Index size = 0;
  TileLayout layout = TileLayout::packed;
};

/// Where keys and values are: what attention reads, and all it knows of a cache.
///
/// `retained(seq)` are the absolute positions that can be read: a Range, or a few of them (Ranges).
/// `tile(seq, kv_head, want, scratch)` is the longest prefix of `want` that can be read as one piece, never
/// empty; `want` is retained and never crosses a multiple of tile_keys. A view that has to decode what it
/// stores does so into `scratch`, which has `scratch_bytes()` and stays valid while the tile is used. It is
/// the same for all the pieces that a tile of tile_keys positions comes in: packed ones must decode into
/// different parts of it. Pages, rings and quantised blocks merely shorten or decode tiles.
///
/// `Scalar` is what all its tiles hold, plain, or else float or double, the type that is to sum them: a view
/// of several formats, or of scaled ones.
template <class V>
concept KVView = requires(const V& view, Index i, Range want, void* scratch) {
  typename V::Scalar;
  { view.num_seqs() } -> std::convertible_to<Index>;
  { view.num_kv_heads() } -> std::convertible_to<Index>;
  { view.head_dim() } -> std::convertible_to<Index>;
  { view.value_dim() } -> std::convertible_to<Index>;
  { view.retained(i) } -> std::convertible_to<Ranges>;
  { view.tile(i, i, want, scratch) } -> std::same_as<KVTile>;
  { view.scratch_bytes() } -> std::convertible_to<Index>;
};

namespace detail {

/// A KVView behind pointers: all that the kernels know of one. Refers to it.
struct KVSource {
  const void* view = nullptr;
  Ranges (*retained_of)(const void* view, Index seq) = nullptr;
  KVTile (*tile_of)(const void* view, Index seq, Index kv_head, Range want, void* scratch) = nullptr;
  Index num_seqs = 0, num_kv_heads = 0, head_dim = 0, value_dim = 0, scratch_bytes = 0;
  Index padded_tokens = 0;               // keys that a mask or bias tensor over all sequences has at least
  const simd::Format* format = nullptr;  // of View::Scalar
  const Index* node_of = nullptr;        // which of the view's sequences each one is; null: the same

  Index node(Index seq) const { return node_of == nullptr ? seq : node_of[seq]; }
  KVTile tile(Index seq, Index kv_head, Range want, void* scratch) const {
    return tile_of(view, node(seq), kv_head, want, scratch);
  }

  /// What is retained of a sequence, in ranges that are apart. Throws std::invalid_argument where that cannot
  /// be.
  Ranges retained(Index seq) const {
    const Ranges ranges = retained_of(view, node(seq));
    check_retained(ranges[0], 0, seq);
    if (ranges.size() == 1) [[likely]]
      return ranges;
    Ranges joined = ranges[0];
    for (Index i = 1; i < ranges.size(); ++i) {
      const Range kv = ranges[i];
      check_retained(kv, joined.hull().end, seq);
      if (kv.begin == joined.hull().end || joined.back().empty())
        joined.back() = {joined.back().empty() ? kv.begin : joined.back().begin, kv.end};
      else if (!kv.empty())
        joined.push_back(kv);
    }
    return joined;
  }

 private:
  [[gnu::noinline]] static void check_retained(Range kv, Index from, Index seq) {
    GQA_CHECK(from <= kv.begin && kv.begin <= kv.end && kv.end <= max_position, std::invalid_argument,
              "retained: positions " << kv.begin << " to " << kv.end << " of sequence " << seq
                                     << ", expected a range within " << from << " to " << max_position);
  }
};

template <KVView View>
KVSource source_of(const View& view) {
  KVSource source{
      .view = &view,
      .retained_of = [](const void* v, Index seq) -> Ranges {
        return static_cast<const View*>(v)->retained(seq);
      },
      .tile_of = [](const void* v, Index seq, Index kv_head, Range want,
                    void* scratch) { return static_cast<const View*>(v)->tile(seq, kv_head, want, scratch); },
      .num_seqs = view.num_seqs(),
      .num_kv_heads = view.num_kv_heads(),
      .head_dim = view.head_dim(),
      .value_dim = view.value_dim(),
      .scratch_bytes = view.scratch_bytes(),
      .format = &simd::format<typename View::Scalar>};
  if constexpr (requires { view.padded_tokens(); }) source.padded_tokens = view.padded_tokens();
  return source;
}

/// What the tiles of a call have to be.
struct TileRules {
  Index value_dim;
  bool in_double;
  const simd::Format* expected;  // mostly, plain
  const simd::Format* only;      // the one format of both sides, plain; null: any
};

/// The rules for a view whose keys and values are summed in Acc.
template <class Acc>
TileRules tile_rules(const KVSource& kv) {
  return {kv.value_dim, std::is_same_v<Acc, double>, kv.format,
          kv.format->bytes == sizeof(Acc) ? nullptr : kv.format};
}

[[noreturn, gnu::noinline, gnu::cold]] inline void refuse_side(const char* name, TileSide side,
                                                               TileRules rules) {
  GQA_CHECK(side.format != nullptr, std::invalid_argument,
            "tile: " << name << " has no format, expected that of its elements");
  GQA_CHECK(side.format->in_double == rules.in_double, std::invalid_argument,
            "tile: " << name << " holds " << side.format->name << ", expected what is summed in "
                     << (rules.in_double ? "double" : "float"));
  GQA_CHECK(rules.only == nullptr || side.format == rules.only, std::invalid_argument,
            "tile: " << name << " holds " << side.format->name << ", expected " << rules.only->name
                     << "; a view of several formats has float as its Scalar");
  GQA_CHECK(false, std::invalid_argument,
            "tile: " << name << " has scales; a view of scaled tiles has float or double as its Scalar");
}

/// Says what is wrong with a tile. Takes copies: whatever a call refers to has to stand in memory.
[[noreturn, gnu::noinline, gnu::cold]] inline void refuse_tile(KVTile tile, Range want) {
  GQA_CHECK(tile.size > 0 && tile.size <= want.size(), std::invalid_argument,
            "tile: size is " << tile.size << ", expected 1 to " << want.size() << " for the positions "
                             << want.begin << " to " << want.end);
  GQA_CHECK(tile.k.data != nullptr && tile.v.data != nullptr, std::invalid_argument,
            "tile: " << (tile.k.data == nullptr ? "k" : "v") << " is null, expected the " << tile.size
                     << " positions from " << want.begin << " on");
  GQA_CHECK(false, std::invalid_argument,
            "tile: packed from position " << want.begin << " on, expected a multiple of " << simd::padding
                                          << "; return a longer tile before it, or token_major ones");
}

/// Says what is wrong with a side, if anything is.
[[gnu::noinline]] inline void check_side(const char* name, const TileSide& side, const TileRules& rules) {
  const bool readable = side.format != nullptr && side.format->in_double == rules.in_double;
  const bool ruled = rules.only == nullptr || (side.format == rules.only && !side.scaled());
  if (!readable || !ruled) [[unlikely]]
    refuse_side(name, side, rules);
}

/// Once a tile: a view is often the user's, and what it returns is followed without another look. Throws
/// std::invalid_argument naming what it returned.
inline void check_tile(const KVTile& tile, Range want, const TileRules& rules) {
  const bool sized = tile.size > 0 && tile.size <= want.size();
  const bool there = tile.k.data != nullptr && (tile.v.data != nullptr || rules.value_dim == 0);
  const bool aligned = tile.layout == TileLayout::token_major || want.begin % simd::padding == 0;
  if (!sized || !there || !aligned) [[unlikely]]
    refuse_tile(tile, want);
  const bool expected = tile.k.format == rules.expected && tile.v.format == rules.expected;
  if (!expected || tile.k.scaled() || tile.v.scaled()) [[unlikely]] {
    check_side("k", tile.k, rules);
    check_side("v", tile.v, rules);
  }
}

}  // namespace detail

}  // namespace gqa
