// SPDX-License-Identifier: Apache-2.0
// Moving and converting: token-major keys to tiles, stored types to accumulators and back. Once per
// instruction set.

// Rows and tiles come as untyped memory: one table serves whatever they hold, and T is what this function
// reads.

template <class T>
void widen_row(const void* from, Index n, Accumulator<T> factor, Accumulator<T>* y) {
  using Acc = Accumulator<T>;
  const T* x = static_cast<const T*>(from);
  constexpr Index L = lanes<Acc>;
  Index i = 0;
  for (; i + L <= n; i += L) store_vec(y + i, load_as<Acc>(x + i) * factor);
  if (i < n) store_some(y + i, load_some<Acc>(x + i, n - i) * factor, n - i);
}

template <class T>
void narrow_row(const Accumulator<T>* x, Index n, Accumulator<T> factor, void* to) {
  using Acc = Accumulator<T>;
  T* y = static_cast<T*>(to);
  constexpr Index L = lanes<Acc>;
  // -0 + 0 is +0: whether a row's keys were skipped or multiplied by 0 must not show in the sign of a zero.
  Index i = 0;
  for (; i + L <= n; i += L) store_as(y + i, load_vec<Vec<Acc>>(x + i) * factor + Acc{0});
  if (i < n) store_some(y + i, load_some<Acc>(x + i, n - i) * factor + Acc{0}, n - i);
}

/// Of 16 bits, every NaN is the quiet one of its sign: the sets' instructions would keep different payloads.
template <class T>
GQA_INLINE Vec<Accumulator<T>> quiet(Vec<Accumulator<T>> v) {
  if constexpr (scalar_bytes<T> == 2)
    return v == v ? v : bits_as<F32>((bits_as<U32>(v) & 0x80000000u) | 0x7fc00000u);
  else
    return v;
}

template <class T>
void round_row(const Accumulator<T>* x, Index n, void* to) {
  using Acc = Accumulator<T>;
  T* y = static_cast<T*>(to);
  constexpr Index L = lanes<Acc>;
  Index i = 0;
  for (; i + L <= n; i += L) store_as(y + i, quiet<T>(load_vec<Vec<Acc>>(x + i)));
  if (i < n) store_some(y + i, quiet<T>(load_some<Acc>(x + i, n - i)), n - i);
}

/// Lane l of the result is lane l of `low` where l has no bit `S`, else lane l - S of `high`; and the like
/// for the other halves: lane l + S of `low`, or lane l of `high`.
template <int S, class V, int... I>
GQA_INLINE V keep_low(V low, V high, std::integer_sequence<int, I...>) {
  constexpr int L = sizeof...(I);
  return __builtin_shufflevector(low, high, ((I & S) == 0 ? I : L + I - S)...);
}
template <int S, class V, int... I>
GQA_INLINE V keep_high(V low, V high, std::integer_sequence<int, I...>) {
  constexpr int L = sizeof...(I);
  return __builtin_shufflevector(low, high, ((I & S) == 0 ? I + S : L + I)...);
}

/// Exchanges bit S of the row with bit S of the lane, then the higher bits: all of them make a transpose.
template <int S, int L, class V>
GQA_INLINE void transpose_lanes(V (&rows)[L]) {
  constexpr std::make_integer_sequence<int, L> lane_numbers;
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) {
    if ((i & S) != 0) continue;
    const V low = rows[i], high = rows[i + S];
    rows[i] = keep_low<S>(low, high, lane_numbers);
    rows[i + S] = keep_high<S>(low, high, lane_numbers);
  }
  if constexpr (2 * S < L) transpose_lanes<2 * S>(rows);
}

