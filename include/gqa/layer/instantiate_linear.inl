// SPDX-License-Identifier: Apache-2.0
// Products of both accumulators: declared where GQA_EXTERN is extern, compiled where it is nothing.

namespace gqa::detail {

GQA_EXTERN template void run_linear<float>(const ExecutorRef&, const LinearCall&, Workspace&);
GQA_EXTERN template void run_linear<double>(const ExecutorRef&, const LinearCall&, Workspace&);

}  // namespace gqa::detail
