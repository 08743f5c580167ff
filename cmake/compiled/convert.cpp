// SPDX-License-Identifier: Apache-2.0
#include "gqa/convert/linear_algebra.hpp"

namespace gqa::convert::detail {
template struct Algebra<double>;
}  // namespace gqa::convert::detail
