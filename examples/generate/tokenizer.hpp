// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "fragment_encoder.hpp"
#include "vocabulary.hpp"

namespace generate {

/// Text <-> token ids, by the tokeniser that a GGUF file describes. Threads may share one. Throws
/// format_error naming a tokeniser, or one of its keys, that is not supported.
class Tokenizer {
 public:
  explicit Tokenizer(const Gguf& file);

  /// The ids of a text; where it spells a special token (<|im_start|>), that token. Begins with the
  /// beginning-of-text token if the model wants one. Throws std::invalid_argument when the text is not UTF-8.
  std::vector<TokenId> encode(std::string_view text) const;

  /// The ids of a text that others go before: the same, but that no beginning-of-text token is put before it.
  /// Where it begins with a special token, encode(a) and encode_next(b) together are encode(a + b).
  std::vector<TokenId> encode_next(std::string_view text) const;

  /// The bytes a token stands for: none for control tokens, not necessarily whole code points for others.
  std::string bytes(TokenId id) const;

  /// Whether the token says that the text is over.
  bool ends_text(TokenId id) const;

  TokenId vocabulary_size() const { return vocabulary_.size(); }

 private:
  TokenId special_at(std::string_view text) const;

  Vocabulary vocabulary_;
  std::unique_ptr<FragmentEncoder> encoder_;
  std::unordered_map<char, std::vector<TokenId>> specials_;  ///< by first byte, the longest first
  std::vector<TokenId> end_tokens_;
  TokenId bos_;
};

}  // namespace generate
