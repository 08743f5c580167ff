// SPDX-License-Identifier: Apache-2.0
// Whether a test is compiled with a sanitizer, which GCC tells by macros and Clang by features.
#pragma once

#if defined(__has_feature)
#define GQA_TEST_HAS(feature) __has_feature(feature)
#else
#define GQA_TEST_HAS(feature) 0
#endif

/// Where memory cannot be had, AddressSanitizer aborts in place of throwing.
#if defined(__SANITIZE_ADDRESS__) || GQA_TEST_HAS(address_sanitizer)
#define GQA_TEST_ADDRESS_SANITIZER 1
#else
#define GQA_TEST_ADDRESS_SANITIZER 0
#endif

/// All of them bring allocation functions of their own.
#if GQA_TEST_ADDRESS_SANITIZER || defined(__SANITIZE_THREAD__) || GQA_TEST_HAS(thread_sanitizer) || \
    GQA_TEST_HAS(memory_sanitizer)
#define GQA_TEST_SANITIZED 1
#else
#define GQA_TEST_SANITIZED 0
#endif
