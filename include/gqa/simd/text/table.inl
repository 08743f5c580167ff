// SPDX-License-Identifier: Apache-2.0
// The kernels of one instruction set as tables of pointers. Included once per instruction set, after the
// others.

#if GQA_SIMD_LEVEL >= 3

// The dot product is all that these sets have over AVX-512: the other functions would be the same, compiled
// again.
template <class T>
constexpr Kernels<Accumulator<T>> kernels_table() {
  auto table = avx512::kernels_table<T>();
#if GQA_SIMD_LEVEL >= 4
  if constexpr (std::is_same_v<T, bfloat16>) {
    table.product_dot = &matrix_product;
    table.release = &release_matrix_unit;
  }
#else
  if constexpr (std::is_same_v<T, bfloat16>) table.product_dot = &product<PairDot>;
#endif
  return table;
}

template <class T>
inline constexpr Kernels<Accumulator<T>> kernels_of = kernels_table<T>();

using avx512::convert_kernels_of;
using avx512::dot_kernels_of;
using avx512::gradient_kernels_of;
using avx512::row_kernels_of;
using avx512::score_kernels_of;

#else

template <class T>
constexpr Kernels<Accumulator<T>> kernels_table() {
  Kernels<Accumulator<T>> table{};
  table.product = &product<Widening<T>>;
  table.transpose_keys = &transpose_keys<T>;
  table.widen = &widen_packed<T>;
  table.widen_row = &widen_row<T>;
  table.all_finite = &all_finite<T>;
  if constexpr (std::is_same_v<T, half>) {
    table.transpose_stored = &transpose_halves;
    table.transpose_rounded = &transpose_to_halves;
  }
  if constexpr (std::is_same_v<T, bfloat16>) {
    table.transpose_stored = &transpose_pairs;
    table.interleave_pairs = &interleave_pairs;
    table.interleave_rounded = &interleave_rounded;
  }
  return table;
}

template <class T>
inline constexpr Kernels<Accumulator<T>> kernels_of = kernels_table<T>();

template <class Acc>
inline constexpr RowKernels<Acc> row_kernels_of = {
    .softmax = &softmax<Acc>,
    .merge = &merge<Acc>,
    .scale = &scale_row<Acc>,
};

template <class Acc>
inline constexpr ScoreKernels<Acc> score_kernels_of = {
    .exp2 = &exp2_array<Acc>,
    .soft_cap = &soft_cap_row<Acc>,
    .add = &add_row<Acc>,
    .subtract_distance = &subtract_distance_row<Acc>,
};

template <class Acc>
inline constexpr GradientKernels<Acc> gradient_kernels_of = {.probabilities = &probabilities<Acc>,
                                                             .gradient = &gradient<Acc>,
                                                             .dot = &dot<Acc>,
                                                             .soft_cap_slope = &soft_cap_slope_row<Acc>};

template <class T>
inline constexpr DotKernels<Accumulator<T>> dot_kernels_of = {.dot_rows = &dot_rows<T>,
                                                              .fold_lanes = &fold_lanes<Accumulator<T>>};

template <class T>
inline constexpr ConvertKernels<Accumulator<T>> convert_kernels_of = {
    .widen = &widen_row<T>, .narrow = &narrow_row<T>, .round = &round_row<T>};

#endif
