// SPDX-License-Identifier: Apache-2.0
// Sums are taken in double for double and in float for everything else; the two do not mix.
// error: double goes with double only
#include <gqa/gqa.hpp>

#ifdef BROKEN
using Key = double;
#else
using Key = gqa::half;
#endif

using Queries = Eigen::Tensor<float, 3, Eigen::RowMajor>;
using Keys = Eigen::Tensor<Key, 3, Eigen::RowMajor>;

auto attend(const Queries& q, const Keys& k, const Keys& v) { return gqa::attention(q, k, v); }
