// SPDX-License-Identifier: Apache-2.0
#include "attention/backward.hpp"

#include "gqa/gqa.hpp"

namespace gqa::test {
namespace {

template <class T, class DT, class KV>
void run_any(const BackwardHow& how, const BackwardTensors<T, DT>& t, const KV& kv) {
  const AttentionOptions options{.scale = how.scale, .q_offset = how.q_offset, .workspace = how.workspace};
  const auto grads = gradients_into(t.dq, t.dk, t.dv);
  const auto run = [&](auto&& executor, const auto&... extras) {
    attention(executor, t.q, kv, t.out, LseOutput<Accumulator<T>>{t.lse}, how.mask, options, extras...);
    if (how.score_gradient != nullptr && how.sink_gradient != nullptr)
      attention_backward(executor, t.q, kv, t.out, t.lse, t.d_out, grads, how.mask, options, extras...,
                         score_gradient_into(*how.score_gradient), sink_gradient_into(*how.sink_gradient));
    else
      attention_backward(executor, t.q, kv, t.out, t.lse, t.d_out, grads, how.mask, options, extras...);
  };
  const auto run_on = [&](auto&& executor) {
    if (!how.score && how.sinks == nullptr && how.grouping == nullptr) return run(executor);
    const Index H = t.q.heads;
    const SinkLogits none(std::vector<double>(static_cast<std::size_t>(H), -HUGE_VAL));
    const SinkLogits& sinks = how.sinks != nullptr ? *how.sinks : none;
    const HeadGrouping grouping =
        how.grouping != nullptr ? *how.grouping : HeadGrouping::contiguous(H, kv.num_kv_heads());
    if (how.score)
      run(executor, *how.score, sinks, grouping);
    else
      run(executor, sinks, grouping);
  };
  if (how.threads != nullptr)
    run_on(*how.threads);
  else
    run_on(Serial{});
}

}  // namespace

template <Scalar T, Scalar DT>
void differentiate(const BackwardHow& how, const BackwardTensors<T, DT>& tensors, TensorView<const T> k,
                   TensorView<const T> v) {
  run_any(how, tensors, ContiguousKV<T>(k, v));
}
template <Scalar T, Scalar DT>
void differentiate(const BackwardHow& how, const BackwardTensors<T, DT>& tensors, const FunctionKV<T>& view) {
  run_any(how, tensors, view);
}

#define GQA_INSTANTIATE(T, DT)                                                                               \
  template void differentiate<T, DT>(const BackwardHow&, const BackwardTensors<T, DT>&, TensorView<const T>, \
                                     TensorView<const T>);                                                   \
  template void differentiate<T, DT>(const BackwardHow&, const BackwardTensors<T, DT>&, const FunctionKV<T>&);
GQA_INSTANTIATE(float, float)
GQA_INSTANTIATE(double, double)
GQA_INSTANTIATE(half, float)
GQA_INSTANTIATE(bfloat16, float)
GQA_INSTANTIATE(bfloat16, bfloat16)

}  // namespace gqa::test
