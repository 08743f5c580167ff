// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <vector>

#include "fragment_encoder.hpp"

namespace generate {

/// SentencePiece's byte-pair encoding (tokenizer.ggml.model "llama": Llama 1 and 2, Mistral, TinyLlama):
/// spaces become U+2581, and adjacent pieces are merged into the token of highest score. A character without
/// a token is spelled in byte tokens.
class SentencePieceEncoder final : public FragmentEncoder {
 public:
  SentencePieceEncoder(const Gguf& file, const Vocabulary& vocabulary);

  void encode(std::string_view fragment, bool at_start, std::vector<TokenId>& ids) const override;
  std::string bytes(TokenId id) const override;
  bool adds_bos() const override { return true; }

 private:
  const Vocabulary* vocabulary_;
  std::vector<float> scores_;
  std::array<TokenId, 256> byte_tokens_{};
  bool space_prefix_ = true;
};

}  // namespace generate
