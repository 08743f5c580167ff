// SPDX-License-Identifier: Apache-2.0
#include "peak.hpp"

#include <array>
#include <cstdint>
#include <gqa/simd/isa.hpp>

#if GQA_X86
#include <immintrin.h>
#endif

namespace bench {
namespace {

volatile float sink;

// A multiply-add takes 4 or 5 cycles and two start each cycle: ten independent sums keep the units busy. The
// sums, the factor and the summand must fit the registers: 16, or 32 with AVX-512 and on AArch64.
namespace generic {
#define BENCH_BYTES 16
#define BENCH_SUMS 12
#include "peak_text.inl"
}  // namespace generic

#if GQA_X86

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace avx2 {
#define BENCH_BYTES 32
#define BENCH_SUMS 12
#include "peak_text.inl"
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f")
#endif
namespace avx512 {
#define BENCH_BYTES 64
#define BENCH_SUMS 20
#include "peak_text.inl"
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bf16"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bf16")
#endif
namespace avx512bf16 {

double dot(long rounds) {
  constexpr int sums = 20;
  __m512 sum[sums];
  __m512i ones = _mm512_set1_epi32(0x3f803f80), small = _mm512_set1_epi32(0x38003800);
  asm volatile("" : "+v"(ones), "+v"(small));  // else the product would be a constant
#pragma GCC unroll 32
  for (int i = 0; i < sums; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
  for (long round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (int i = 0; i < sums; ++i) sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)ones, (__m512bh)small);
  }
#pragma GCC unroll 32
  for (int i = 1; i < sums; ++i) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  sink = _mm512_cvtss_f32(sum[0]);
  return static_cast<double>(rounds) * sums * 32 * 2;
}

}  // namespace avx512bf16
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("amx-tile,amx-bf16"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16")
#endif
namespace amx {

// Four sums from two and two operands: 16 x 16 floats += (16 x 32 bf16) * (32 x 16 bf16).
double dot(long rounds) {
  struct alignas(64) {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  asm volatile("" : : "m"(config));  // GCC's intrinsic names 8 of the 64 bytes; it would drop the rest
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (long round = 0; round < rounds; ++round) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return static_cast<double>(rounds) * 4 * 16 * 16 * 32 * 2;
}

}  // namespace amx
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // GQA_X86

}  // namespace

std::string ReadPattern::name() const {
  return std::to_string(streams) + (streams == 1 ? " stream" : " streams") +
         (prefetch == 0 ? "" : ", prefetch " + std::to_string(prefetch) + " B");
}

Arithmetic fma_f32() {
#if GQA_X86
  if (gqa::supports(gqa::Isa::avx512)) return avx512::multiply_add;
  if (gqa::supports(gqa::Isa::avx2)) return avx2::multiply_add;
#endif
  return generic::multiply_add;
}

Arithmetic dot_bf16() {
#if GQA_X86
  if (gqa::supports(gqa::Isa::avx512bf16)) return avx512bf16::dot;
#endif
  return nullptr;
}

Arithmetic matrix_bf16() {
#if GQA_X86
  if (gqa::supports(gqa::Isa::amx)) return amx::dot;
#endif
  return nullptr;
}

std::span<const ReadPattern> read_patterns() {
#if GQA_X86
  if (gqa::supports(gqa::Isa::avx512)) return avx512::patterns;
  if (gqa::supports(gqa::Isa::avx2)) return avx2::patterns;
#endif
  return generic::patterns;
}

}  // namespace bench
