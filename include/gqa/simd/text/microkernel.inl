// SPDX-License-Identifier: Apache-2.0
// The one matrix product: C (+)= A * B with A broadcast and B's rows contiguous. Included once per
// instruction set.

// Register tile. AVX-512 has 32 vector registers: 6 rows x 4 vectors are 24 sums, 4 hold a row of B, one the
// broadcast. 24 independent sums hide an FMA latency of 4 at 2 a cycle three times over, and each row of B (4
// loads) and column of A (6 broadcasts) feeds 24 FMAs, so loads stay under half of what two load ports give.
// 4 vectors are one 64-key tile. With 16 registers (AVX2) 6 rows x 2 vectors: 12 sums, 2 of B, one broadcast.
// SSE2 overwrites an operand and has no FMA: 4 rows are as fast as 6 (46 GFLOP/s), and less to compile.
#if GQA_SIMD_LEVEL >= 2 || defined(__aarch64__)
inline constexpr int tile_vectors = 4;
#else
inline constexpr int tile_vectors = 2;
#endif
#if GQA_SIMD_LEVEL == 0 && defined(__x86_64__)
inline constexpr int tile_rows = 4;
#else
inline constexpr int tile_rows = 6;
#endif

// Formats: how a step reads B and multiplies. A step covers `group` elements of depth, in `parts` vector
// loads.

/// A in Acc, B in T, one element a step or two where B stands in pairs. f16 and bf16 are widened in
/// registers.
template <class T>
struct Widening {
  using Acc = Accumulator<T>;
  using A = Acc;
  using B = T;
  using Sum = Vec<Acc>;
  static constexpr int group = static_cast<int>(element_group<T>), parts = group;

  static GQA_INLINE Sum load(const T* b, int part) {
    if constexpr (group == 2) {
      const U32 pair = load_vec<U32>(b);
      return bits_as<F32>(part == 0 ? pair << 16 : pair & 0xffff0000u);
    } else {
      return load_as<Acc>(b);
    }
  }
  static GQA_INLINE Sum multiply(Sum c, const A* a, Sum b) { return c + *a * b; }
  static GQA_INLINE Sum multiply_alone(Sum c, const A* a, Sum b) {
    return multiply_add(splat<Acc>(*a), b, c);
  }
};

#if GQA_SIMD_LEVEL >= 3
/// A and B in pairs of bfloat16, two products a lane and instruction.
struct PairDot {
  using Acc = float;
  using A = bfloat16;
  using B = bfloat16;
  using Sum = F32;
  static constexpr int group = 2, parts = 1;

  static GQA_INLINE F32 load(const bfloat16* b, int) { return load_vec<F32>(b); }
  static GQA_INLINE F32 multiply(F32 c, const bfloat16* a, F32 b) {
    int pair;
    __builtin_memcpy(&pair, a, sizeof pair);
    return add_dot(pair - I32{}, b, c);
  }
  static GQA_INLINE F32 multiply_alone(F32 c, const bfloat16* a, F32 b) { return multiply(c, a, b); }
};
#endif

/// What one pass over a block of B prefetches, where B streams from memory: `step` bytes at each step,
/// `ahead` and on. The passes over the block (its strips of columns, and each one's register tiles of rows)
/// share the prefetching out, so that memory is asked for in the order it stands and at an even pace.
struct Streaming {
  Index ahead;  // an address, perhaps past the end of what there is: no pointer may be
  Index step;
};

/// Where several passes go over B, they go over so many bytes of it at a time: a first-level cache's worth
/// where the products take longer than memory anyway. A single register tile of rows prefetches as much
/// ahead, which is what it takes to hide a latency of 250 ns at 30 GB/s; several prefetch the whole next
/// block while they multiply this one. Measured over 1.6 GB of 18.2 GB/s (f32, 8,192 tokens): 16 rows a
/// head 13.6, half a block ahead 10.1; 64 rows a head 12.5 ms, in blocks of 8 kB 13.6. With 4 rows a head on
/// another machine (f16, 8,192 tokens): 2 kB ahead 1,247 us, 4 kB 1,126, 8 kB 1,016; over pages in no order
/// 1,850, 1,440, 1,310.
GQA_INLINE Index stream_block(Index row_tiles) { return row_tiles <= 4 ? 8192 : 32768; }

/// Rows x Vectors sums over the whole depth. Every loop over the sums is unrolled: one that is not would keep
/// them in memory, at a third of the speed. A row's sums see the same operations in the same order whatever
/// Rows is.
template <class Format, int Rows, int Vectors, bool Prefetch>
__attribute__((noinline)) void micro(const typename Format::A* a, Index a_stride, Index a_step,
                                     const typename Format::B* b, Index b_stride, Index depth,
                                     typename Format::Acc* c, Index c_stride, bool accumulate,
                                     Streaming streaming) {
  constexpr int L = lanes<typename Format::Acc>;
  typename Format::Sum sum[Rows][Vectors];
  if (accumulate) {
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) sum[i][j] = load_vec<typename Format::Sum>(c + i * c_stride + j * L);
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) sum[i][j] = typename Format::Sum{};
  }
  Index ahead = streaming.ahead;
  for (Index k = 0; k < depth; k += Format::group) {
#pragma GCC unroll 2
    for (int part = 0; part < Format::parts; ++part) {
      typename Format::Sum row[Vectors];
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) {
        // One prefetch beside each load: eight at once, before all loads, are a tenth slower.
        if (Prefetch && part == 0 && 64 * j < streaming.step)
          __builtin_prefetch(reinterpret_cast<const void*>(ahead + 64 * j));
        row[j] = Format::load(b + j * L * Format::group, part);
      }
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j)
          if constexpr (Rows * Vectors == 1)  // see multiply_add
            sum[i][j] = Format::multiply_alone(sum[i][j], a + i * a_stride + part * a_step, row[j]);
          else
            sum[i][j] = Format::multiply(sum[i][j], a + i * a_stride + part * a_step, row[j]);
    }
    a += Format::group * a_step;
    b += b_stride;
    if constexpr (Prefetch) ahead += streaming.step;
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) store_vec(c + i * c_stride + j * L, sum[i][j]);
}

