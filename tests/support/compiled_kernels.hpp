// SPDX-License-Identifier: Apache-2.0
// The kernels of every instruction set, compiled once for all tests: they are what takes longest to compile.
#pragma once

#include <gqa/kernel/attend.hpp>
#include <gqa/kernel/score_rows.hpp>

#define GQA_EXTERN extern
#include <gqa/kernel/instantiate.inl>
#include <gqa/kernel/instantiate_score_rows.inl>
#include <gqa/simd/instantiate.inl>
#undef GQA_EXTERN
