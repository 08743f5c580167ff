// SPDX-License-Identifier: Apache-2.0
// Eigen's headers may come after ours: what takes tensors, matrices, pools and 16-bit floats, and what
// refuses them, is the same.

// errors: 5
// error: (use of|call to) deleted function .*heads_of
// error: gqa: heads_of takes an Eigen matrix, map or block: evaluate other expressions first
// error: gqa: k is an Eigen expression: evaluate it into a tensor first
// error: gqa: v is an Eigen matrix, which does not say its heads: write heads_of\(v, num_heads\)
// error: gqa: out is a temporary, so the result would be lost: name the tensor
#include <gqa/attention.hpp>

static_assert(!gqa::TensorLike<float> && !gqa::ExecutorLike<int>);

#include <unsupported/Eigen/CXX11/Tensor>
#include <unsupported/Eigen/CXX11/ThreadPool>

template <class T>
void attend(Eigen::Tensor<T, 3>& q, Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>& matrix,
            Eigen::ThreadPool& pool) {
  Eigen::Tensor<T, 3> out = gqa::attention(pool, q, q, q, gqa::causal());
  const auto keys = matrix.leftCols(3);
  gqa::attention(gqa::heads_of(matrix, 4), gqa::heads_of(keys, 4), gqa::heads_of(keys, 4), out);
}

void attend(Eigen::Tensor<float, 3>& q, Eigen::MatrixXf& matrix, Eigen::ThreadPool& pool) {
#ifdef BROKEN
  gqa::heads_of(Eigen::MatrixXf(32, 9), 4);
  gqa::heads_of(matrix * 2.f, 4);
  gqa::attention(q, q * q, q);
  gqa::attention(q, q, matrix);
  gqa::attention(pool, q, q, q, Eigen::Tensor<float, 3>(8, 4, 9));
#else
  attend<float>(q, matrix, pool);
  Eigen::Tensor<gqa::half, 3> halves;
  Eigen::Matrix<gqa::half, Eigen::Dynamic, Eigen::Dynamic> rows;
  attend<gqa::half>(halves, rows, pool);
#endif
}
