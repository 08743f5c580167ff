// SPDX-License-Identifier: Apache-2.0
#include <Eigen/Core>

#include "gqa/simd/instances.hpp"

#define GQA_EXTERN
#define GQA_STORED bfloat16
#include "gqa/simd/instantiate.inl"
