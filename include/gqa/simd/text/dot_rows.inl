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

/// Bytes that a stream is prefetched ahead of what is read: over the ends of pages, where processors stop of
/// themselves. Half of it or twice as much takes a tenth longer.
inline constexpr Index dot_ahead = 2048;

/// Rows sums with each of dot_b rows of B, over the whole depth, in steps of 64 bytes of sums. A product's
/// sums see the same operations in the same order whatever Rows is.
template <class T, int Rows, bool Prefetch>
__attribute__((noinline)) void dot_tile(const Accumulator<T>* a, Index a_stride, const T* const (&b)[dot_b],
                                        Index depth, Accumulator<T>* sums, Index sums_stride,
                                        bool accumulate) {
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
      for (int j = 0; j < dot_b; ++j)
        __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<Index>(b[j] + k) + dot_ahead), 0,
                           3);
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
    for (int j = 0; j < dot_b; ++j) {
      // The last row again where there is none: its sums are not used.
      const Index c = column + j < d.b_rows ? column + j : d.b_rows - 1;
      b[j] = rows + (d.b_stream == 0 ? c : c % dot_streams * d.b_stream + c / dot_streams) * d.b_stride;
    }
    Index row = 0;
    for (Index tile = 0; tile < tiles; ++tile) {
      const Index count = (d.a_rows - row + (tiles - tile) - 1) / (tiles - tile);
      const Acc* a = d.a + row * d.a_stride;
      Acc* sums = d.sums + row * sums_stride + column * step;
      const bool prefetch = tile == 0 && d.b_stream != 0;
      const auto run = [&]<int Rows>() {
        if (prefetch)
          dot_tile<T, Rows, true>(a, d.a_stride, b, d.depth, sums, sums_stride, d.accumulate);
        else
          dot_tile<T, Rows, false>(a, d.a_stride, b, d.depth, sums, sums_stride, d.accumulate);
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
