// SPDX-License-Identifier: Apache-2.0
// Compiled once per instruction set by peak.cpp, which sets BENCH_BYTES (the width of a vector) and
// BENCH_SUMS. Every loop over accumulators is unrolled: left as a loop, GCC keeps the array in memory.

typedef float Vec __attribute__((vector_size(BENCH_BYTES)));
constexpr int lanes = BENCH_BYTES / 4;

inline double multiply_add(long rounds) {
  Vec sum[BENCH_SUMS], x, y;
  for (int i = 0; i < lanes; ++i) x[i] = 0.9999f, y[i] = 1e-6f;
#pragma GCC unroll 32
  for (int i = 0; i < BENCH_SUMS; ++i) sum[i] = x * static_cast<float>(i);
  for (long round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (int i = 0; i < BENCH_SUMS; ++i) sum[i] = sum[i] * x + y;
  }
#pragma GCC unroll 32
  for (int i = 1; i < BENCH_SUMS; ++i) sum[0] += sum[i];
  sink = sum[0][0];
  return static_cast<double>(rounds) * BENCH_SUMS * lanes * 2;
}

// A step reads 512 bytes, shared out evenly to the streams.
template <int Streams, std::size_t Prefetch>
void read(std::span<const std::byte> memory) {
  constexpr std::size_t step = 512 / Streams;
  constexpr int vectors = static_cast<int>(step) / BENCH_BYTES;
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
        sum[s * sums + i % sums] += *reinterpret_cast<const Vec*>(p + i * BENCH_BYTES);
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

#undef BENCH_BYTES
#undef BENCH_SUMS
