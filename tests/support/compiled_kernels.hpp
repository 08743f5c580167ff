// SPDX-License-Identifier: Apache-2.0
// The kernels of every instruction set, compiled once for all tests: they are what takes longest to compile.
#pragma once

#include <gqa/simd/kernels.hpp>

namespace gqa::simd {

extern template Kernels<float> kernels(Isa);
extern template Kernels<double> kernels(Isa);
extern template Kernels<half> kernels(Isa);
extern template Kernels<bfloat16> kernels(Isa);
extern template RowKernels<float> row_kernels(Isa);
extern template RowKernels<double> row_kernels(Isa);
extern template ConvertKernels<float> convert_kernels(Isa);
extern template ConvertKernels<double> convert_kernels(Isa);
extern template ConvertKernels<half> convert_kernels(Isa);
extern template ConvertKernels<bfloat16> convert_kernels(Isa);

}  // namespace gqa::simd
