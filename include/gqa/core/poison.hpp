// SPDX-License-Identifier: Apache-2.0
// Memory that is there but must not be touched: AddressSanitizer reports whoever does. Without it, nothing.
#pragma once

#include <cstddef>

#include "gqa/core/toolchain.hpp"

#ifdef GQA_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#endif

namespace gqa::detail {

inline void forbid_memory([[maybe_unused]] const void* memory, [[maybe_unused]] std::size_t bytes) noexcept {
#ifdef GQA_ADDRESS_SANITIZER
  __asan_poison_memory_region(memory, bytes);
#endif
}

inline void allow_memory([[maybe_unused]] const void* memory, [[maybe_unused]] std::size_t bytes) noexcept {
#ifdef GQA_ADDRESS_SANITIZER
  __asan_unpoison_memory_region(memory, bytes);
#endif
}

}  // namespace gqa::detail
