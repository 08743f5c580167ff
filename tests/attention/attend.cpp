// SPDX-License-Identifier: Apache-2.0
#include "attention/attend.hpp"

#include "gqa/gqa.hpp"

namespace gqa::test {
namespace {

template <class T, class KV>
void run_any(const How& how, TensorView<const T> q, const KV& kv, TensorView<T> out,
             RowsView<Accumulator<T>> lse) {
  const AttentionOptions options{
      .scale = how.scale, .q_offset = how.q_offset, .workspace = how.workspace, .tuning = how.tuning};
  if (how.threads != nullptr)
    attention(*how.threads, q, kv, out, how.mask, options, LseOutput<Accumulator<T>>{lse});
  else
    attention(q, kv, out, how.mask, options, LseOutput<Accumulator<T>>{lse});
}

}  // namespace

template <Scalar T>
void attend(const How& how, TensorView<const T> q, TensorView<const T> k, TensorView<const T> v,
            TensorView<T> out, RowsView<Accumulator<T>> lse) {
  run_any(how, q, ContiguousKV<T>(k, v), out, lse);
}
template <Scalar T>
void attend(const How& how, TensorView<const T> q, const typename KVCache<T>::View& view, TensorView<T> out,
            RowsView<Accumulator<T>> lse) {
  run_any(how, q, view, out, lse);
}
template <Scalar T>
void attend(const How& how, TensorView<const T> q, const FunctionKV<T>& view, TensorView<T> out,
            RowsView<Accumulator<T>> lse) {
  run_any(how, q, view, out, lse);
}

#define GQA_INSTANTIATE(T)                                                                           \
  template void attend<T>(const How&, TensorView<const T>, TensorView<const T>, TensorView<const T>, \
                          TensorView<T>, RowsView<Accumulator<T>>);                                  \
  template void attend<T>(const How&, TensorView<const T>, const KVCache<T>::View&, TensorView<T>,   \
                          RowsView<Accumulator<T>>);                                                 \
  template void attend<T>(const How&, TensorView<const T>, const FunctionKV<T>&, TensorView<T>,      \
                          RowsView<Accumulator<T>>);
GQA_INSTANTIATE(float)
GQA_INSTANTIATE(double)
GQA_INSTANTIATE(half)
GQA_INSTANTIATE(bfloat16)

}  // namespace gqa::test
