// SPDX-License-Identifier: Apache-2.0
#include "byte_pair.hpp"

#include <algorithm>

#include "gqa/core/error.hpp"
#include "merge.hpp"
#include "utf8.hpp"

namespace generate {
namespace {

/// The rules that the name in tokenizer.ggml.pre stands for.
struct PreTokenizer {
  std::string_view name;
  std::vector<std::string> cuts;
  bool whole_words_first;  ///< a word that is a token is taken as it is, whatever the merges would do
  bool adds_bos;
};

const PreTokenizer& pre_tokenizer(std::string_view name) {
  // Unicode's White_Space, which \s is in the tokenisers' own engines; PCRE2's \s has U+180E as well.
  static const std::string space = R"(\x{09}-\x{0D}\x{85}\p{Z})";
  static const std::string blanks = "[" + space + "]+(?![^" + space + "])|[" + space + "]+";
  static const std::string digit = R"(\p{N})";
  static const std::string gpt2 =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^)" + space + R"(\p{L}\p{N}]+|)" + blanks;
  // GPT-4's, which differ in how many digits they keep together.
  const auto gpt4 = [](const char* digits) {
    return std::string(R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)") + digits + "| ?[^" +
           space + R"(\p{L}\p{N}]+[\r\n]*|[)" + space + R"(]*[\r\n]+|)" + blanks;
  };
  static const PreTokenizer known[] = {
      {"smollm", {digit, gpt2}, false, false},
      {"gpt-2", {gpt2}, false, false},
      {"llama-bpe", {gpt4(R"(\p{N}{1,3})")}, true, true},
      {"qwen2", {gpt4(R"(\p{N})")}, false, false},
  };
  const auto found = std::ranges::find(known, name, &PreTokenizer::name);
  GQA_CHECK(found != std::end(known), gqa::format_error,
            "the pre-tokeniser " << name << " is not supported (smollm, gpt-2, llama-bpe and qwen2 are)");
  return *found;
}

/// GPT-2 spells byte b as the character b where that is printable, and as U+0100, U+0101, ... for the 68
/// other bytes in turn.
struct ByteSpelling {
  std::array<std::uint16_t, 256> character{};
  std::array<std::int16_t, 0x144> byte{};

  constexpr ByteSpelling() {
    byte.fill(-1);
    std::uint16_t next = 0x100;
    for (std::uint16_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      character[b] = printable ? b : next++;
      byte[character[b]] = static_cast<std::int16_t>(b);
    }
  }
};
constexpr ByteSpelling spelling;

/// A code point below U+0800 as UTF-8.
std::string utf8(std::uint16_t c) {
  if (c < 0x80) return {static_cast<char>(c)};
  return {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
}

std::uint64_t pair_key(TokenId left, TokenId right) {
  return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint64_t>(right);
}

}  // namespace

BytePairEncoder::BytePairEncoder(const Gguf& file, const Vocabulary& vocabulary) : vocabulary_(&vocabulary) {
  const PreTokenizer& rules = pre_tokenizer(file.text("tokenizer.ggml.pre"));
  GQA_CHECK(!file.boolean("tokenizer.ggml.add_space_prefix", false), gqa::format_error,
            "tokenizer.ggml.add_space_prefix is not supported for the tokeniser gpt2");
  for (const std::string& pattern : rules.cuts) cuts_.emplace_back(pattern);
  whole_words_first_ = rules.whole_words_first;
  adds_bos_ = rules.adds_bos;
  for (std::size_t b = 0; b < 256; ++b) {
    byte_tokens_[b] = vocabulary.find(utf8(spelling.character[b])).value_or(no_token);
  }

  const auto merges = file.texts("tokenizer.ggml.merges");
  merges_.reserve(merges.size());
  std::string joined;
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const std::size_t space = merges[i].find(' ', 1);
    GQA_CHECK(space != std::string_view::npos, gqa::format_error, "merge " << i << " is not two tokens");
    const auto left = merges[i].substr(0, space), right = merges[i].substr(space + 1);
    joined.assign(left).append(right);
    const auto left_id = vocabulary.find(left), right_id = vocabulary.find(right),
               result = vocabulary.find(joined);
    GQA_CHECK(left_id && right_id && result, gqa::format_error,
              "merge " << i << " names a token that is missing");
    merges_.emplace(pair_key(*left_id, *right_id), Rank{static_cast<std::int32_t>(i), *result});
  }
}

void BytePairEncoder::encode(std::string_view fragment, bool, std::vector<TokenId>& ids) const {
  std::vector<std::string_view> words{fragment};
  for (const Regex& cut : cuts_) {
    std::vector<std::string_view> pieces;
    for (const std::string_view word : words) {
      const auto parts = cut.split(word);
      pieces.insert(pieces.end(), parts.begin(), parts.end());
    }
    words = std::move(pieces);
  }
  for (const std::string_view word : words) encode_word(word, ids);
}

void BytePairEncoder::encode_word(std::string_view word, std::vector<TokenId>& ids) const {
  if (whole_words_first_) {
    std::string spelled;
    for (const char c : word) spelled += utf8(spelling.character[static_cast<unsigned char>(c)]);
    if (const auto id = vocabulary_->find(spelled)) {
      ids.push_back(*id);
      return;
    }
  }
  // Vocabularies may lack tokens for bytes that training never saw; such bytes are left out, as the original
  // implementation does.
  std::vector<Symbol> symbols;
  for (const char c : word) {
    const TokenId id = byte_tokens_[static_cast<unsigned char>(c)];
    if (id != no_token) symbols.push_back({id, {}});
  }
  symbols = merge_pairs(std::move(symbols),
                        [this](const Symbol& left, const Symbol& right) -> std::optional<Merge> {
                          const auto found = merges_.find(pair_key(left.id, right.id));
                          if (found == merges_.end()) return std::nullopt;
                          return Merge{static_cast<double>(found->second.rank), {found->second.result, {}}};
                        });
  for (const Symbol& symbol : symbols) ids.push_back(symbol.id);
}

std::string BytePairEncoder::bytes(TokenId id) const {
  std::string bytes;
  std::string_view text = vocabulary_->text(id);
  while (!text.empty()) {
    const Utf8Unit unit = next_utf8(text);
    // Characters past the spelling stand for themselves: such tokens were added by hand.
    unsigned c = static_cast<unsigned char>(text[0]);
    if (unit.length == 2) c = (c & 0x1F) << 6 | (static_cast<unsigned char>(text[1]) & 0x3F);
    if (unit.state == Utf8Unit::State::valid && unit.length <= 2 && c < spelling.byte.size() &&
        spelling.byte[c] >= 0) {
      bytes += static_cast<char>(spelling.byte[c]);
    } else {
      bytes += text.substr(0, unit.length);
    }
    text.remove_prefix(unit.length);
  }
  return bytes;
}

}  // namespace generate