/// Transposes blocks of L x L in registers: reads along dims, writes along tokens. `load(token, d, count)`
/// gives up to L consecutive elements; tokens past `keys` are 0. Writes `width` columns of each row of the
/// tile, as `convert(elements)` makes them. Blocks that lack tokens or dims go through memory, row by row:
/// unrolled like the others they were most of the code.
template <class Element, class Out, class Load, class Convert>
GQA_INLINE void transpose_tile(Index keys, Index dim, Index width, Out* tile, Load load, Convert convert) {
  constexpr int L = lanes<Element>;
  for (Index j = 0; j < width; j += L) {
    for (Index d = 0; d < dim; d += L) {
      const Index dims = dim - d < L ? dim - d : L, tokens = keys - j, columns = width - j;
      const bool whole = tokens >= L && columns >= L && dims == L;
      Vec<Element> rows[L], parts[L];
      if (whole) {
#pragma GCC unroll 16
        for (int t = 0; t < L; ++t) rows[t] = load(j + t, d, L);
      } else {
#pragma GCC unroll 1
        for (int t = 0; t < L; ++t) parts[t] = t < tokens ? load(j + t, d, dims) : Vec<Element>{};
#pragma GCC unroll 16
        for (int t = 0; t < L; ++t) rows[t] = parts[t];
      }
      transpose_lanes<1>(rows);
      Out* to = tile + d * tile_keys + j;
      if (whole) {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) store_vec(to + i * tile_keys, convert(rows[i]));
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) parts[i] = rows[i];
#pragma GCC unroll 1
        for (int i = 0; i < dims; ++i) {
          const auto v = convert(parts[i]);
          __builtin_memcpy(static_cast<void*>(to + i * tile_keys), &v,
                           static_cast<unsigned long>(columns < L ? columns : L) * sizeof(Out));
        }
      }
    }
  }
}

template <class V>
GQA_INLINE V unchanged(V v) {
  return v;
}

template <class T>
void transpose_keys(const void* rows, Index stride, Index keys, Index dim, Index width,
                    Accumulator<T>* tile) {
  using Acc = Accumulator<T>;
  const T* k = static_cast<const T*>(rows);
  transpose_tile<Acc>(
      keys, dim, width, tile,
      [=](Index token, Index d, Index count) __attribute__((always_inline)) {
        const T* row = k + token * stride + d;
        return count == lanes<Acc> ? load_as<Acc>(row) : load_some<Acc>(row, count);
      },
      &unchanged<Vec<Acc>>);
}

/// Rows of floats, rounded as round_row does: once they stand as they are stored.
inline void transpose_to_halves(const float* rows, Index stride, Index keys, Index dim, Index width,
                                void* tile) {
  transpose_tile<float>(
      keys, dim, width, static_cast<std::uint16_t*>(tile),
      [=](Index token, Index d, Index count) __attribute__((always_inline)) {
        const float* row = rows + token * stride + d;
        return count == lanes<float> ? load_vec<F32>(row) : load_some<float>(row, count);
      },
      [](F32 v) __attribute__((always_inline)) { return f32_to_f16(quiet<half>(v)); });
}

/// The first `count` 16-bit floats at p as they are stored, and zeros.
GQA_INLINE U16 load_bits(const std::uint16_t* p, Index count) {
  U16 bits{};
  if (count == lanes<float>)
    bits = load_vec<U16>(p);
  else
    __builtin_memcpy(&bits, p, static_cast<unsigned long>(count) * sizeof *p);
  return bits;
}

/// Each half in a 32-bit lane of its own, unconverted.
inline void transpose_halves(const void* rows, Index stride, Index keys, Index dim, Index width, void* tile) {
  const auto* k = static_cast<const std::uint16_t*>(rows);
  transpose_tile<float>(
      keys, dim, width, static_cast<std::uint16_t*>(tile),
      [=](Index token, Index d, Index count) __attribute__((always_inline)) {
        return bits_as<F32>(__builtin_convertvector(load_bits(k + token * stride + d, count), U32));
      },
      [](F32 v) __attribute__((always_inline)) { return __builtin_convertvector(bits_as<U32>(v), U16); });
}

