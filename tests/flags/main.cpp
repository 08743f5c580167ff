// SPDX-License-Identifier: Apache-2.0
// Whether all parts computed the same bytes: prints a hash of each result, and on stderr those that differ.
// 77 where the processor lacks GQA_ISA.
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>

#include "flags/part.hpp"

namespace {

std::uint64_t hash(const Result& result) {
  std::uint64_t value = 14695981039346656037u;  // FNV-1a
  for (const unsigned char byte : result.bytes) value = (value ^ byte) * 1099511628211u;
  return value;
}

/// How many of `results` differ from `expected`, each named.
int count_differences(const std::vector<Result>& results, const std::vector<Result>& expected,
                      const char* flags) {
  int count = results.size() != expected.size();
  for (std::size_t i = 0; i < results.size() && i < expected.size(); ++i) {
    if (results[i].bytes == expected[i].bytes) continue;
    std::fprintf(stderr, "%s differs: %s\n", flags, results[i].name.c_str());
    ++count;
  }
  return count;
}

}  // namespace

int main() {
  try {
    const auto plain = run_plain();
    for (const Result& result : plain)
      std::printf("%016llx %s\n", static_cast<unsigned long long>(hash(result)), result.name.c_str());
    const int differ = count_differences(run_native(), plain, "-O3 -march=native") +
                       count_differences(run_unoptimised(), plain, "-O0") +
                       count_differences(run_compiled(), plain, "gqa::compiled") +
                       count_differences(run_ours_first(), plain, "our headers before Eigen's");
    return differ == 0 ? 0 : 1;
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return std::string(error.what()).rfind("GQA_ISA: this processor", 0) == 0 ? 77 : 1;
  }
}