template <class Format>
using Micro = void (*)(const typename Format::A*, Index, Index, const typename Format::B*, Index, Index,
                       typename Format::Acc*, Index, bool, Streaming);

template <class Format>
struct MicroTable {
  Micro<Format> of_rows[tile_rows];
};
template <class Format, int Vectors, bool Prefetch, int... I>
constexpr MicroTable<Format> micro_table(std::integer_sequence<int, I...>) {
  return {{&micro<Format, I + 1, Vectors, Prefetch>...}};
}
/// Those of 1 to tile_rows rows, without prefetching and with it: only strips of whole tiles stream.
template <class Format, int Vectors>
inline constexpr MicroTable<Format> micros[2] = {
    micro_table<Format, Vectors, false>(std::make_integer_sequence<int, tile_rows>()),
    micro_table<Format, Vectors, Vectors == tile_vectors>(std::make_integer_sequence<int, tile_rows>())};

/// All rows of one strip of columns, in register tiles as equal as they can be: 8 rows are 4 + 4, not 6 + 2.
/// Prefetches from the address `ahead` on, where B streams.
template <class Format, int Vectors>
inline void strip(const Product& p, Index column, Index ahead) {
  using B = typename Format::B;
  constexpr Index width = Vectors * lanes<typename Format::Acc>;
  const auto* a = static_cast<const typename Format::A*>(p.a);
  // Where the depth is 0 there may be no B at all.
  const auto* b = static_cast<const B*>(p.b) + (p.depth == 0 ? 0 : column * Format::group);
  auto* c = static_cast<typename Format::Acc*>(p.c) + column;
  const Index tiles = (p.rows + tile_rows - 1) / tile_rows;
  const Index row_bytes = p.columns * Format::group * static_cast<Index>(sizeof(B));
  const Index passes = tiles * (p.columns / width > 0 ? p.columns / width : 1);
  const Index steps = (p.depth + Format::group - 1) / Format::group;
  Index row = 0;
  for (Index tile = 0; tile < tiles; ++tile) {
    const Index rows = (p.rows - row + (tiles - tile) - 1) / (tiles - tile);
    const auto* a_tile = a + row * p.a_stride;
    auto* c_tile = c + row * p.c_stride;
    const Index pass = column / width * tiles + tile, step = row_bytes / passes;
    const Streaming streaming{ahead + pass * step * steps, step};
    const bool prefetch = Vectors == tile_vectors && p.streaming;
    micros<Format, Vectors>[prefetch].of_rows[rows - 1](a_tile, p.a_stride, p.a_step, b, p.b_stride, p.depth,
                                                        c_tile, p.c_stride, p.accumulate, streaming);
    row += rows;
  }
}

template <class Format>
__attribute__((noinline)) void strips(const Product& p, Index ahead) {
  constexpr Index L = lanes<typename Format::Acc>, width = tile_vectors * L;
  // The columns are padded: where register tiles are no wider than that, whole ones cover them all.
  constexpr bool whole = padding % width == 0;
  Index column = 0;
  for (; whole ? column < p.columns : column + width <= p.columns; column += width)
    strip<Format, tile_vectors>(p, column, ahead);
  if constexpr (!whole)
    for (; column < p.columns; column += L) strip<Format, 1>(p, column, ahead);
}

template <class Format>
void product(const Product& p) {
  constexpr Index E = Format::group;
  if (p.columns == 0) return;
  if (!p.streaming || p.depth == 0) return strips<Format>(p, 0);
  const Index row_tiles = (p.rows + tile_rows - 1) / tile_rows;
  const Index step_bytes = p.columns * E * static_cast<Index>(sizeof(typename Format::B));
  const bool one_pass = row_tiles == 1 && p.columns <= tile_vectors * lanes<typename Format::Acc>;
  const Index block = one_pass ? 0 : stream_block(row_tiles) / step_bytes * E;
  // The last steps of a B prefetch what is multiplied next, where that does not stand behind it.
  const Index ahead = stream_block(row_tiles), steps = (p.depth + E - 1) / E;
  const Index cut = p.next == nullptr || ahead / step_bytes >= steps ? 0 : (steps - ahead / step_bytes) * E;
  Product part = p;
  for (Index k = 0, end = 0; k < p.depth; k = end) {
    end = k < cut ? cut : p.depth;
    if (block > 0 && end - k > block) end = k + block;
    part.depth = end - k;
    const bool elsewhere = p.next != nullptr && k >= cut;
    strips<Format>(part, elsewhere ? reinterpret_cast<Index>(p.next) + (k - cut) / E * step_bytes
                                   : reinterpret_cast<Index>(part.b) + ahead);
    part.a = static_cast<const typename Format::A*>(part.a) + part.depth * p.a_step;
    part.b = static_cast<const typename Format::B*>(part.b) + part.depth / E * p.b_stride;
    part.accumulate = true;
  }
}
