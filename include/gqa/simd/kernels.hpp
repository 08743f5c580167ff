// SPDX-License-Identifier: Apache-2.0
// Compiles the kernel text once per instruction set and picks a table at run time.
//
// Each inclusion stands in its own namespace and target region, so a plain -O2 build holds every set.
// Flags of the command line add to a region's instruction set, and the linker keeps one translation unit's
// copy of a function for all. Where all have FMA, that changes no bit: every product is contracted into the
// sum it enters. The generic region must not have it on the command line's word, or objects of -O2 and
// -march=native would link to different results.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "gqa/simd/isa.hpp"
#include "gqa/simd/product.hpp"

#if GQA_X86
#include <immintrin.h>
#endif

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi"            // vectors are passed between inlined functions only
#pragma GCC diagnostic ignored "-Wsign-conversion"  // arrays of registers and lanes are counted by int
#endif

// GCC optimises the kernels whatever the command line says: a build without a type is fast too, and -O0, -Og
// and -ffp-contract=off, which would not contract, give the same bits. At -O2 this changes no instruction.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("O2", "fp-contract=fast")
#endif

namespace gqa::simd {

#if GQA_X86
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
#include "gqa/simd/text/all.inl"
}

#if GQA_X86

#if defined(__clang__)
#pragma float_control(pop)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define GQA_SIMD_BYTES 32
#define GQA_SIMD_LEVEL 1
namespace avx2 {
#include "gqa/simd/text/all.inl"
}
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
#define GQA_SIMD_BYTES 64
#define GQA_SIMD_LEVEL 2
namespace avx512 {
#include "gqa/simd/text/all.inl"
}
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(                                                               \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))), \
    apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,prefer-vector-width=512")
#endif
#define GQA_SIMD_BYTES 64
#define GQA_SIMD_LEVEL 3
namespace avx512bf16 {
#include "gqa/simd/text/all.inl"
}
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(                                                                      \
    __attribute__((                                                                                \
        target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16"))), \
    apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target( \
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16,prefer-vector-width=512")
#endif
#define GQA_SIMD_BYTES 64
#define GQA_SIMD_LEVEL 4
namespace amx {
#include "gqa/simd/text/all.inl"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // GQA_X86

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif

namespace detail {

/// Calls `make` with a tag of the namespace of `isa`, and returns the table it picks.
#if GQA_X86
#define GQA_PICK(isa, table)      \
  switch (isa) {                  \
    case Isa::avx2:               \
      return avx2::table();       \
    case Isa::avx512:             \
      return avx512::table();     \
    case Isa::avx512bf16:         \
      return avx512bf16::table(); \
    case Isa::amx:                \
      return amx::table();        \
    default:                      \
      return generic::table();    \
  }
#else
#define GQA_PICK(isa, table) \
  static_cast<void>(isa);    \
  return generic::table();
#endif

}  // namespace detail

/// The kernels of an instruction set for K and V stored as T.
template <Scalar T>
Kernels<T> kernels(Isa isa) {
  GQA_PICK(isa, kernels_table<T>)
}
template <class Acc>
RowKernels<Acc> row_kernels(Isa isa) {
  GQA_PICK(isa, row_table<Acc>)
}
template <Scalar T>
ConvertKernels<T> convert_kernels(Isa isa) {
  GQA_PICK(isa, convert_table<T>)
}
#undef GQA_PICK

}  // namespace gqa::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
