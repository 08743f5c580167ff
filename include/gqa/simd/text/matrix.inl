// SPDX-License-Identifier: Apache-2.0
// The product of bfloat16 pairs on the matrix unit (AMX). Included once, for the set that has it.

// A tile instruction multiplies up to 16 rows of A by 16 pairs of B's rows and adds the result to 16 x 16
// sums: packed tiles stand in memory as it wants them. Tiles 0 to 3 hold the sums of 16 rows and 64 columns,
// 4 a step of A, 5 of B; 6 and 7 the same for the last step, of fewer pairs. Per step that is 5 loads of 8
// cycles beside 4 products of 16, so loads hide where B is in the first-level cache.
struct alignas(64) TileConfig {
  unsigned char palette = 1, start_row = 0, reserved[14] = {};
  unsigned short row_bytes[16] = {};
  unsigned char rows[16] = {};

  void set(int tile, Index num_rows, Index bytes) {
    rows[tile] = static_cast<unsigned char>(num_rows);
    row_bytes[tile] = static_cast<unsigned short>(bytes);
  }
};

inline constexpr Index step_pairs = matrix_depth / 2;

GQA_INLINE void configure_tiles(Index rows, Index last_pairs, MatrixUnit& unit) {
  if (unit.rows == rows && (last_pairs == 0 || unit.last_pairs == last_pairs)) return;
  unit = {rows, last_pairs};
  TileConfig config;
  for (int tile = 0; tile < 5; ++tile) config.set(tile, rows, 64);
  config.set(5, step_pairs, 64);
  if (last_pairs > 0) {
    config.set(6, rows, 4 * last_pairs);
    config.set(7, last_pairs, 64);
  }
  load_tile_config(config);
}

/// One register block: the configured rows from `row` on, 16 * Tiles columns from `column` on.
template <int Tiles>
GQA_INLINE void matrix_block(const Product& p, Index row, Index column, Streaming streaming) {
  const Index a_bytes = 2 * p.a_stride, b_bytes = 2 * p.b_stride, c_bytes = 4 * p.c_stride;
  const char* a = static_cast<const char*>(p.a) + row * a_bytes;
  const char* b = static_cast<const char*>(p.b) + (p.depth == 0 ? 0 : 4 * column);
  char* c = static_cast<char*>(p.c) + row * c_bytes + 4 * column;
  if (p.accumulate) {
    load_tile<0>(c, c_bytes);
    if constexpr (Tiles > 1) load_tile<1>(c + 64, c_bytes);
    if constexpr (Tiles > 2) load_tile<2>(c + 128, c_bytes);
    if constexpr (Tiles > 3) load_tile<3>(c + 192, c_bytes);
  } else {
    zero_tile<0>();
    if constexpr (Tiles > 1) zero_tile<1>();
    if constexpr (Tiles > 2) zero_tile<2>();
    if constexpr (Tiles > 3) zero_tile<3>();
  }
  Index pairs = (p.depth + 1) / 2;
  for (; pairs >= step_pairs; pairs -= step_pairs) {
    for (Index line = 0; line < step_pairs * streaming.step; line += 64)
      __builtin_prefetch(reinterpret_cast<const void*>(streaming.ahead + line));
    streaming.ahead += step_pairs * streaming.step;
    load_tile<4>(a, a_bytes);
    load_tile<5>(b, b_bytes);
    multiply_tiles<0, 4, 5>();
    if constexpr (Tiles > 1) {
      load_tile<5>(b + 64, b_bytes);
      multiply_tiles<1, 4, 5>();
    }
    if constexpr (Tiles > 2) {
      load_tile<5>(b + 128, b_bytes);
      multiply_tiles<2, 4, 5>();
    }
    if constexpr (Tiles > 3) {
      load_tile<5>(b + 192, b_bytes);
      multiply_tiles<3, 4, 5>();
    }
    a += 4 * step_pairs;
    b += step_pairs * b_bytes;
  }
  if (pairs > 0) {
    load_tile<6>(a, a_bytes);
    load_tile<7>(b, b_bytes);
    multiply_tiles<0, 6, 7>();
    if constexpr (Tiles > 1) {
      load_tile<7>(b + 64, b_bytes);
      multiply_tiles<1, 6, 7>();
    }
    if constexpr (Tiles > 2) {
      load_tile<7>(b + 128, b_bytes);
      multiply_tiles<2, 6, 7>();
    }
    if constexpr (Tiles > 3) {
      load_tile<7>(b + 192, b_bytes);
      multiply_tiles<3, 6, 7>();
    }
  }
  store_tile<0>(c, c_bytes);
  if constexpr (Tiles > 1) store_tile<1>(c + 64, c_bytes);
  if constexpr (Tiles > 2) store_tile<2>(c + 128, c_bytes);
  if constexpr (Tiles > 3) store_tile<3>(c + 192, c_bytes);
}

