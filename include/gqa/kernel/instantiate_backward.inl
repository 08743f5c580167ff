// SPDX-License-Identifier: Apache-2.0
// As instantiate.inl.

namespace gqa::detail {

GQA_EXTERN template void attend_backward<float>(const ExecutorRef&, const BackwardCall<float>&, Workspace&);
GQA_EXTERN template void attend_backward<double>(const ExecutorRef&, const BackwardCall<double>&, Workspace&);

}  // namespace gqa::detail
