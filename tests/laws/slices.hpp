// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/attend.hpp"

namespace gqa::test {

/// Tokens [begin, end) of a view.
template <class T>
TensorView<T> slice(const TensorView<T>& x, Index begin, Index end) {
  return TensorView<T>(x.at(0, begin, 0), {x.batch, end - begin, x.heads, x.dim},
                       {x.batch_stride, x.token_stride, x.head_stride});
}

/// Cuts n tokens at random: mostly short pieces, sometimes long ones.
inline std::vector<Index> random_pieces(Random& random, Index n) {
  std::vector<Index> pieces;
  while (n > 0) {
    pieces.push_back(std::min(n, random.flip(0.3) ? 1 : random.integer(1, random.flip() ? 20 : 300)));
    n -= pieces.back();
  }
  return pieces;
}

}  // namespace gqa::test
