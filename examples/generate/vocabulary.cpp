// SPDX-License-Identifier: Apache-2.0
#include "vocabulary.hpp"

#include <limits>

#include "gqa/core/error.hpp"

namespace generate {

Vocabulary::Vocabulary(const Gguf& file)
    : texts_(file.texts("tokenizer.ggml.tokens")), kinds_(texts_.size(), TokenKind::normal) {
  GQA_CHECK(!texts_.empty() && texts_.size() <= std::size_t{std::numeric_limits<TokenId>::max()},
            gqa::format_error, "tokenizer.ggml.tokens holds " << texts_.size() << " tokens");
  if (file.has("tokenizer.ggml.token_type")) {
    const auto types = file.integers("tokenizer.ggml.token_type");
    GQA_CHECK(
        types.size() == texts_.size(), gqa::format_error,
        "tokenizer.ggml.token_type holds " << types.size() << " types for " << texts_.size() << " tokens");
    for (std::size_t i = 0; i < types.size(); ++i) kinds_[i] = static_cast<TokenKind>(types[i]);
  }
  ids_.reserve(texts_.size());
  for (TokenId id = 0; id < size(); ++id) ids_.emplace(text(id), id);
}

std::optional<TokenId> Vocabulary::find(std::string_view text) const {
  const auto found = ids_.find(text);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

}  // namespace generate
