// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include "gqa/core/scalar.hpp"

namespace gqa::test {

/// The types of typed tests.
#ifdef GQA_TEST_FEW_SCALARS
using AllScalars = ::testing::Types<float, bfloat16>;  // one of each way through the kernels
#else
using AllScalars = ::testing::Types<float, double, half, bfloat16>;
#endif

}  // namespace gqa::test
