// SPDX-License-Identifier: Apache-2.0
// As instantiate.inl.

namespace gqa::detail {

GQA_EXTERN template void score_rows<float>(const ExecutorRef&, const Call<float>&, std::span<const WorkItem>,
                                           const RowsWanted<float>&, Workspace&);
GQA_EXTERN template void score_rows<double>(const ExecutorRef&, const Call<double>&,
                                            std::span<const WorkItem>, const RowsWanted<double>&, Workspace&);

}  // namespace gqa::detail
