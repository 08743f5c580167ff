// SPDX-License-Identifier: Apache-2.0
#include "identity.hpp"

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#ifdef GENERATE_FILES
#include <xxhash.h>
#endif

namespace generate {

#ifdef GENERATE_FILES
std::string identity(const Gguf& model, std::span<const std::byte> bytes) {
  // A label is short and has no control characters, a name may be anything.
  std::string name(model.text("general.name", "").substr(0, 256));
  std::ranges::replace_if(
      name, [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }, ' ');
  char digest[32];
  std::snprintf(digest, sizeof digest, "xxh3 %016llx",
                static_cast<unsigned long long>(XXH3_64bits(bytes.data(), bytes.size())));
  return name.empty() ? digest : name + ", " + digest;
}
#else
std::string identity(const Gguf&, std::span<const std::byte>) {
  throw std::invalid_argument("files of caches need xxHash (libxxhash-dev), which this build is without");
}
#endif

}  // namespace generate
