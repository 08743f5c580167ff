// SPDX-License-Identifier: Apache-2.0
// What the library asks of a compiler and its flags, in one error each. Included by every header that
// includes no other of ours, so it is read before any of them.
#pragma once

#if __cplusplus < 202002L
#error "gqa: C++20 is needed; compile with -std=c++20"
#define GQA_UNSUPPORTED
#elif defined(__clang__)
#if __clang_major__ < 14
#error "gqa: Clang 14 or newer is needed"
#define GQA_UNSUPPORTED
#endif
#elif defined(__GNUC__)
#if __GNUC__ < 12
#error "gqa: GCC 12 or newer is needed"
#define GQA_UNSUPPORTED
#endif
#else
#error "gqa: GCC 12 or Clang 14, or a newer one, is needed"
#define GQA_UNSUPPORTED
#endif

#if !defined(GQA_UNSUPPORTED) && !defined(__cpp_exceptions)
#error "gqa: errors are reported by exceptions; compile without -fno-exceptions"
#define GQA_UNSUPPORTED
#endif

#if !defined(GQA_UNSUPPORTED) &&                                                                \
    (defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
     (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__))
#error "gqa: masks are infinities and promises are bits; compile without -ffast-math and -ffinite-math-only"
#define GQA_UNSUPPORTED
#endif

// GCC says it with a macro, Clang with a feature, which GCC does not know (Eigen makes it a macro).
#if defined(__SANITIZE_ADDRESS__)
#define GQA_ADDRESS_SANITIZER
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define GQA_ADDRESS_SANITIZER
#endif
#endif

#ifdef GQA_UNSUPPORTED
// No such file: the one thing compilers stop at. What follows would be hundreds of errors more.
#include <stopped by the error above>
#endif
