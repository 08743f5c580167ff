// SPDX-License-Identifier: Apache-2.0
#include "sentence_piece.hpp"

#include <charconv>

#include "gqa/core/error.hpp"
#include "merge.hpp"
#include "utf8.hpp"

namespace generate {
namespace {

constexpr std::string_view space_mark = "\u2581";

std::string byte_spelling(unsigned byte) {
  constexpr char digits[] = "0123456789ABCDEF";
  return {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
}

}  // namespace

SentencePieceEncoder::SentencePieceEncoder(const Gguf& file, const Vocabulary& vocabulary)
    : vocabulary_(&vocabulary),
      scores_(file.reals("tokenizer.ggml.scores")),
      space_prefix_(file.boolean("tokenizer.ggml.add_space_prefix", true)) {
  GQA_CHECK(
      std::ssize(scores_) == vocabulary.size(), gqa::format_error,
      "tokenizer.ggml.scores holds " << scores_.size() << " scores for " << vocabulary.size() << " tokens");
  const std::string_view pre = file.text("tokenizer.ggml.pre", "default");
  GQA_CHECK(pre == "default", gqa::format_error,
            "the pre-tokeniser " << pre << " is not supported for the tokeniser llama (default is)");
  for (unsigned b = 0; b < 256; ++b) byte_tokens_[b] = vocabulary.find(byte_spelling(b)).value_or(no_token);
}

void SentencePieceEncoder::encode(std::string_view fragment, bool at_start, std::vector<TokenId>& ids) const {
  std::string marked;
  if (at_start && space_prefix_) marked += space_mark;
  for (const char c : fragment) {
    if (c == ' ') {
      marked += space_mark;
    } else {
      marked += c;
    }
  }
  std::vector<Symbol> symbols;
  for (std::string_view rest = marked; !rest.empty();) {
    const auto character = rest.substr(0, next_utf8(rest).length);
    symbols.push_back({vocabulary_->find(character).value_or(no_token), character});
    rest.remove_prefix(character.size());
  }
  symbols = merge_pairs(
      std::move(symbols), [this](const Symbol& left, const Symbol& right) -> std::optional<Merge> {
        // Neighbours are neighbours in `marked` too, so their union is a view of it.
        const std::string_view joined(left.text.data(), left.text.size() + right.text.size());
        const auto id = vocabulary_->find(joined);
        if (!id) return std::nullopt;
        return Merge{-static_cast<double>(scores_[static_cast<std::size_t>(*id)]), {*id, joined}};
      });
  for (const Symbol& symbol : symbols) {
    if (symbol.id != no_token) {
      ids.push_back(symbol.id);
      continue;
    }
    for (const char c : symbol.text) {
      const TokenId id = byte_tokens_[static_cast<unsigned char>(c)];
      if (id != no_token) ids.push_back(id);
    }
  }
}

std::string SentencePieceEncoder::bytes(TokenId id) const {
  std::string_view text = vocabulary_->text(id);
  if (vocabulary_->kind(id) == TokenKind::byte && text.size() == 6) {
    int byte = 0;
    std::from_chars(text.data() + 3, text.data() + 5, byte, 16);
    return {static_cast<char>(byte)};
  }
  std::string bytes;
  while (!text.empty()) {
    const bool mark = text.starts_with(space_mark);
    bytes += mark ? ' ' : text[0];
    text.remove_prefix(mark ? space_mark.size() : 1);
  }
  return bytes;
}

}  // namespace generate