/// A pair of 16-bit dims is one 32-bit element, and moves as one: only its bits count.
inline void transpose_pairs(const void* rows, Index stride, Index keys, Index dim, Index width, void* tile) {
  const auto* k = static_cast<const std::uint16_t*>(rows);
  transpose_tile<float>(
      keys, (dim + 1) / 2, width, static_cast<float*>(tile),
      [=](Index token, Index d, Index count) __attribute__((always_inline)) {
        const std::uint16_t* row = k + token * stride + 2 * d;
        if (2 * (d + lanes<float>) <= dim) return load_vec<F32>(row);
        F32 v{};
        const Index dims = dim - 2 * d < 2 * count ? dim - 2 * d : 2 * count;
        __builtin_memcpy(&v, row, static_cast<unsigned long>(dims) * sizeof *row);
        return v;
      },
      &unchanged<F32>);
}

/// Token rows to [keys/2][dim][2], `load(row, count)` the up to L next elements of a row in the upper halves
/// of 32 bits: the later token of a pair stays there.
template <class X, class Load>
GQA_INLINE void interleave(const void* rows, Index stride, Index keys, Index dim, void* pairs,
                           Index pairs_stride, Load load) {
  constexpr Index L = lanes<float>;
  const X* v = static_cast<const X*>(rows);
  auto* out = static_cast<std::uint16_t*>(pairs);
  for (Index j = 0; j < keys; j += 2) {
    const X* even = v + j * stride;
    const X* odd = even + stride;
    for (Index c = 0; c < round_up(dim, padding); c += L) {
      const Index count = dim - c < L ? dim - c : L;
      const U32 lower = count > 0 ? load(even + c, count) : U32{};
      const U32 upper = count > 0 && j + 1 < keys ? load(odd + c, count) : U32{};
      store_vec(out + j / 2 * pairs_stride + 2 * c, upper | lower >> 16);
    }
  }
}

inline void interleave_pairs(const void* rows, Index stride, Index keys, Index dim, void* pairs,
                             Index pairs_stride) {
  interleave<std::uint16_t>(
      rows, stride, keys, dim, pairs, pairs_stride,
      [](const std::uint16_t* p, Index count)
          __attribute__((always_inline)) { return __builtin_convertvector(load_bits(p, count), U32) << 16; });
}

/// Of floats, rounded as round_row does.
inline void interleave_rounded(const float* rows, Index stride, Index keys, Index dim, void* pairs,
                               Index pairs_stride) {
  interleave<float>(
      rows, stride, keys, dim, pairs, pairs_stride,
      [](const float* p, Index count) __attribute__((always_inline)) {
        const F32 v = count == lanes<float> ? load_vec<F32>(p) : load_some<float>(p, count);
        return f32_to_bf16_above(quiet<bfloat16>(v));
      });
}

template <class T>
void widen_packed(const void* from, Index stride, Index rows, Index columns, Accumulator<T>* out,
                  Index out_stride) {
  using Acc = Accumulator<T>;
  const T* packed = static_cast<const T*>(from);
  using Format = Widening<T>;
  constexpr Index L = lanes<Acc>;
  for (Index r = 0; r < rows; ++r)
    for (Index j = 0; j < columns; j += L)
      store_vec(out + r * out_stride + j,
                Format::load(packed + r / Format::group * stride + j * Format::group,
                             static_cast<int>(r % Format::group)));
}

template <class T>
bool all_finite(const void* from, Index stride, Index rows, Index columns) {
  using Acc = Accumulator<T>;
  const T* packed = static_cast<const T*>(from);
  using Format = Widening<T>;
  constexpr Index L = lanes<Acc>;
  // x * 0 is 0 for a finite x and NaN for any other, and a NaN survives every sum. One sum would be all
  // latency.
  constexpr int sums = 4;
  Vec<Acc> sum[sums] = {};
  const auto add = [&](const T* at, int into) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int part = 0; part < Format::parts; ++part) sum[into] += Format::load(at, part) * Acc{0};
  };
  for (Index r = 0; r < rows; r += Format::group) {
    const T* row = packed + r / Format::group * stride;
    Index j = 0;
    for (; j + sums * L <= columns; j += sums * L)
#pragma GCC unroll 4
      for (int u = 0; u < sums; ++u) add(row + (j + u * L) * Format::group, u);
    for (; j < columns; j += L) add(row + j * Format::group, 0);
  }
  return sum_lanes<Acc>((sum[0] + sum[1]) + (sum[2] + sum[3])) == Acc{0};
}
