// SPDX-License-Identifier: Apache-2.0
// The kernels of one instruction set as tables of pointers. Included once per instruction set, after the
// others.

template <class T>
constexpr Kernels<T> kernels_table() {
  Kernels<T> table{};
  table.product = &product<Widening<T>>;
#if GQA_SIMD_LEVEL >= 3
  if constexpr (std::is_same_v<T, bfloat16>) {
    table.product_dot = &product<PairDot>;
    table.transpose_pairs = &transpose_pairs;
    table.interleave_pairs = &interleave_pairs;
  }
#endif
  table.transpose_keys = &transpose_keys<T>;
  table.widen = &widen_packed<T>;
  table.all_finite = &all_finite<T>;
  return table;
}

template <class Acc>
constexpr RowKernels<Acc> row_table() {
  return {&softmax<Acc>, &merge<Acc>, &exp2_array<Acc>, &tanh_array<Acc>};
}

template <class T>
constexpr ConvertKernels<T> convert_table() {
  return {&widen_row<T>, &narrow_row<T>};
}
