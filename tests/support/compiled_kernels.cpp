// SPDX-License-Identifier: Apache-2.0
// See compiled_kernels.hpp.
#include "support/compiled_kernels.hpp"

#define GQA_EXTERN
#include <gqa/simd/instantiate.inl>
