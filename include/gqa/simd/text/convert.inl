// SPDX-License-Identifier: Apache-2.0
// Vectors of Acc lanes, read from and written to memory of any scalar type. Included once per instruction
// set.

GQA_INLINE F32 bf16_to_f32(U16 x) { return bits_as<F32>(__builtin_convertvector(x, U32) << 16); }

/// Round to nearest even; a NaN stays one. The result stands in the upper half of each lane, above zeros.
GQA_INLINE U32 f32_to_bf16_above(F32 x) {
  const U32 u = bits_as<U32>(x);
  const U32 rounded = u + 0x7fffu + ((u >> 16) & 1u), quiet = u | 0x400000u;
  return (x == x ? rounded : quiet) & 0xffff0000u;
}
GQA_INLINE U16 f32_to_bf16(F32 x) { return __builtin_convertvector(f32_to_bf16_above(x) >> 16, U16); }

/// The generic twin of the half conversions: shift into place, then scale by 2^112, which also normalises
/// subnormals.
GQA_INLINE F32 f16_to_f32_generic(U16 x) {
  const U32 wide = __builtin_convertvector(x, U32);
  const U32 magnitude = (wide & 0x7fffu) << 13;
  const U32 finite = bits_as<U32>(bits_as<F32>(magnitude) * 0x1p112f);
  const U32 special = magnitude | 0x7f800000u;
  return bits_as<F32>((magnitude >= 0x0f800000u ? special : finite) | (wide & 0x8000u) << 16);
}

/// Round to nearest even. Below 2^-14, adding 1/2 leaves the half's subnormal bits in the sum's mantissa,
/// rounded.
GQA_INLINE U16 f32_to_f16_generic(F32 x) {
  const U32 u = bits_as<U32>(x);
  const U32 sign = u & 0x80000000u;
  const U32 magnitude = u ^ sign;
  const U32 normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const U32 subnormal = bits_as<U32>(bits_as<F32>(magnitude) + 0.5f) - 0x3f000000u;
  U32 h = magnitude < 0x38800000u ? subnormal : normal;
  h = magnitude >= 0x477ff000u ? U32{} + 0x7c00u : h;
  h = magnitude > 0x7f800000u ? ((magnitude >> 13) & 0x3ffu) | 0x7e00u : h;
  return __builtin_convertvector(h | sign >> 16, U16);
}

GQA_INLINE F32 load_f16(const void* p) {
#if GQA_SIMD_LEVEL >= 1
  return widen_halves(p);
#else
  return f16_to_f32_generic(load_vec<U16>(p));
#endif
}

GQA_INLINE U16 f32_to_f16(F32 x) {
#if GQA_SIMD_LEVEL >= 1
  return narrow_to_halves(x);
#else
  return f32_to_f16_generic(x);
#endif
}

/// Reads lanes<Acc> consecutive elements of any scalar type as Acc; double memory goes with double lanes
/// only.
template <class Acc, class T>
GQA_INLINE Vec<Acc> load_as(const T* p) {
  if constexpr (std::is_same_v<Acc, double>) {
    static_assert(std::is_same_v<T, double>);
    return load_vec<F64>(p);
  } else if constexpr (std::is_same_v<T, half>) {
    return load_f16(p);
  } else if constexpr (std::is_same_v<T, bfloat16>) {
    return bf16_to_f32(load_vec<U16>(p));
  } else {
    static_assert(std::is_same_v<T, float>);
    return load_vec<F32>(p);
  }
}

template <class T, class V>
GQA_INLINE void store_as(T* p, V v) {
  if constexpr (std::is_same_v<T, half>) {
    store_vec(p, f32_to_f16(v));
  } else if constexpr (std::is_same_v<T, bfloat16>) {
    store_vec(p, f32_to_bf16(v));
  } else {
    store_vec(p, v);
  }
}

/// The first `count` elements; the other lanes are zero and the memory behind them is not touched.
template <class Acc, class T>
GQA_INLINE Vec<Acc> load_some(const T* p, Index count) {
  T buffer[lanes<Acc>];
  __builtin_memset(static_cast<void*>(buffer), 0, sizeof buffer);
  __builtin_memcpy(static_cast<void*>(buffer), static_cast<const void*>(p),
                   static_cast<unsigned long>(count) * sizeof(T));
  return load_as<Acc>(buffer);
}
template <class T, class V>
GQA_INLINE void store_some(T* p, V v, Index count) {
  T buffer[sizeof(V) / sizeof(v[0])];
  store_as(buffer, v);
  __builtin_memcpy(static_cast<void*>(p), static_cast<const void*>(buffer),
                   static_cast<unsigned long>(count) * sizeof(T));
}
