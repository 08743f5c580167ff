// SPDX-License-Identifier: Apache-2.0
// Attention over memory of the caller's needs no Eigen; a new tensor does, and says so. What does not fit is
// told as it is where Eigen is.

// errors: 5
// error: gqa: the result is a new Eigen tensor: include <unsupported/Eigen/CXX11/Tensor>
// error: gqa: a list after the tensors: write SinkLogits\(logits\) for sinks, and TensorView\(pointer
// error: gqa: k is memory without sizes: write TensorView\(pointer, tokens, heads, dim\)
// error: gqa: heads_of takes an Eigen matrix, map or block: evaluate other expressions first
#include <gqa/attention.hpp>
#include <vector>
#ifdef EIGEN_WORLD_VERSION
#error "gqa/attention.hpp includes Eigen"
#endif

using View = gqa::TensorView<const float>;

void attend(const View& q, const View& kv, gqa::TensorView<float> out, const std::vector<float>& list) {
#ifdef BROKEN
  gqa::attention(q, kv, kv);
  gqa::attention(q, kv, kv, list);
  gqa::attention(q, list, kv, out);
  gqa::heads_of(list, 4);
#else
  gqa::attention(q, kv, kv, out, gqa::causal());
  gqa::attention(q, kv, kv, out, gqa::SinkLogits(list));
#endif
}
