// SPDX-License-Identifier: Apache-2.0
// See compiled_kernels.hpp.
#include "support/compiled_kernels.hpp"

namespace gqa::simd {

template Kernels<float> kernels(Isa);
template Kernels<double> kernels(Isa);
template Kernels<half> kernels(Isa);
template Kernels<bfloat16> kernels(Isa);
template RowKernels<float> row_kernels(Isa);
template RowKernels<double> row_kernels(Isa);
template ConvertKernels<float> convert_kernels(Isa);
template ConvertKernels<double> convert_kernels(Isa);
template ConvertKernels<half> convert_kernels(Isa);
template ConvertKernels<bfloat16> convert_kernels(Isa);

}  // namespace gqa::simd
