// SPDX-License-Identifier: Apache-2.0
// See compiled_kernels.hpp.
#include "support/compiled_kernels.hpp"

#define GQA_EXTERN
#include <gqa/kernel/instantiate.inl>
#include <gqa/kernel/instantiate_score_rows.inl>
#include <gqa/simd/instantiate.inl>
