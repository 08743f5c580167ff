// SPDX-License-Identifier: Apache-2.0
// The workers; the kernels are those of the other files.
#define GQA_COMPILED
#include "gqa/kernel/run_call.hpp"
#include "gqa/kernel/run_score_rows.hpp"
#include "gqa/layer/run_linear.hpp"

#define GQA_EXTERN
#include "gqa/kernel/instantiate.inl"
#include "gqa/kernel/instantiate_score_rows.inl"
#include "gqa/layer/instantiate_linear.inl"
