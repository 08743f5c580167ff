// SPDX-License-Identifier: Apache-2.0
// As instantiate.inl.

namespace gqa::detail {

GQA_EXTERN template void attend_backward<float>(const ExecutorRef&, const BackwardCall<float>&, Workspace&);
GQA_EXTERN template void attend_backward<double>(const ExecutorRef&, const BackwardCall<double>&, Workspace&);
GQA_EXTERN template Index backward_bytes<float>(const BackwardCall<float>&, Index, Workspace&);
GQA_EXTERN template Index backward_bytes<double>(const BackwardCall<double>&, Index, Workspace&);

}  // namespace gqa::detail
