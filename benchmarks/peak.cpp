// SPDX-License-Identifier: Apache-2.0
#include "peak.hpp"

#include <array>
#include <cstdint>
#include <gqa/simd/isa.hpp>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bench {
namespace {

volatile float sink;

#define GQA_SIMD_TEXT "peak_text.inl"
#include <gqa/simd/text/every_set.inl>

}  // namespace

std::string ReadPattern::name() const {
  return std::to_string(streams) + (streams == 1 ? " stream" : " streams") +
         (prefetch == 0 ? "" : ", prefetch " + std::to_string(prefetch) + " B");
}

Arithmetic fma_f32() {
#if defined(__x86_64__)
  if (gqa::supports(gqa::Isa::avx512)) return avx512::multiply_add;
  if (gqa::supports(gqa::Isa::avx2)) return avx2::multiply_add;
#endif
  return generic::multiply_add;
}

Arithmetic dot_bf16() {
#if defined(__x86_64__)
  if (gqa::supports(gqa::Isa::avx512bf16)) return avx512bf16::dot;
#endif
  return nullptr;
}

Arithmetic matrix_bf16() {
#if defined(__x86_64__)
  if (gqa::supports(gqa::Isa::amx)) return amx::dot;
#endif
  return nullptr;
}

std::span<const ReadPattern> read_patterns() {
#if defined(__x86_64__)
  if (gqa::supports(gqa::Isa::avx512)) return avx512::patterns;
  if (gqa::supports(gqa::Isa::avx2)) return avx2::patterns;
#endif
  return generic::patterns;
}

}  // namespace bench
