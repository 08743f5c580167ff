// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "gqa/core/error.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace gqa {

/// Instruction sets the kernels are compiled for, each including those before it.
enum class Isa {
  generic,     ///< whatever the compiler targets by default: SSE2, NEON, or none
  avx2,        ///< AVX2, FMA and F16C
  avx512,      ///< AVX-512 F, BW, DQ and VL
  avx512bf16,  ///< AVX-512 with the bf16 dot product
  amx,         ///< the same with the matrix unit for bf16
};

constexpr const char* name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512bf16:
      return "avx512bf16";
    case Isa::amx:
      return "amx";
    default:
      return "generic";
  }
}

namespace detail {

/// Asks Linux for the state of the matrix unit, for the whole process: it is not there until one asks.
inline bool request_amx() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr long arch_req_xcomp_perm = 0x1023, xfeature_tile_data = 18;  // asm/prctl.h of Linux 5.16
  return syscall(SYS_arch_prctl, arch_req_xcomp_perm, xfeature_tile_data) == 0;
#else
  return false;
#endif
}

}  // namespace detail

/// Whether this processor (and its operating system) runs `isa`. Asks Linux to let the process use AMX.
[[gnu::noinline]] inline bool supports(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // Clang 14's __builtin_cpu_supports knows neither f16c (leaf 1, ECX bit 29) nor avx512bf16 (leaf 7.1, EAX
  // bit 5).
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c >> 29 & 1u) != 0;
  const bool bf16 = __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 5 & 1u) != 0;
  const bool avx2 = f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  switch (isa) {
    case Isa::avx2:
      return avx2;
    case Isa::avx512:
      return avx512;
    case Isa::avx512bf16:
      return avx512 && bf16;
    case Isa::amx: {  // leaf 7, EDX bits 22 and 24
      const bool amx =
          __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 22 & 1u) != 0 && (d >> 24 & 1u) != 0;
      return avx512 && bf16 && amx && detail::request_amx();
    }
    default:
      return true;
  }
#else
  return isa == Isa::generic;
#endif
}

namespace detail {

/// Whether the bf16 dot product does more a second than widening to float and multiplying. On AMD's
/// processors it does twice as much (475 to 239 GFLOP/s on Zen 5); on Intel's, whose fast way are the AMX
/// tiles, half (107 to 213 on Granite Rapids), so there the wider product is faster as well as more exact.
inline bool bf16_dot_is_fast() {
#if defined(__x86_64__)
  return !__builtin_cpu_is("intel");
#else
  return false;
#endif
}

/// The instruction set for a wish (the value of GQA_ISA, or null): the wished one, or the one the processor
/// is fastest with. Throws std::invalid_argument for an unknown name or one the processor lacks.
inline Isa choose_isa(const char* wish) {
  constexpr Isa all[] = {Isa::generic, Isa::avx2, Isa::avx512, Isa::avx512bf16, Isa::amx};
  if (wish != nullptr && *wish != '\0') {
    for (const Isa isa : all) {
      if (std::string_view(wish) != name(isa)) continue;
      GQA_CHECK(supports(isa), std::invalid_argument, "GQA_ISA: this processor has no " << wish);
      return isa;
    }
    GQA_CHECK(false, std::invalid_argument,
              "GQA_ISA is '" << wish << "', expected generic, avx2, avx512, avx512bf16 or amx");
  }
  Isa best = Isa::generic;
  for (const Isa isa : all)
    if (supports(isa) && (isa != Isa::avx512bf16 || bf16_dot_is_fast())) best = isa;
  return best;
}

}  // namespace detail

/// The instruction set in use: the processor's fastest, or the one the environment variable GQA_ISA names.
/// Chosen at the first call and constant from then on. Throws std::invalid_argument (see choose_isa).
inline Isa isa() {
  static const Isa chosen = detail::choose_isa(std::getenv("GQA_ISA"));
  return chosen;
}

}  // namespace gqa
