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
