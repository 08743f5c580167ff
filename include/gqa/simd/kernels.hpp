// SPDX-License-Identifier: Apache-2.0
// The kernels for each stored type, of the instruction set that is chosen at run time.
#pragma once

#include "gqa/simd/isa.hpp"
#include "gqa/simd/product.hpp"

namespace gqa::simd {

/// The kernels of an instruction set for K and V stored as T.
template <Scalar T>
const Kernels<Accumulator<T>>& kernels(Isa isa);
/// Those for rows of accumulators.
template <class Acc>
const RowKernels<Acc>& row_kernels(Isa isa);
/// Those for a caller's rows of T.
template <Scalar T>
const ConvertKernels<Accumulator<T>>& convert_kernels(Isa isa);

/// Those for rows of scores.
template <class Acc>
const ScoreKernels<Acc>& score_kernels(Isa isa);
template <class Acc>
const GradientKernels<Acc>& gradient_kernels(Isa isa);
template <Scalar T>
const DotKernels<Accumulator<T>>& dot_kernels(Isa isa);

template <Scalar T>
inline constexpr Format format = {scalar_name<T>(), scalar_bytes<T>, element_group<T>,
                                  std::is_same_v<T, double>,
                                  [](Isa isa) { return static_cast<const void*>(&kernels<T>(isa)); }};
template <Scalar T>
inline constexpr RowFormat row_format = {
    format<T>, [](Isa isa) { return static_cast<const void*>(&dot_kernels<T>(isa)); }};

}  // namespace gqa::simd

#ifdef GQA_COMPILED  // they are in the library that gqa::compiled links
#define GQA_EXTERN extern
#define GQA_STORED float
#include "gqa/simd/instantiate.inl"
#define GQA_STORED double
#include "gqa/simd/instantiate.inl"
#define GQA_STORED half
#include "gqa/simd/instantiate.inl"
#define GQA_STORED bfloat16
#include "gqa/simd/instantiate.inl"
#undef GQA_EXTERN
namespace gqa::simd {
extern template const RowKernels<float>& row_kernels<float>(Isa);
extern template const RowKernels<double>& row_kernels<double>(Isa);
extern template const ScoreKernels<float>& score_kernels<float>(Isa);
extern template const ScoreKernels<double>& score_kernels<double>(Isa);
extern template const GradientKernels<float>& gradient_kernels<float>(Isa);
extern template const GradientKernels<double>& gradient_kernels<double>(Isa);
}  // namespace gqa::simd
#else
#include "gqa/simd/instances.hpp"
#endif
