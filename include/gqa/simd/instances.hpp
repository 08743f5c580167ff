// SPDX-License-Identifier: Apache-2.0
// The kernel text, compiled once per instruction set, so that a plain -O2 build holds every set; and the
// tables of each, picked at run time. What takes longest of the library to compile: files that call it need
// kernels.hpp alone.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "gqa/core/poison.hpp"
#include "gqa/simd/kernels.hpp"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi"            // vectors are passed between inlined functions only
#pragma GCC diagnostic ignored "-Wsign-conversion"  // arrays of registers and lanes are counted by int
// GCC optimises the kernels whatever the command line says: a build without a type is fast too, and -O0, -Og
// and -ffp-contract=off, which would not contract, give the same bits. At -O2 this changes no instruction.
#pragma GCC push_options
#pragma GCC optimize("O2", "fp-contract=fast")
#endif

namespace gqa::simd {

#define GQA_SIMD_TEXT "gqa/simd/text/all.inl"
#include "gqa/simd/text/every_set.inl"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif

// Returns the entry that `table` has for `isa`.
#if defined(__x86_64__)
#define GQA_PICK(isa, table)    \
  switch (isa) {                \
    case Isa::avx2:             \
      return avx2::table;       \
    case Isa::avx512:           \
      return avx512::table;     \
    case Isa::avx512bf16:       \
      return avx512bf16::table; \
    case Isa::amx:              \
      return amx::table;        \
    default:                    \
      return generic::table;    \
  }
#else
#define GQA_PICK(isa, table) \
  static_cast<void>(isa);    \
  return generic::table;
#endif

template <Scalar T>
const Kernels<Accumulator<T>>& kernels(Isa isa) {
  GQA_PICK(isa, kernels_of<T>)
}
template <class Acc>
const RowKernels<Acc>& row_kernels(Isa isa) {
  GQA_PICK(isa, row_kernels_of<Acc>)
}
template <Scalar T>
const ConvertKernels<Accumulator<T>>& convert_kernels(Isa isa) {
  GQA_PICK(isa, convert_kernels_of<T>)
}
template <class Acc>
const ScoreKernels<Acc>& score_kernels(Isa isa) {
  GQA_PICK(isa, score_kernels_of<Acc>)
}
template <class Acc>
const GradientKernels<Acc>& gradient_kernels(Isa isa) {
  GQA_PICK(isa, gradient_kernels_of<Acc>)
}
template <Scalar T>
const DotKernels<Accumulator<T>>& dot_kernels(Isa isa) {
  GQA_PICK(isa, dot_kernels_of<T>)
}
#undef GQA_PICK

}  // namespace gqa::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
