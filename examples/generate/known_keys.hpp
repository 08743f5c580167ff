// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string_view>

#include "gguf.hpp"

namespace generate {

/// A key of a GGUF file that this program knows, and what comes of it.
struct KnownKey {
  enum class Use {
    acts,       ///< it is read, and changes what is computed
    describes,  ///< no computation of this program depends on it
    only,       ///< nothing but `value` is supported: it changes nothing
  };
  std::string_view name;  ///< without its namespace
  Use use;
  double value = 0;  ///< of a bool: 0 or 1
};

/// Throws gqa::format_error naming the first key of the namespace (`"llama."`) that is not known, or says
/// something else than the only value supported. `kind` is what the message calls it.
void check_keys(const Gguf& file, std::string_view key_namespace, const char* kind,
                std::span<const KnownKey> known);

}  // namespace generate
