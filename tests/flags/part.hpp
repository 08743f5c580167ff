// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

/// The bytes of one thing that part.cpp computes.
struct Result {
  std::string name;
  std::vector<unsigned char> bytes;
};

// Everything part.cpp computes, by the object compiled with -O2, with -O3 -march=native, with -O0, against
// the library, and against it with -march=native and our headers before Eigen's.
std::vector<Result> run_plain();
std::vector<Result> run_native();
std::vector<Result> run_unoptimised();
std::vector<Result> run_compiled();
std::vector<Result> run_ours_first();
