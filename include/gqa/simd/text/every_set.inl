// SPDX-License-Identifier: Apache-2.0
// The one list of instruction sets: compiles the file that GQA_SIMD_TEXT names once for each, in a namespace
// and a target region of its own, with GQA_SIMD_BYTES (the width of a vector) and GQA_SIMD_LEVEL set (0
// generic, 1 AVX2, 2 AVX-512, 3 with bf16, 4 with the matrix unit).
//
// Flags of the command line add to a region's instruction set, and the linker keeps one translation unit's
// copy of a function for all. Where all have FMA, that changes no bit: every product is contracted into the
// sum it enters. The generic region must not have it on the command line's word, or objects of -O2 and
// -march=native would link to different results.

#if defined(__x86_64__)
#define GQA_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define GQA_BEGIN_SET(set) GQA_PRAGMA(clang attribute push(__attribute__((target(set))), apply_to = function))
#define GQA_END_SET GQA_PRAGMA(clang attribute pop)
#else
#define GQA_BEGIN_SET(...)     \
  GQA_PRAGMA(GCC push_options) \
  GQA_PRAGMA(GCC target(__VA_ARGS__))
#define GQA_END_SET GQA_PRAGMA(GCC pop_options)
#endif
#define GQA_SET_AVX2 "avx2,fma,f16c"
#define GQA_SET_AVX512 "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"
#define GQA_SET_BF16 "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"
#define GQA_SET_AMX "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16"
// GCC would rather use half of a vector.
#if defined(__clang__)
#define GQA_BEGIN_WIDE_SET(set) GQA_BEGIN_SET(set)
#else
#define GQA_BEGIN_WIDE_SET(set) GQA_BEGIN_SET(set, "prefer-vector-width=512")
#endif
#endif

#if defined(__x86_64__)
#if defined(__clang__)
#pragma float_control(push)
#pragma clang fp contract(off)
#else
#pragma GCC push_options
#pragma GCC target("arch=x86-64")
#endif
#endif
#define GQA_SIMD_BYTES 16
#define GQA_SIMD_LEVEL 0
namespace generic {
#include GQA_SIMD_TEXT
}  // namespace generic
#undef GQA_SIMD_BYTES
#undef GQA_SIMD_LEVEL

#if defined(__x86_64__)
#if defined(__clang__)
#pragma float_control(pop)
#else
#pragma GCC pop_options
#endif

#define GQA_SIMD_BYTES 32
#define GQA_SIMD_LEVEL 1
GQA_BEGIN_SET(GQA_SET_AVX2)
namespace avx2 {
#include GQA_SIMD_TEXT
}  // namespace avx2
GQA_END_SET
#undef GQA_SIMD_BYTES
#undef GQA_SIMD_LEVEL

#define GQA_SIMD_BYTES 64
#define GQA_SIMD_LEVEL 2
GQA_BEGIN_WIDE_SET(GQA_SET_AVX512)
namespace avx512 {
#include GQA_SIMD_TEXT
}  // namespace avx512
GQA_END_SET
#undef GQA_SIMD_LEVEL

#define GQA_SIMD_LEVEL 3
GQA_BEGIN_WIDE_SET(GQA_SET_BF16)
namespace avx512bf16 {
#include GQA_SIMD_TEXT
}  // namespace avx512bf16
GQA_END_SET
#undef GQA_SIMD_LEVEL

#define GQA_SIMD_LEVEL 4
GQA_BEGIN_WIDE_SET(GQA_SET_AMX)
namespace amx {
#include GQA_SIMD_TEXT
}  // namespace amx
GQA_END_SET
#undef GQA_SIMD_BYTES
#undef GQA_SIMD_LEVEL

#undef GQA_PRAGMA
#undef GQA_BEGIN_SET
#undef GQA_BEGIN_WIDE_SET
#undef GQA_END_SET
#undef GQA_SET_AVX2
#undef GQA_SET_AVX512
#undef GQA_SET_BF16
#undef GQA_SET_AMX
#endif  // __x86_64__

#undef GQA_SIMD_TEXT
