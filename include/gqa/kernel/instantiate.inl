// SPDX-License-Identifier: Apache-2.0
// Every worker there is: declared where GQA_EXTERN is extern, compiled where it is nothing.

namespace gqa::detail {

GQA_EXTERN template void attend<float>(const ExecutorRef&, const Call<float>&, Workspace&);
GQA_EXTERN template void attend<double>(const ExecutorRef&, const Call<double>&, Workspace&);
GQA_EXTERN template Index call_bytes<float>(const Call<float>&, Index, Workspace&);
GQA_EXTERN template Index call_bytes<double>(const Call<double>&, Index, Workspace&);

}  // namespace gqa::detail
