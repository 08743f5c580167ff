// SPDX-License-Identifier: Apache-2.0
// Where a caller of attention_backward wants the gradients.
#pragma once

#include <concepts>
#include <span>
#include <vector>

#include "gqa/core/tensor.hpp"

namespace gqa {

/// See gradients_into.
template <class TQ, class TK, class TV>
struct Gradients {
  TensorView<TQ> dq;
  TensorView<TK> dk;
  TensorView<TV> dv;
};

/// Where the gradients by q, k and v go: tensors of their shapes, of the type of q, k and v, of the type
/// their sums are taken in (float, or double for double), or of any other that goes with it. Refers to their
/// memory, so temporaries that own it do not compile.
template <OutputLike DQ, OutputLike DK, OutputLike DV>
auto gradients_into(DQ&& dq, DK&& dk, DV&& dv) {
  const auto q = as_view(dq);
  const auto k = as_view(dk);
  const auto v = as_view(dv);
  return Gradients<typename decltype(q)::value_type, typename decltype(k)::value_type,
                   typename decltype(v)::value_type>{q, k, v};
}

namespace detail {

/// Where gradients of parameters go, float or double; nowhere where there are none.
struct ParameterOutput {
  void* data = nullptr;
  bool wide = false;
  Index size = 0;

  ParameterOutput() = default;
  template <class T>
  explicit ParameterOutput(std::span<T> to)
      : data(to.data()), wide(std::is_same_v<T, double>), size(static_cast<Index>(to.size())) {}

  void write(Index i, double x) const {
    if (wide)
      static_cast<double*>(data)[i] = x;
    else
      static_cast<float*>(data)[i] = static_cast<float>(x);
  }
};

template <class T>
concept FloatOrDouble = std::same_as<T, float> || std::same_as<T, double>;

}  // namespace detail

/// See sink_gradient_into and score_gradient_into.
struct SinkGradient {
  detail::ParameterOutput to;
};
struct ScoreParameterGradient {
  detail::ParameterOutput to;
};

/// Where the gradients by the learned sinks go, one a query head.
template <detail::FloatOrDouble T>
SinkGradient sink_gradient_into(std::span<T> to) {
  return {detail::ParameterOutput(to)};
}
template <detail::FloatOrDouble T>
SinkGradient sink_gradient_into(std::vector<T>& to) {
  return sink_gradient_into(std::span<T>(to));
}

/// Where the gradients by the score function's parameters go: of soft_cap the cap, of alibi a slope a query
/// head, of relative_bias its table, of tensor_bias its elements, packed, of temperature the factor of each
/// position from 0 on; of a chain those of its functions, in the order they act. They are summed up in
/// double, in memory for each sequence and KV head where those share a parameter: a bias tensor that has
/// queries and keys needs memory that grows with both.
template <detail::FloatOrDouble T>
ScoreParameterGradient score_gradient_into(std::span<T> to) {
  return {detail::ParameterOutput(to)};
}
template <detail::FloatOrDouble T>
ScoreParameterGradient score_gradient_into(std::vector<T>& to) {
  return score_gradient_into(std::span<T>(to));
}

}  // namespace gqa
