// SPDX-License-Identifier: Apache-2.0
// Products of rows with rows, C = A * B^T, for a B that is read where it stands. Included once per
// instruction set.

// 64 bytes of sums a product, whatever the set's vectors: lane l of them takes every element l modulo their
// number. A register tile is as many rows of A by rows of B as leave registers for a row of B each and one of
// A: with 32 registers 24 sums, with 16 12 of them.
inline constexpr int dot_parts = 64 / GQA_SIMD_BYTES;
#if GQA_SIMD_LEVEL >= 2
inline constexpr int dot_a = 6, dot_b = 4;
#elif GQA_SIMD_LEVEL == 1 || defined(__aarch64__)
inline constexpr int dot_a = 3, dot_b = 2;
#else
inline constexpr int dot_a = 3, dot_b = 1;
#endif

/// Bytes that rows are prefetched ahead of those that are read, at least: to the second level, in the order
/// they stand, though the rows of a tile are read side by side. Measured over 512 MiB of f16 at 31 GB/s, rows
/// of 576, 2,048 and 8,192: this 0.89, 0.91, 0.89 of it; only the tile's own rows ahead 0.68, 0.92, 0.88; to
/// the first level, whose lines wait too long to be there still, 0.56, 0.79, 0.54; each row by itself 0.34,
/// 0.53, 0.58.
inline constexpr Index dot_ahead = 16384;

/// Lines of 64 bytes that a step of dot_b rows reads.
template <class T>
inline constexpr int dot_lines = (dot_b * static_cast<int>(sizeof(T) * 64 / sizeof(Accumulator<T>)) + 63) /
                                 64;

/// Rows sums with each of dot_b rows of B, over the whole depth, in steps of 64 bytes of sums. A product's
/// sums see the same operations in the same order whatever Rows is.
template <class T, int Rows, bool Prefetch>
__attribute__((noinline)) void dot_tile(const Accumulator<T>* a, Index a_stride, const T* const (&b)[dot_b],
                                        Index depth, Accumulator<T>* sums, Index sums_stride, bool accumulate,
                                        Index ahead) {
  using Acc = Accumulator<T>;
  constexpr int L = lanes<Acc>, step = L * dot_parts;
  Vec<Acc> sum[Rows][dot_b][dot_parts];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < dot_b; ++j)
#pragma GCC unroll 8
      for (int p = 0; p < dot_parts; ++p)
        sum[i][j][p] =
            accumulate ? load_vec<Vec<Acc>>(sums + i * sums_stride + j * step + p * L) : Vec<Acc>{};
  const auto multiply = [&](Index k, auto load) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int p = 0; p < dot_parts; ++p) {
      Vec<Acc> row[dot_b];
#pragma GCC unroll 8
      for (int j = 0; j < dot_b; ++j) row[j] = load(b[j], k + p * L);
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i) {
        const Vec<Acc> x = load(a + i * a_stride, k + p * L);
#pragma GCC unroll 8
        for (int j = 0; j < dot_b; ++j) sum[i][j][p] = multiply_add(x, row[j], sum[i][j][p]);
      }
    }
  };
  const auto whole = [](const auto* row, Index k) __attribute__((always_inline)) {
    return load_as<Acc>(row + k);
  };
  Index k = 0;
  for (; k + step <= depth; k += step) {
    if constexpr (Prefetch) {
#pragma GCC unroll 8
      for (int j = 0; j < dot_lines<T>; ++j)
        __builtin_prefetch(reinterpret_cast<const void*>(ahead + 64 * j), 0, 2);
      ahead += 64 * dot_lines<T>;
    }
    multiply(k, whole);
  }
  if (k < depth)
    multiply(
        k, [=](const auto* row, Index at) __attribute__((always_inline)) {
          const Index left = depth - at;
          return left >= L ? load_as<Acc>(row + at) : load_some<Acc>(row + at, left > 0 ? left : 0);
        });
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < dot_b; ++j)
#pragma GCC unroll 8
      for (int p = 0; p < dot_parts; ++p) store_vec(sums + i * sums_stride + j * step + p * L, sum[i][j][p]);
}

