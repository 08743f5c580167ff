// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "fragment_encoder.hpp"
#include "regex.hpp"

namespace generate {

/// Byte-level byte-pair encoding, GPT-2's (tokenizer.ggml.model "gpt2"): text is cut into words by regular
/// expressions, words into bytes, and bytes are merged in the order of the file's merge list. A token's text
/// spells its bytes in printable characters.
class BytePairEncoder final : public FragmentEncoder {
 public:
  /// Reads merges and the name of the pre-tokeniser. Throws format_error: the name when it is not supported.
  BytePairEncoder(const Gguf& file, const Vocabulary& vocabulary);

  void encode(std::string_view fragment, bool at_start, std::vector<TokenId>& ids) const override;
  std::string bytes(TokenId id) const override;
  bool adds_bos() const override { return adds_bos_; }

 private:
  struct Rank {
    std::int32_t rank;
    TokenId result;
  };

  void encode_word(std::string_view word, std::vector<TokenId>& ids) const;

  const Vocabulary* vocabulary_;
  std::vector<Regex> cuts_;  ///< each cuts the pieces of the one before
  bool whole_words_first_ = false;
  bool adds_bos_ = false;
  std::array<TokenId, 256> byte_tokens_{};
  std::unordered_map<std::uint64_t, Rank> merges_;  ///< by the ids of the pair
};

}  // namespace generate
