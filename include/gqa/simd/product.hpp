// SPDX-License-Identifier: Apache-2.0
// What the kernels of every instruction set take and do: plain structs of pointers, so that a table of
// functions can hide which set runs. Both products of attention are one small matrix product, C[M x N] (+)=
// A[M x K] * B[K x N].
#pragma once

#include <cstdint>

#include "gqa/core/scalar.hpp"
#include "gqa/core/shape.hpp"
#include "gqa/simd/isa.hpp"

namespace gqa::simd {

/// Keys a tile holds; one 64-bit word of a mask row covers it.
inline constexpr Index tile_keys = 64;

/// Rows and columns of packed data are padded to this many elements: the lanes of the widest vector.
inline constexpr Index padding = 16;

/// Elements that stand side by side in a packed tile: 16-bit brain floats come in pairs, as dot products read
/// them (keys as [D/2][64][2], values as [keys/2][Dv][2]); everything else is plain.
template <Scalar T>
inline constexpr Index element_group = std::is_same_v<T, bfloat16> ? 2 : 1;

/// Elements of depth that a matrix unit multiplies in one step, at multiples of as many.
inline constexpr Index matrix_depth = 32;

/// How a matrix unit is set. Kept from one product to the next, as setting it takes as long as a small
/// product.
struct MatrixUnit {
  Index rows = 0;        // of a tile of A; 0: not set
  Index last_pairs = 0;  // of a last step of fewer pairs; 0: there was none
};

/// C[rows x columns] = A[rows x depth] * B[depth x columns], or += where `accumulate`.
/// Element (i, k) of A stands at `a[i * a_stride + k * a_step]`: a step of a row's length and a stride of 1
/// multiply by a matrix that is transposed as it is read (product_dot reads steps of 1 alone). Element (k, n)
/// of B stands at `b[(k / E) * b_stride + n * E + k % E]` for element group E. Columns are computed in whole
/// vectors: B must be readable, and C writable, up to the next multiple of `padding`. Where E is 2 an odd
/// depth reads one more row of B, against a zero in A.
struct Product {
  const void* a;
  Index a_stride;  // elements
  const void* b;
  Index b_stride;
  void* c;
  Index c_stride;
  Index rows, depth, columns;
  bool accumulate;
  bool streaming = false;      // B is read from memory, once: prefetch it
  const void* next = nullptr;  // what is read after B, where that does not stand behind it: prefetched last
  Index depth_begin = 0;       // where the depth begins, of what it is a part of: matrix units care
  MatrixUnit* unit = nullptr;  // stays set for the next product, until released; null: set for this one only
  Index a_step = 1;            // elements of A from one step of depth to the next
};

/// Rows of B that products of rows take at once.
inline constexpr Index dot_columns = 16;
/// Streams that B is read in where it comes from memory: as many parts of it, each in order. Measured over
/// 256 MiB at 43 GB/s, rows of 4,096 and 576 elements: f32 0.83 and 0.72 of it, f16 0.75 and 0.75, bf16 0.80
/// and 0.77; with rows that adjoin side by side 0.67 and 0.56, 0.55 and 0.52, 0.56 and 0.63.
inline constexpr Index dot_streams = 4;

/// Sums of the products of rows of A with rows of B, `a_rows` x dot_columns of 64 bytes each: lane l of a sum
/// takes the elements l, l + lanes, l + 2 lanes ... of both rows, or goes on with them where `accumulate`. B
/// is read where it stands; fold_lanes() makes numbers of the sums. Both are the same in every instruction
/// set that multiplies and adds in one rounding, and a sum is whatever other rows there are.
template <class Acc>
struct DotRows {
  const Acc* a;
  Index a_stride;
  const void* b;  // as stored
  Index b_stride;
  Index a_rows, b_rows;  // b_rows is at least 1 and at most dot_columns
  Index depth;
  Acc* sums;
  bool accumulate;
  Index b_stream =
      0;  // row c of the b_rows is row c % dot_streams * b_stream + c / dot_streams of B; 0: row c
};

/// Softmax of a block of scores in place, row by row: p = e^((s - largest) * scale), with `largest` the row's
/// largest s. Masked entries become exactly 0, whatever stands there.
template <class Acc>
struct SoftmaxBlock {
  Acc* scores;
  Index stride;
  Index rows;
  Index columns;              // a multiple of tile_keys
  Acc scale;                  // to the unit of max, at least 0
  const std::uint64_t* mask;  // bit j of word w: column 64 w + j counts; null: all do
  Index mask_stride;          // words between the mask rows
  Index rows_per_mask;        // consecutive rows that share a mask row
  Acc* max;                   // out, largest * scale; -inf where no entry counts
  Acc* sum;                   // out
  bool pack_pairs;            // write p as bfloat16 over the front of its row, for the bf16 dot product
  bool keep_scores = false;   // write s * scale in place of p, -inf where it is masked
};

/// Probabilities of a row of scores, in place or elsewhere: p = e^(s - max) / sum, of scores that are scaled.
/// Entries of -inf become exactly 0, whatever the sum; so does every one where the sum is 0.
template <class Acc>
struct ProbabilityRow {
  const Acc* scores;
  Acc* p;
  Index columns;
  Acc max, sum;
};

/// From a block of scores and of the loss's gradients by the probabilities to the probabilities and its
/// gradients by the scores, both in place: p = e^(s * scale - lse), ds = p * (dp - delta). Masked entries of
/// both become exactly 0, whatever stands there, and so does a score of -inf.
template <class Acc>
struct GradientBlock {
  Acc* scores;    // s in, p out
  Acc* d_scores;  // dp in, ds out
  Index stride;   // of both
  Index rows;
  Index columns;  // a multiple of tile_keys
  Acc scale;
  const Acc* lse;             // of each row
  const Acc* delta;           // sum_j p_j dp_j of each row, over all its keys
  const std::uint64_t* mask;  // as in SoftmaxBlock
  Index mask_stride;
  Index rows_per_mask;
};

/// Merges a block's unnormalised output into a running one, for rows of {o, max, sum}:
/// m = max(m1, m2), o = o1 * e^(m1 - m) + o2 * e^(m2 - m), and the sums alike.
template <class Acc>
struct MergeRows {
  Acc* o;
  Acc* max;
  Acc* sum;
  const Acc* block_o;
  const Acc* block_max;
  const Acc* block_sum;
  Index rows, dim, stride, block_stride;
};

/// The functions attention is made of, for one stored type of keys and values that are summed in Acc: a
/// constant table for each stored type and instruction set. Strides count elements of the stored type.
template <class Acc>
struct Kernels {
  void (*product)(const Product&);      // A is Acc, B is as stored
  void (*product_dot)(const Product&);  // A is bfloat16, B is bfloat16; null without a dot product
  void (*release)(MatrixUnit&);         // null where product_dot sets no unit
  /// Token-major rows keys x dim to dim-major [dim][64], widened. Writes `width` columns, those past `keys`
  /// as 0.
  void (*transpose_keys)(const void* k, Index stride, Index keys, Index dim, Index width, Acc* tile);
  /// The same unconverted, into the tile as it is stored: for bfloat16 in pairs [dim/2][64][2]. Null where
  /// the stored type is the accumulator.
  void (*transpose_stored)(const void* k, Index stride, Index keys, Index dim, Index width, void* tile);
  /// The same of rows of Acc, each element rounded as ConvertKernels::round does. Null but for half.
  void (*transpose_rounded)(const Acc* k, Index stride, Index keys, Index dim, Index width, void* tile);
  /// Token-major values keys x dim to pairs [keys/2][dim][2], dims padded to `padding` with 0. Beside an odd
  /// last key stand zeros. Null but for bfloat16.
  void (*interleave_pairs)(const void* v, Index stride, Index keys, Index dim, void* out, Index out_stride);
  /// The same of rows of Acc, rounded likewise.
  void (*interleave_rounded)(const Acc* v, Index stride, Index keys, Index dim, void* out, Index out_stride);
  /// rows x columns of element group E to plain rows of Acc, columns padded with what stands there.
  void (*widen)(const void* packed, Index stride, Index rows, Index columns, Acc* out, Index out_stride);
  /// A token-major row, times a factor.
  void (*widen_row)(const void* x, Index n, Acc factor, Acc* y);
  /// Whether every element of rows x columns (grouped) is finite.
  bool (*all_finite)(const void* packed, Index stride, Index rows, Index columns);
};

/// The functions of rows of accumulators that every call needs.
template <class Acc>
struct RowKernels {
  void (*softmax)(const SoftmaxBlock<Acc>&);
  void (*merge)(const MergeRows<Acc>&);
  void (*scale)(Acc* x, Index n, Acc factor);  // x = x * factor
};

/// What score functions do to a row of scores in place, apart: a program that has none does not compile them.
template <class Acc>
struct ScoreKernels {
  void (*exp2)(const Acc* x, Acc* y, Index n);
  void (*soft_cap)(Acc* x, Index n, Acc cap);                         // x = cap * tanh(x / cap)
  void (*add)(Acc* x, Index n, const Acc* y);                         // x = x + y
  void (*subtract_distance)(Acc* x, Index n, Acc origin, Acc slope);  // x_j = x_j - slope * |j - origin|
};

/// What probabilities and gradients need, apart for the same reason.
template <class Acc>
struct GradientKernels {
  void (*probabilities)(const ProbabilityRow<Acc>&);
  void (*gradient)(const GradientBlock<Acc>&);
  Acc (*dot)(const Acc* x, const Acc* y, Index n);
  void (*soft_cap_slope)(const Acc* x, Acc* y, Index n, Acc cap);  // y = y * (1 - tanh(x / cap)^2)
};

/// Products with rows of one stored type, apart for the same reason.
template <class Acc>
struct DotKernels {
  void (*dot_rows)(const DotRows<Acc>&);  // A is Acc, B is as stored
  /// c[i][j] = the sum of the lanes of sums[i][j], for `rows` rows of dot_columns.
  void (*fold_lanes)(const Acc* sums, Index rows, Acc* c, Index c_stride);
};

/// The functions that read and write a caller's rows of one type.
template <class Acc>
struct ConvertKernels {
  void (*widen)(const void* x, Index n, Acc factor, Acc* y);  // y = x * factor
  void (*narrow)(const Acc* x, Index n, Acc factor,
                 void* y);                        // y = x * factor + 0, so that no zero is negative
  void (*round)(const Acc* x, Index n, void* y);  // y = x: zeros keep their sign, NaNs nothing but theirs
};

/// How elements are stored, for memory whose type is known only when it is read: what stands in a tile, and
/// the kernels for it. There is one for each stored type, format<T>.
struct Format {
  const char* name;
  Index bytes;     // of an element
  Index group;     // elements that stand side by side in a packed tile
  bool in_double;  // whether its products are summed in double, else in float
  const void* (*table)(Isa);

  template <class Acc>
  const Kernels<Acc>& kernels(Isa isa) const {
    return *static_cast<const Kernels<Acc>*>(table(isa));
  }
};

/// The same for matrices whose rows are multiplied, row_format<T>.
struct RowFormat : Format {
  const void* (*dot_table)(Isa);

  template <class Acc>
  const DotKernels<Acc>& dot_kernels(Isa isa) const {
    return *static_cast<const DotKernels<Acc>*>(dot_table(isa));
  }
};

}  // namespace gqa::simd
