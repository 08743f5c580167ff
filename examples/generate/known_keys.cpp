// SPDX-License-Identifier: Apache-2.0
#include "known_keys.hpp"

#include <algorithm>

#include "gqa/core/error.hpp"

namespace generate {

void check_keys(const Gguf& file, std::string_view key_namespace, const char* kind,
                std::span<const KnownKey> known) {
  for (const std::string_view key : file.keys()) {
    if (!key.starts_with(key_namespace)) continue;
    const auto found = std::ranges::find(known, key.substr(key_namespace.size()), &KnownKey::name);
    GQA_CHECK(found != known.end(), gqa::format_error, "the " << kind << " " << key << " is not supported");
    if (found->use != KnownKey::Use::only) continue;
    if (file.is_boolean(key)) {
      GQA_CHECK(file.boolean(key, false) == (found->value != 0), gqa::format_error,
                "the " << kind << " " << key << " is not supported but as "
                       << (found->value != 0 ? "true" : "false"));
    } else {
      GQA_CHECK(file.real(key) == found->value, gqa::format_error,
                "the " << kind << " " << key << " is not supported but as " << found->value);
    }
  }
}

}  // namespace generate
