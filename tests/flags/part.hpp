// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

// The bytes of everything part.cpp computes, by the object compiled with -O2 and that with -O3 -march=native.
std::vector<unsigned char> run_plain();
std::vector<unsigned char> run_native();
