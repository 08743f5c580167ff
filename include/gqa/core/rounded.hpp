// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "gqa/core/toolchain.hpp"

namespace gqa::detail {

/// A product rounded before it enters a sum. Otherwise GCC contracts the two where the command line allows
/// it, and files of different flags, of which the linker keeps one copy, would compute different bits; Clang
/// contracts within an expression only.
template <class V>
inline V rounded(V product) {
#if defined(__GNUC__) && !defined(__clang__)
  // The barrier alone would do, but GCC 12 forgets it where it turns a loop over numbers into vectors.
  if constexpr (std::is_floating_point_v<V>) {
#if defined(__x86_64__)
    asm("" : "+x"(product));
#elif defined(__aarch64__)
    asm("" : "+w"(product));
#endif
  }
  return __builtin_assoc_barrier(product);
#else
  return product;
#endif
}

}  // namespace gqa::detail
