// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "vocabulary.hpp"

namespace generate {

/// How one family of tokenisers turns text without special tokens into ids, and ids into bytes.
class FragmentEncoder {
 public:
  virtual ~FragmentEncoder() = default;

  /// Appends the ids of a valid UTF-8 fragment. `at_start`: nothing, or only special tokens, came before.
  virtual void encode(std::string_view fragment, bool at_start, std::vector<TokenId>& ids) const = 0;
  /// The bytes of a normal token: not necessarily whole code points.
  virtual std::string bytes(TokenId id) const = 0;
  /// Whether prompts begin with the beginning-of-text token when the file does not say.
  virtual bool adds_bos() const = 0;
};

}  // namespace generate
