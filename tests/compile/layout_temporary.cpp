// SPDX-License-Identifier: Apache-2.0
// Views refer to memory, which a temporary that owns it takes away. Blocks, maps and views name memory
// elsewhere.

// errors: 6
// error: (use of|call to) deleted function .*heads_first\b
// error: (use of|call to) deleted function .*heads_first_rows
// error: (use of|call to) deleted function .*heads_of
// error: gqa: heads_of takes an Eigen matrix, map or block: evaluate other expressions first
#include <gqa/gqa.hpp>

using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;

void views(Tensor& q, Eigen::MatrixXf& matrix) {
#ifdef BROKEN
  gqa::heads_first(Tensor(4, 9, 8));
  gqa::heads_first(std::move(q));
  gqa::heads_first_rows(Tensor(1, 4, 9));
  gqa::heads_of(Eigen::MatrixXf(32, 9), 4);
  gqa::heads_of(std::move(matrix));
  gqa::heads_of(matrix * 2.f, 4);
#else
  gqa::heads_first(q);
  gqa::heads_first(Eigen::TensorMap<Tensor>(q.data(), 4, 9, 8));
  gqa::heads_first(gqa::TensorView(q.data(), 4, 9, 8));
  gqa::heads_first_rows(Eigen::TensorMap<Tensor>(q.data(), 1, 4, 9));
  gqa::heads_of(matrix, 4);
  gqa::heads_of(matrix.leftCols(3), 4);
  gqa::heads_of(Eigen::Map<Eigen::MatrixXf>(q.data(), 32, 9), 4);
#endif
}
