// SPDX-License-Identifier: Apache-2.0
// The kernels for K and V stored as GQA_STORED: declared where GQA_EXTERN is extern, compiled where it is
// nothing.

namespace gqa::simd {

GQA_EXTERN template const Kernels<Accumulator<GQA_STORED>>& kernels<GQA_STORED>(Isa);
GQA_EXTERN template const DotKernels<Accumulator<GQA_STORED>>& dot_kernels<GQA_STORED>(Isa);
GQA_EXTERN template const ConvertKernels<Accumulator<GQA_STORED>>& convert_kernels<GQA_STORED>(Isa);

}  // namespace gqa::simd

#undef GQA_STORED
