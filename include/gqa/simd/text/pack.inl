// SPDX-License-Identifier: Apache-2.0
// Moving and converting: token-major keys to tiles, stored types to accumulators and back. Once per
// instruction set.

template <class T>
void widen_row(const T* x, Index n, Accumulator<T> factor, Accumulator<T>* y) {
  using Acc = Accumulator<T>;
  constexpr Index L = lanes<Acc>;
  Index i = 0;
  for (; i + L <= n; i += L) store_vec(y + i, load_as<Acc>(x + i) * factor);
  if (i < n) store_some(y + i, load_some<Acc>(x + i, n - i) * factor, n - i);
}

template <class T>
void narrow_row(const Accumulator<T>* x, Index n, Accumulator<T> factor, T* y) {
  using Acc = Accumulator<T>;
  constexpr Index L = lanes<Acc>;
  // -0 + 0 is +0: whether a row's keys were skipped or multiplied by 0 must not show in the sign of a zero.
  Index i = 0;
  for (; i + L <= n; i += L) store_as(y + i, load_vec<Vec<Acc>>(x + i) * factor + Acc{0});
  if (i < n) store_some(y + i, load_some<Acc>(x + i, n - i) * factor + Acc{0}, n - i);
}

/// 16 tokens x 16 dims at a time through a buffer that stays in L1: reads along dims, writes along tokens.
template <class T>
void transpose_keys(const T* k, Index stride, Index keys, Index dim, Accumulator<T>* tile) {
  using Acc = Accumulator<T>;
  constexpr Index L = lanes<Acc>;
  alignas(64) Acc block[L][L];
  for (Index j = 0; j < tile_keys; j += L) {
    for (Index d = 0; d < dim; d += L) {
      const Index width = dim - d < L ? dim - d : L;
      for (Index t = 0; t < L; ++t) {
        Vec<Acc> v{};
        if (j + t < keys) {
          const T* row = k + (j + t) * stride + d;
          v = width == L ? load_as<Acc>(row) : load_some<Acc>(row, width);
        }
        store_vec(block[t], v);
      }
      for (Index i = 0; i < width; ++i) {
        Vec<Acc> v;
#pragma GCC unroll 16
        for (Index t = 0; t < L; ++t) v[t] = block[t][i];
        store_vec(tile + (d + i) * tile_keys + j, v);
      }
    }
  }
}

/// [dim/2][64][2]; plain types keep their element group of 1 and never come here.
template <class T>
void transpose_pairs(const T* k, Index stride, Index keys, Index dim, T* tile) {
  constexpr Index E = element_group<T>;
  for (Index d = 0; d < (dim + E - 1) / E; ++d)
    for (Index j = 0; j < tile_keys; ++j)
      for (Index e = 0; e < E; ++e)
        tile[(d * tile_keys + j) * E + e] = j < keys && d * E + e < dim ? k[j * stride + d * E + e] : T{};
}

template <class T>
void widen_packed(const T* packed, Index stride, Index rows, Index columns, Accumulator<T>* out,
                  Index out_stride) {
  using Acc = Accumulator<T>;
  using Format = Widening<T>;
  constexpr Index L = lanes<Acc>;
  for (Index r = 0; r < rows; ++r)
    for (Index j = 0; j < columns; j += L)
      store_vec(out + r * out_stride + j,
                Format::load(packed + r / Format::group * stride + j * Format::group,
                             static_cast<int>(r % Format::group)));
}

template <class T>
bool all_finite(const T* packed, Index stride, Index rows, Index columns) {
  using Acc = Accumulator<T>;
  using Format = Widening<T>;
  constexpr Index L = lanes<Acc>;
  // x * 0 is 0 for a finite x and NaN for any other, and a NaN survives every sum.
  Vec<Acc> sum{};
  for (Index r = 0; r < rows; r += Format::group)
    for (Index j = 0; j < columns; j += L)
#pragma GCC unroll 2
      for (int part = 0; part < Format::parts; ++part)
        sum += Format::load(packed + r / Format::group * stride + j * Format::group, part) * Acc{0};
  return sum_lanes<Acc>(sum) == Acc{0};
}
