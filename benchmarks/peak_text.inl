// SPDX-License-Identifier: Apache-2.0
// Compiled once per instruction set by peak.cpp. Every loop over accumulators is unrolled: left as a loop,
// GCC keeps the array in memory.

typedef float Vec __attribute__((vector_size(GQA_SIMD_BYTES)));
constexpr int lanes = GQA_SIMD_BYTES / 4;

// A multiply-add takes 4 or 5 cycles and two start each cycle: ten independent sums keep the units busy. The
// sums, the factor and the summand must fit the registers: 16, or 32 with AVX-512.
constexpr int multiply_sums = GQA_SIMD_LEVEL >= 2 ? 20 : 12;

inline double multiply_add(long rounds) {
  Vec sum[multiply_sums], x, y;
  for (int i = 0; i < lanes; ++i) x[i] = 0.9999f, y[i] = 1e-6f;
#pragma GCC unroll 32
  for (int i = 0; i < multiply_sums; ++i) sum[i] = x * static_cast<float>(i);
  for (long round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (int i = 0; i < multiply_sums; ++i) sum[i] = sum[i] * x + y;
  }
#pragma GCC unroll 32
  for (int i = 1; i < multiply_sums; ++i) sum[0] += sum[i];
  sink = sum[0][0];
  return static_cast<double>(rounds) * multiply_sums * lanes * 2;
}

// A step reads 512 bytes, shared out evenly to the streams.
template <int Streams, std::size_t Prefetch>
void read(std::span<const std::byte> memory) {
  constexpr std::size_t step = 512 / Streams;
  constexpr int vectors = static_cast<int>(step) / GQA_SIMD_BYTES;
  constexpr int sums = vectors < 8 / Streams ? vectors : 8 / Streams;
  const std::size_t each = memory.size() / Streams / step * step;
  Vec sum[Streams * sums];
#pragma GCC unroll 8
  for (int i = 0; i < Streams * sums; ++i) sum[i] = Vec{};
  for (std::size_t at = 0; at < each; at += step) {
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) {
      const std::byte* p = memory.data() + static_cast<std::size_t>(s) * each + at;
      if constexpr (Prefetch != 0) {
#pragma GCC unroll 8
        for (std::size_t line = 0; line < step; line += 64) __builtin_prefetch(p + Prefetch + line);
      }
#pragma GCC unroll 32
      for (int i = 0; i < vectors; ++i) {
        sum[s * sums + i % sums] += *reinterpret_cast<const Vec*>(p + i * GQA_SIMD_BYTES);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 1; i < Streams * sums; ++i) sum[0] += sum[i];
  sink = sum[0][0];
}

constexpr std::array<ReadPattern, 8> patterns = {{{1, 0, read<1, 0>},
                                                  {1, 2048, read<1, 2048>},
                                                  {1, 8192, read<1, 8192>},
                                                  {4, 0, read<4, 0>},
                                                  {4, 1024, read<4, 1024>},
                                                  {4, 4096, read<4, 4096>},
                                                  {4, 16384, read<4, 16384>},
                                                  {8, 2048, read<8, 2048>}}};

#if GQA_SIMD_LEVEL == 3

inline double dot(long rounds) {
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

#elif GQA_SIMD_LEVEL == 4

// Four sums from two and two operands: 16 x 16 floats += (16 x 32 bf16) * (32 x 16 bf16).
inline double dot(long rounds) {
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

#endif
