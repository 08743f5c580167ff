// SPDX-License-Identifier: Apache-2.0
// Vectors of one instruction set. Included once per set, inside its target region and namespace, so no
// include guard. The including file defines GQA_SIMD_BYTES (vector width) and GQA_SIMD_LEVEL (0 generic, 1
// AVX2, 2 AVX-512, 3 with bf16).

// Passing vectors wider than the baseline's registers only ever happens between functions that are inlined.
#define GQA_INLINE inline __attribute__((always_inline))

using F32 = float __attribute__((vector_size(GQA_SIMD_BYTES)));
using F64 = double __attribute__((vector_size(GQA_SIMD_BYTES)));
using I32 = int __attribute__((vector_size(GQA_SIMD_BYTES)));
using I64 = long long __attribute__((vector_size(GQA_SIMD_BYTES)));
using U32 = unsigned __attribute__((vector_size(GQA_SIMD_BYTES)));
using U64 = unsigned long long __attribute__((vector_size(GQA_SIMD_BYTES)));
using U16 = unsigned short __attribute__((vector_size(GQA_SIMD_BYTES / 2)));  // as many lanes as F32

template <class Acc>
struct VecOf;
template <>
struct VecOf<float> {
  using type = F32;
  using Quarter = float __attribute__((vector_size(16)));
  using Int = I32;
  using Bits = U32;
  using Lane = unsigned;
};
template <>
struct VecOf<double> {
  using type = F64;
  using Quarter = double __attribute__((vector_size(16)));
  using Int = I64;
  using Bits = U64;
  using Lane = unsigned long long;
};
template <class Acc>
using Vec = typename VecOf<Acc>::type;
template <class Acc>
inline constexpr int lanes = GQA_SIMD_BYTES / static_cast<int>(sizeof(Acc));

template <class V>
GQA_INLINE V load_vec(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
GQA_INLINE void store_vec(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <class To, class From>
GQA_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}
/// x in every lane; x - 0 keeps the sign of a zero where 0 + x would not.
template <class Acc>
GQA_INLINE Vec<Acc> splat(Acc x) {
  return x - Vec<Acc>{};
}

// The unmasked AVX-512 intrinsics start from an undefined vector, which GCC 12 warns of in its own header.
// With a full mask over zero the instruction is the same and the warning gone.

/// a > b ? a : b a lane: b where either is NaN.
template <class V>
GQA_INLINE V max_of(V a, V b) {
#if GQA_SIMD_LEVEL >= 2
  if constexpr (sizeof(a[0]) == 4)
    return bits_as<V>(_mm512_maskz_max_ps(0xffff, bits_as<__m512>(a), bits_as<__m512>(b)));
  else
    return bits_as<V>(_mm512_maskz_max_pd(0xff, bits_as<__m512d>(a), bits_as<__m512d>(b)));
#elif GQA_SIMD_LEVEL == 1
  if constexpr (sizeof(a[0]) == 4)
    return bits_as<V>(_mm256_max_ps(bits_as<__m256>(a), bits_as<__m256>(b)));
  else
    return bits_as<V>(_mm256_max_pd(bits_as<__m256d>(a), bits_as<__m256d>(b)));
#else
  return a > b ? a : b;
#endif
}

/// c + a * b, rounded once where the set has FMA, whatever the command line tunes for: GCC takes a sum that a
/// loop carries apart for some processors (AMD's), unless the loop has several of them.
template <class V>
GQA_INLINE V multiply_add(V a, V b, V c) {
#if GQA_SIMD_LEVEL >= 2
  if constexpr (sizeof(a[0]) == 4)
    return bits_as<V>(_mm512_fmadd_ps(bits_as<__m512>(a), bits_as<__m512>(b), bits_as<__m512>(c)));
  else
    return bits_as<V>(_mm512_fmadd_pd(bits_as<__m512d>(a), bits_as<__m512d>(b), bits_as<__m512d>(c)));
#elif GQA_SIMD_LEVEL == 1
  if constexpr (sizeof(a[0]) == 4)
    return bits_as<V>(_mm256_fmadd_ps(bits_as<__m256>(a), bits_as<__m256>(b), bits_as<__m256>(c)));
  else
    return bits_as<V>(_mm256_fmadd_pd(bits_as<__m256d>(a), bits_as<__m256d>(b), bits_as<__m256d>(c)));
#else
  return c + a * b;
#endif
}

// ---- 16-bit floats. One vector of Acc lanes is read from, or written to, memory of any scalar type. ----

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

GQA_INLINE F32 f16_to_f32(U16 x) {
#if GQA_SIMD_LEVEL >= 2
  return bits_as<F32>(_mm512_maskz_cvtph_ps(0xffff, bits_as<__m256i>(x)));
#elif GQA_SIMD_LEVEL == 1
  return bits_as<F32>(_mm256_cvtph_ps(bits_as<__m128i>(x)));
#else
  return f16_to_f32_generic(x);
#endif
}

GQA_INLINE U16 f32_to_f16(F32 x) {
#if GQA_SIMD_LEVEL >= 2
  return bits_as<U16>(
      _mm512_maskz_cvtps_ph(0xffff, bits_as<__m512>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif GQA_SIMD_LEVEL == 1
  return bits_as<U16>(_mm256_cvtps_ph(bits_as<__m256>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
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
    return f16_to_f32(load_vec<U16>(p));
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