template <class T>
void dot_rows(const DotRows<Accumulator<T>>& d) {
  using Acc = Accumulator<T>;
  constexpr Index step = lanes<Acc> * dot_parts;
  const Index sums_stride = dot_columns * step;
  const Index tiles = (d.a_rows + dot_a - 1) / dot_a;
  const T* rows = static_cast<const T*>(d.b);
  for (Index column = 0; column < d.b_rows; column += dot_b) {
    const T* b[dot_b];
    for (int j = 0; j < dot_b; ++j)  // the last row again where there is none: its sums are not used
      b[j] = rows + (column + j < d.b_rows ? column + j : d.b_rows - 1) * d.b_stride;
    const Index tile_bytes = dot_b * d.depth * static_cast<Index>(sizeof(T));
    const Index ahead = reinterpret_cast<Index>(b[0]) + (tile_bytes > dot_ahead ? tile_bytes : dot_ahead);
    Index row = 0;
    for (Index tile = 0; tile < tiles; ++tile) {
      const Index count = (d.a_rows - row + (tiles - tile) - 1) / (tiles - tile);
      const Acc* a = d.a + row * d.a_stride;
      Acc* sums = d.sums + row * sums_stride + column * step;
      const bool streaming = tile == 0 && column + dot_b < d.b_readable && d.b_stride == d.depth;
      const auto run = [&]<int Rows>() {
        if (streaming)
          dot_tile<T, Rows, true>(a, d.a_stride, b, d.depth, sums, sums_stride, d.accumulate, ahead);
        else
          dot_tile<T, Rows, false>(a, d.a_stride, b, d.depth, sums, sums_stride, d.accumulate, ahead);
      };
      switch (count) {
        case 1:
          run.template operator()<1>();
          break;
        case 2:
          run.template operator()<2>();
          break;
        case 3:
          run.template operator()<3>();
          break;
#if GQA_SIMD_LEVEL >= 2
        case 4:
          run.template operator()<4>();
          break;
        case 5:
          run.template operator()<5>();
          break;
        case 6:
          run.template operator()<6>();
          break;
#endif
      }
      row += count;
    }
  }
}

/// The sums of lanes of as many vectors as one has lanes, as one vector: neighbours are added first.
template <int S, class V, int L>
GQA_INLINE V add_lanes(V (&v)[L]) {
  constexpr std::make_integer_sequence<int, L> lane_numbers;
#pragma GCC unroll 16
  for (int i = 0; i < L; i += 2 * S)
    v[i] = keep_low<S>(v[i], v[i + S], lane_numbers) + keep_high<S>(v[i], v[i + S], lane_numbers);
  if constexpr (2 * S < L)
    return add_lanes<2 * S>(v);
  else
    return v[0];
}

template <class Acc>
void fold_lanes(const Acc* sums, Index rows, Acc* c, Index c_stride) {
  constexpr int L = lanes<Acc>;
  constexpr Index step = L * dot_parts;
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < dot_columns; j += L) {
      Vec<Acc> part[dot_parts];
#pragma GCC unroll 8
      for (int p = 0; p < dot_parts; ++p) {
        Vec<Acc> v[L];
#pragma GCC unroll 16
        for (int n = 0; n < L; ++n)
          v[n] = load_vec<Vec<Acc>>(sums + (i * dot_columns + j + n) * step + p * L);
        part[p] = add_lanes<1>(v);
      }
#pragma GCC unroll 4
      for (int width = 1; width < dot_parts; width *= 2)
#pragma GCC unroll 4
        for (int p = 0; p < dot_parts; p += 2 * width) part[p] += part[p + width];
      store_vec(c + i * c_stride + j, part[0]);
    }
  }
}
