// SPDX-License-Identifier: Apache-2.0
// Which instruction set is chosen, and what the choice refuses.
#include "gqa/simd/isa.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "simd/isa_list.hpp"

namespace gqa {
namespace {

TEST(ChooseIsa, NoWishIsTheFastestThereIs) {
  Isa best = test::supported_isas().back();
  if (best == Isa::avx512bf16 && !detail::bf16_dot_is_fast()) best = Isa::avx512;
  EXPECT_EQ(detail::choose_isa(nullptr), best);
  EXPECT_EQ(detail::choose_isa(""), best);
}

TEST(ChooseIsa, AWishIsHeeded) {
  for (Isa isa : test::supported_isas()) EXPECT_EQ(detail::choose_isa(name(isa)), isa) << name(isa);
  EXPECT_TRUE(supports(Isa::generic));
}

TEST(ChooseIsa, UnknownNamesAreRefusedWithTheKnownOnes) {
  for (const char* wish : {"sse", "AVX2", "avx2 ", "avx", "avx5120", "1", "native"}) {
    try {
      detail::choose_isa(wish);
      FAIL() << wish;
    } catch (const std::invalid_argument& error) {
      EXPECT_EQ(error.what(),
                "GQA_ISA is '" + std::string(wish) + "', expected generic, avx2, avx512, avx512bf16 or amx");
    }
  }
}

TEST(ChooseIsa, OneTheProcessorLacksIsRefused) {
  for (Isa isa : {Isa::avx2, Isa::avx512, Isa::avx512bf16, Isa::amx}) {
    if (supports(isa)) continue;
    try {
      detail::choose_isa(name(isa));
      FAIL() << name(isa);
    } catch (const std::invalid_argument& error) {
      EXPECT_EQ(error.what(), "GQA_ISA: this processor has no " + std::string(name(isa)));
    }
  }
}

TEST(Supports, EachSetIncludesThoseBeforeIt) {
  EXPECT_TRUE(supports(Isa::avx512bf16) || !supports(Isa::amx));
  EXPECT_TRUE(supports(Isa::avx512) || !supports(Isa::avx512bf16));
  EXPECT_TRUE(supports(Isa::avx2) || !supports(Isa::avx512));
}

TEST(Supports, AgreesWithTheKernelsListOfFlags) {
#if !defined(__x86_64__)
  GTEST_SKIP() << "under emulation the list is the host's";
#endif
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line) && line.rfind("flags", 0) != 0) {
  }
  if (line.rfind("flags", 0) != 0) GTEST_SKIP() << "no flags in /proc/cpuinfo";
  line += ' ';
  const auto has = [&](const char* flag) { return line.find(std::string(" ") + flag + " ") != line.npos; };
  const bool avx2 = has("avx2") && has("fma") && has("f16c");
  const bool avx512 = avx2 && has("avx512f") && has("avx512bw") && has("avx512dq") && has("avx512vl");
  EXPECT_EQ(supports(Isa::avx2), avx2);
  EXPECT_EQ(supports(Isa::avx512), avx512);
  EXPECT_EQ(supports(Isa::avx512bf16), avx512 && has("avx512_bf16"));
  EXPECT_EQ(supports(Isa::amx), avx512 && has("avx512_bf16") && has("amx_tile") && has("amx_bf16"));
}

TEST(Isa, IsChosenFromTheEnvironment) { EXPECT_EQ(isa(), detail::choose_isa(std::getenv("GQA_ISA"))); }

}  // namespace
}  // namespace gqa
