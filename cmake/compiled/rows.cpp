// SPDX-License-Identifier: Apache-2.0
#include "gqa/simd/instances.hpp"

namespace gqa::simd {
template const RowKernels<float>& row_kernels<float>(Isa);
template const RowKernels<double>& row_kernels<double>(Isa);
template const ScoreKernels<float>& score_kernels<float>(Isa);
template const ScoreKernels<double>& score_kernels<double>(Isa);
template const GradientKernels<float>& gradient_kernels<float>(Isa);
template const GradientKernels<double>& gradient_kernels<double>(Isa);
}  // namespace gqa::simd
