// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "gqa/kv/view.hpp"
#include "gqa/position/rope.hpp"

namespace gqa {

/// How the keys of G heads come of cached latents: k_g = rope(U_g c), U_g head_dim x rank. Consecutive heads
/// share a latent, as many each. T is what sums are taken in, float or double. Kept once for a layer.
template <class T>
class KeyReconstruction {
 public:
  /// `up` is num_kv_heads * head_dim rows of `rank`, head by head. Throws std::invalid_argument for sizes
  /// below 1, heads that are no multiple of the latents, and a rope of another head_dim.
  KeyReconstruction(const T* up, Index num_kv_heads, Index num_latents, Index head_dim, Index rank,
                    std::optional<Rope> rope)
      : num_kv_heads_(num_kv_heads),
        num_latents_(num_latents),
        head_dim_(head_dim),
        rank_(rank),
        stride_(round_up(rank, 2)),  // a product of pairs reads an even depth
        rope_(std::move(rope)) {
    const auto check = [](const char* name, Index is) {
      GQA_CHECK(is >= 1, std::invalid_argument, name << " is " << is << ", expected at least 1");
    };
    check("num_kv_heads", num_kv_heads);
    check("num_latents", num_latents);
    check("head_dim", head_dim);
    check("rank", rank);
    GQA_CHECK(num_kv_heads % num_latents == 0, std::invalid_argument,
              "num_kv_heads is " << num_kv_heads << ", expected a multiple of the " << num_latents
                                 << " of num_latents");
    GQA_CHECK(!rope_ || rope_->config().head_dim == head_dim, std::invalid_argument,
              "rope: head_dim is " << rope_->config().head_dim << ", expected " << head_dim);
    const Index rows = checked_mul(num_kv_heads, head_dim, "key_up");
    up_.resize(static_cast<std::size_t>(checked_mul(rows, stride_, "key_up")));
    for (Index r = 0; r < rows; ++r) std::copy_n(up + r * rank, rank, up_.data() + r * stride_);
    if (!rope_) return;
    // The angles within a tile; those of where it begins are added when it is read.
    for (const double omega : rope_->inverse_frequencies())
      for (Index j = 0; j < tile_keys; ++j) {
        cos_.push_back(static_cast<T>(std::cos(static_cast<double>(j) * omega)));
        sin_.push_back(static_cast<T>(std::sin(static_cast<double>(j) * omega)));
      }
  }

  Index num_kv_heads() const { return num_kv_heads_; }
  Index num_latents() const { return num_latents_; }
  Index head_dim() const { return head_dim_; }
  Index rank() const { return rank_; }
  Index key_elements() const { return head_dim_ * tile_keys; }

  /// keys <- head_dim x size of them, each dim's `tile_keys` apart, for latents that stand so in `side`, at
  /// the positions from `first` on, which are of one tile.
  void make(Index kv_head, const TileSide& side, Index first, Index size, T* keys) const {
    const simd::Kernels<T>& kernels = side.format->template kernels<T>(isa());
    kernels.product({.a = up_.data() + kv_head * head_dim_ * stride_,
                     .a_stride = stride_,
                     .b = side.data,
                     .b_stride = side.stride,
                     .c = keys,
                     .c_stride = tile_keys,
                     .rows = head_dim_,
                     .depth = rank_,
                     .columns = size,
                     .accumulate = false});
    if (rope_) rotate(first, size, keys);
  }

 private:
  /// Columns of a tile that are turned at once; products write as many.
  using Lanes [[gnu::vector_size(simd::padding * sizeof(T))]] = T;

  // By reference: how a vector is returned depends on a file's flags.
  static void load(const T* from, Lanes& lanes) { std::memcpy(&lanes, from, sizeof lanes); }

  void rotate(Index first, Index size, T* keys) const {
    const Index offset = first % tile_keys, pairs = rope_->pairs();
    const bool halves = rope_->config().layout == RopeLayout::half;
    const double gain = rope_->attention_factor();
    for (Index i = 0; i < pairs; ++i) {
      const double angle =
          static_cast<double>(first - offset) * rope_->inverse_frequencies()[static_cast<std::size_t>(i)];
      const T cos_begin = static_cast<T>(gain * std::cos(angle)),
              sin_begin = static_cast<T>(gain * std::sin(angle));
      const T* const cos = cos_.data() + i * tile_keys + offset;
      const T* const sin = sin_.data() + i * tile_keys + offset;
      T* const a = keys + (halves ? i : 2 * i) * tile_keys;
      T* const b = keys + (halves ? i + pairs : 2 * i + 1) * tile_keys;
      for (Index j = 0; j < size; j += simd::padding) {
        Lanes of_cos, of_sin, x, y;
        load(cos + j, of_cos);
        load(sin + j, of_sin);
        load(a + j, x);
        load(b + j, y);
        const Lanes c = cos_begin * of_cos - sin_begin * of_sin, s = sin_begin * of_cos + cos_begin * of_sin;
        const Lanes turned_x = c * x - s * y, turned_y = s * x + c * y;
        std::memcpy(a + j, &turned_x, sizeof turned_x);
        std::memcpy(b + j, &turned_y, sizeof turned_y);
      }
    }
  }

