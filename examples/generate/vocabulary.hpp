// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "gguf.hpp"

namespace generate {

using TokenId = std::int32_t;

/// What a token is for; the numbers are those of GGUF's tokenizer.ggml.token_type.
enum class TokenKind : std::int32_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6
};

/// The tokens of a model, as they lie in the file: id <-> text.
class Vocabulary {
 public:
  explicit Vocabulary(const Gguf& file);

  TokenId size() const { return static_cast<TokenId>(texts_.size()); }
  std::string_view text(TokenId id) const { return texts_[static_cast<std::size_t>(id)]; }
  TokenKind kind(TokenId id) const { return kinds_[static_cast<std::size_t>(id)]; }
  std::optional<TokenId> find(std::string_view text) const;

 private:
  std::vector<std::string_view> texts_;
  std::vector<TokenKind> kinds_;
  std::unordered_map<std::string_view, TokenId> ids_;
};

}  // namespace generate
