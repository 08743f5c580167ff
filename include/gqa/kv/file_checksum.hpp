// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <xxhash.h>
#ifdef GQA_XXHASH_DISPATCH  // by gqa::files, where the library chooses an instruction set at run time
#define XXH_DISPATCH_DISABLE_REPLACE
#include <xxh_x86dispatch.h>
#undef XXH_DISPATCH_DISABLE_REPLACE
#endif

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>

#include "gqa/core/toolchain.hpp"

namespace gqa::detail {

/// XXH3, 64 bits.
inline std::uint64_t checksum_of(std::span<const std::byte> bytes) {
#ifdef GQA_XXHASH_DISPATCH
  return XXH3_64bits_dispatch(bytes.data(), bytes.size());
#else
  return XXH3_64bits(bytes.data(), bytes.size());
#endif
}

/// The same of bytes that come in pieces.
class RunningChecksum {
 public:
  /// Throws std::bad_alloc.
  RunningChecksum() : state_(XXH3_createState()) {
    if (state_ == nullptr) throw std::bad_alloc();
    XXH3_64bits_reset(state_.get());
  }
  void add(std::span<const std::byte> bytes) {
#ifdef GQA_XXHASH_DISPATCH
    XXH3_64bits_update_dispatch(state_.get(), bytes.data(), bytes.size());
#else
    XXH3_64bits_update(state_.get(), bytes.data(), bytes.size());
#endif
  }
  std::uint64_t value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

}  // namespace gqa::detail
