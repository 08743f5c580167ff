// SPDX-License-Identifier: Apache-2.0
// What is no tensor in the place of one: a line each that says what to write.
// errors: 15
// error: gqa: q is an Eigen expression: evaluate it into a tensor first, Tensor3<float> q2 = q
// error: gqa: k is an Eigen expression: evaluate it into a tensor first
// error: gqa: v is an Eigen matrix, .*: write heads_of\(v, num_heads\)
// error: gqa: q is memory without sizes: write TensorView\(pointer, tokens, heads, dim\)
// error: gqa: k is memory without sizes
// error: gqa: v holds something else than float, double, half or bfloat16
// error: gqa: q has another rank than 3 .* or 4 .*: write TensorView\(q.data\(\), tokens, heads, dim\)
// error: gqa: out is const, and is to be written
// error: gqa: out is a temporary, so the result would be lost: name the tensor
// error: gqa: out is an Eigen expression
// error: gqa: out is an Eigen matrix, .*: write heads_of\(out, num_heads\)
// error: gqa: q is a cache or view .*: it comes after q in place of k and v
// error: gqa: v is missing: write attention\(q, k, v\), or attention\(q, cache\)
// error: gqa: double goes with double only
// error: gqa: k and v hold the same type
#include <gqa/gqa.hpp>
#include <vector>

using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;
using Three = Eigen::array<Eigen::Index, 3>;

void attend(Tensor& q, Tensor& k, Tensor& v, Tensor& out, const Tensor& constant, std::vector<float>& list,
            Eigen::MatrixXf& matrix, Eigen::Tensor<int, 3>& integers, Eigen::Tensor<float, 2>& rank_two,
            Eigen::Tensor<double, 3>& wide, gqa::KVCache<float>& cache) {
#ifdef BROKEN
  gqa::attention(q * 2.f, k, v, gqa::causal());
  gqa::attention(q, k.slice(Three{0, 0, 0}, Three{9, 2, 8}), v, out);
  gqa::attention(q, k, matrix, gqa::causal());
  gqa::attention(list, k, v);
  gqa::attention(q, k.data(), v.data());
  gqa::attention(q, k, integers);
  gqa::attention(rank_two, cache, gqa::causal());
  gqa::attention(q, k, v, constant, gqa::causal());
  gqa::attention(q, k, v, Tensor(9, 4, 8), gqa::causal());
  gqa::attention(q, cache, out * 2.f);
  gqa::attention(q, cache, matrix, gqa::causal());
  gqa::attention(cache, q);
  gqa::attention(q, k);
  gqa::attention(wide, k, v);
  gqa::attention(q, k, wide);
#else
  const Tensor q2 = q * 2.f, k2 = k.slice(Three{0, 0, 0}, Three{9, 2, 8});
  gqa::attention(q2, k2, v, out, gqa::causal());
  gqa::attention(gqa::TensorView(list.data(), 9, 4, 8), k, v);
  gqa::attention(gqa::TensorView(rank_two.data(), 9, 4, 8), cache, gqa::causal());
  gqa::attention(q, k, v, Eigen::TensorMap<Tensor>(list.data(), 9, 4, 8), gqa::causal());
  gqa::attention(q, cache, gqa::TensorView(list.data(), 9, 4, 8));
  gqa::attention(wide, wide, wide);
  static_cast<void>(matrix.size() + integers.size() + constant.size());
#endif
}