/// A product whose depth begins with a whole step.
inline void matrix_steps(const Product& p, MatrixUnit& unit) {
  constexpr Index tile_side = 16;
  const Index row_tiles = (p.rows + tile_side - 1) / tile_side;
  const Index strips = p.columns / 64 > 0 ? p.columns / 64 : 1;
  const Index pairs = (p.depth + 1) / 2;
  // See Streaming. Several row tiles prefetch the next B, one a few steps ahead.
  const Index step = p.streaming ? 4 * p.columns / (row_tiles * strips) : 0;
  const Index ahead = row_tiles > 1 && p.next != nullptr
                          ? reinterpret_cast<Index>(p.next)
                          : reinterpret_cast<Index>(p.b) + (row_tiles > 1 ? 2 * pairs * p.b_stride : 2048);
  for (Index first = 0; first < p.rows;) {
    // All whole row tiles, then what is left: their tiles differ in shape.
    const Index rows = p.rows - first < tile_side ? p.rows - first : tile_side;
    const Index end = rows < tile_side ? p.rows : first + (p.rows - first) / tile_side * tile_side;
    configure_tiles(rows, pairs % step_pairs, unit);
    for (Index column = 0; column < p.columns;) {
      const Index tiles = p.columns - column >= 64 ? 4 : (p.columns - column + 15) / 16;
      for (Index row = first; row < end; row += rows) {
        const Index pass = column / 64 * row_tiles + row / tile_side;
        const Streaming streaming{ahead + pass * step * pairs, step};
        switch (tiles) {
          case 1:
            matrix_block<1>(p, row, column, streaming);
            break;
          case 2:
            matrix_block<2>(p, row, column, streaming);
            break;
          case 3:
            matrix_block<3>(p, row, column, streaming);
            break;
          default:
            matrix_block<4>(p, row, column, streaming);
            break;
        }
      }
      column += tiles * 16;
    }
    first = end;
  }
}

inline void release_matrix_unit(MatrixUnit& unit) {
  if (unit.rows != 0) release_tiles();
  unit = {};
}

/// The unit adds the products of a step before it adds them to the sum, so steps begin at multiples of
/// matrix_depth whatever the product begins with: then the pieces that keys come in show in no bit.
inline void matrix_product(const Product& p) {
  asm volatile("" : : : "memory");  // the tile loads do not say what they read
  MatrixUnit own;
  MatrixUnit& unit = p.unit != nullptr ? *p.unit : own;
  const Index head = (matrix_depth - p.depth_begin % matrix_depth) % matrix_depth;
  if (head == 0 || head >= p.depth) {
    matrix_steps(p, unit);
  } else {
    Product part = p;
    part.depth = head;
    matrix_steps(part, unit);
    part.a = static_cast<const std::uint16_t*>(p.a) + head;
    part.b = static_cast<const std::uint16_t*>(p.b) + head / 2 * p.b_stride;
    part.depth = p.depth - head;
    part.accumulate = true;
    matrix_steps(part, unit);
  }
  release_matrix_unit(own);
}
