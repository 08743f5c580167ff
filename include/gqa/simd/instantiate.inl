// SPDX-License-Identifier: Apache-2.0
// Every kernel there is: declared where GQA_EXTERN is extern, compiled where it is nothing.

namespace gqa::simd {

GQA_EXTERN template const Kernels<float>& kernels<float>(Isa);
GQA_EXTERN template const Kernels<double>& kernels<double>(Isa);
GQA_EXTERN template const Kernels<float>& kernels<half>(Isa);
GQA_EXTERN template const Kernels<float>& kernels<bfloat16>(Isa);
GQA_EXTERN template const RowKernels<float>& row_kernels<float>(Isa);
GQA_EXTERN template const RowKernels<double>& row_kernels<double>(Isa);
GQA_EXTERN template const ConvertKernels<float>& convert_kernels<float>(Isa);
GQA_EXTERN template const ConvertKernels<double>& convert_kernels<double>(Isa);
GQA_EXTERN template const ConvertKernels<float>& convert_kernels<half>(Isa);
GQA_EXTERN template const ConvertKernels<float>& convert_kernels<bfloat16>(Isa);

}  // namespace gqa::simd
