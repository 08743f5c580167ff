// SPDX-License-Identifier: Apache-2.0
// All of a call that does not depend on its arguments' types: declared where GQA_EXTERN is extern, compiled where
// it is nothing.

namespace gqa::detail {

GQA_EXTERN template Call<float> checked_call<float>(const Request<float>&);
GQA_EXTERN template Call<double> checked_call<double>(const Request<double>&);
GQA_EXTERN template void attend<float>(const ExecutorRef&, const Request<float>&, const Results<float>&);
GQA_EXTERN template void attend<double>(const ExecutorRef&, const Request<double>&, const Results<double>&);
GQA_EXTERN template void attend<float>(const ExecutorRef&, const Call<float>&, Workspace&);
GQA_EXTERN template void attend<double>(const ExecutorRef&, const Call<double>&, Workspace&);
GQA_EXTERN template Index call_bytes<float>(const Request<float>&, Index);
GQA_EXTERN template Index call_bytes<double>(const Request<double>&, Index);

}  // namespace gqa::detail
