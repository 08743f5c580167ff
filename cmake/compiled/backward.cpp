// SPDX-License-Identifier: Apache-2.0
// The workers of backward; the kernels are those of the other files.
#define GQA_COMPILED
#include "gqa/kernel/run_backward.hpp"

#define GQA_EXTERN
#include "gqa/kernel/instantiate_backward.inl"
