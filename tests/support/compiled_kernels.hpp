// SPDX-License-Identifier: Apache-2.0
// The kernels of every instruction set, compiled once for all tests: they are what takes longest to compile.
#pragma once

#include <gqa/simd/kernels.hpp>

#define GQA_EXTERN extern
#include <gqa/simd/instantiate.inl>
#undef GQA_EXTERN
