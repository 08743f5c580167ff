// SPDX-License-Identifier: Apache-2.0
// The whole kernel text, in the order it reads: vectors, instructions, conversions, 2^x, the product, rows,
// packing, products of rows, the tables.
#include "gqa/simd/text/vec.inl"
//
#include "gqa/simd/text/instructions.inl"
//
#include "gqa/simd/text/convert.inl"
//
#include "gqa/simd/text/exp2.inl"
//
#include "gqa/simd/text/microkernel.inl"
//
#if GQA_SIMD_LEVEL >= 4
#include "gqa/simd/text/matrix.inl"
#endif
//
#include "gqa/simd/text/rows.inl"
//
#include "gqa/simd/text/pack.inl"
//
#include "gqa/simd/text/dot_rows.inl"
//
#include "gqa/simd/text/table.inl"

#undef GQA_INLINE