  Index num_kv_heads_, num_latents_, head_dim_, rank_, stride_;
  std::optional<Rope> rope_;
  std::vector<T> up_, cos_, sin_;
};

/// A view whose heads are latents, as the KV heads that are made of them: keys a tile at a time where
/// attention reads it, before they are rotated for it, values as they are, of `value_dim` latent elements
/// (Palu, Chang et al. 2024, arXiv 2407.21118; Wo takes what values still lack). Nothing of the keys is kept:
/// each block of queries that reads a tile pays for it again, rank times the arithmetic of reading it for one
/// query row. Refers to the reconstruction.
template <KVView View>
class ReconstructedKeys {
 public:
  using Scalar = Accumulator<typename View::Scalar>;

  /// Throws std::invalid_argument where the view's heads are not the latents.
  ReconstructedKeys(View view, const KeyReconstruction<Scalar>& keys) : view_(std::move(view)), keys_(&keys) {
    const auto check = [](const char* name, Index is, Index expected) {
      GQA_CHECK(is == expected, std::invalid_argument,
                "latents: " << name << " is " << is << ", expected " << expected);
    };
    check("num_kv_heads", view_.num_kv_heads(), keys.num_latents());
    check("head_dim", view_.head_dim(), keys.rank());
  }

  Index num_seqs() const { return view_.num_seqs(); }
  Index num_kv_heads() const { return keys_->num_kv_heads(); }
  Index head_dim() const { return keys_->head_dim(); }
  Index value_dim() const { return view_.value_dim(); }
  Ranges retained(Index seq) const { return view_.retained(seq); }

  /// Keys, latents and values of token-major tiles, and what the view itself needs.
  Index scratch_bytes() const { return own_bytes() + view_.scratch_bytes(); }

  KVTile tile(Index seq, Index kv_head, Range want, void* scratch) const {
    const Index latent = kv_head / (keys_->num_kv_heads() / keys_->num_latents());
    const KVTile stored = view_.tile(seq, latent, want, static_cast<std::byte*>(scratch) + own_bytes());
    GQA_CHECK(!stored.k.scaled(), std::invalid_argument,
              "latents: keys are quantised, expected f32, f16, bf16 or f64");
    // Where a tile comes in pieces, each has its columns.
    const Index column = want.begin % tile_keys;
    Scalar* const keys = static_cast<Scalar*>(scratch) + column;
    KVTile made{.k = tile_side(static_cast<const Scalar*>(keys), tile_keys), .size = stored.size};
    if (stored.layout == TileLayout::packed) {
      keys_->make(kv_head, stored.k, want.begin, stored.size, keys);
      made.v = stored.v;
      return made;
    }
    const simd::Kernels<Scalar>& kernels = stored.k.format->template kernels<Scalar>(isa());
    Scalar* const latents = static_cast<Scalar*>(scratch) + keys_->key_elements();
    Scalar* const values = latents + latent_elements() + column * value_stride();
    kernels.transpose_keys(stored.k.data, stored.k.stride, stored.size, keys_->rank(), tile_keys, latents);
    keys_->make(kv_head, tile_side(static_cast<const Scalar*>(latents), tile_keys), want.begin, stored.size,
                keys);
    GQA_CHECK(!stored.v.scaled(), std::invalid_argument,
              "latents: values are quantised and token-major, expected packed ones");
    const simd::Kernels<Scalar>& value_kernels = stored.v.format->template kernels<Scalar>(isa());
    for (Index j = 0; j < stored.size; ++j) {
      Scalar* const row = values + j * value_stride();
      value_kernels.widen_row(
          stored.v.template as<std::byte>() + j * stored.v.stride * stored.v.format->bytes, value_dim(),
          Scalar{1}, row);
      std::fill(row + value_dim(), row + value_stride(), Scalar{0});  // read, and looked at for NaN
    }
    made.v = tile_side(static_cast<const Scalar*>(values), value_stride());
    return made;
  }

 private:
  Index value_stride() const { return round_up(value_dim(), simd::padding); }
  Index latent_elements() const { return round_up(keys_->rank(), 2) * tile_keys; }
  Index own_bytes() const {
    return (keys_->key_elements() + latent_elements() + tile_keys * value_stride()) * Index{sizeof(Scalar)};
  }

  View view_;
  const KeyReconstruction<Scalar>* keys_;
};

}  // namespace gqa
