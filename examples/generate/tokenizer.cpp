// SPDX-License-Identifier: Apache-2.0
#include "tokenizer.hpp"

#include <algorithm>
#include <stdexcept>

#include "byte_pair.hpp"
#include "gqa/core/error.hpp"
#include "merge.hpp"
#include "sentence_piece.hpp"
#include "utf8.hpp"

namespace generate {
namespace {

std::unique_ptr<FragmentEncoder> make_encoder(const Gguf& file, const Vocabulary& vocabulary) {
  const std::string_view model = file.text("tokenizer.ggml.model");
  if (model == "gpt2") return std::make_unique<BytePairEncoder>(file, vocabulary);
  if (model == "llama") return std::make_unique<SentencePieceEncoder>(file, vocabulary);
  throw gqa::format_error("the tokeniser " + std::string(model) + " is not supported (gpt2 and llama are)");
}

TokenId token_key(const Gguf& file, std::string_view key, const Vocabulary& vocabulary) {
  const Index id = file.integer(key, no_token);
  GQA_CHECK(id >= no_token && id < vocabulary.size(), gqa::format_error,
            "key " << key << " is " << id << "; there are " << vocabulary.size() << " tokens");
  return static_cast<TokenId>(id);
}

}  // namespace

Tokenizer::Tokenizer(const Gguf& file)
    : vocabulary_(file), encoder_(make_encoder(file, vocabulary_)), bos_(no_token) {
  for (TokenId id = 0; id < vocabulary_.size(); ++id) {
    const bool special =
        vocabulary_.kind(id) == TokenKind::control || vocabulary_.kind(id) == TokenKind::user_defined;
    if (!special || vocabulary_.text(id).empty()) continue;
    // Texts are cut at these: a piece of a code point would cut one in two.
    GQA_CHECK(find_invalid_utf8(vocabulary_.text(id)) == std::string_view::npos, gqa::format_error,
              "the text of the special token " << id << " is not valid UTF-8");
    specials_[vocabulary_.text(id)[0]].push_back(id);
  }
  for (auto& [first, ids] : specials_) {
    std::ranges::sort(ids, std::ranges::greater{},
                      [this](TokenId id) { return vocabulary_.text(id).size(); });
  }

  // Chat models end a turn with a token of its own, which not every file declares.
  end_tokens_ = {token_key(file, "tokenizer.ggml.eos_token_id", vocabulary_),
                 token_key(file, "tokenizer.ggml.eot_token_id", vocabulary_)};
  for (const char* text : {"<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>"}) {
    const auto id = vocabulary_.find(text);
    if (id && vocabulary_.kind(*id) == TokenKind::control) end_tokens_.push_back(*id);
  }

  const TokenId bos = token_key(file, "tokenizer.ggml.bos_token_id", vocabulary_);
  if (file.boolean("tokenizer.ggml.add_bos_token", encoder_->adds_bos())) bos_ = bos;
}

TokenId Tokenizer::special_at(std::string_view text) const {
  const auto found = specials_.find(text[0]);
  if (found == specials_.end()) return no_token;
  for (const TokenId id : found->second) {
    if (text.starts_with(vocabulary_.text(id))) return id;
  }
  return no_token;
}

std::vector<TokenId> Tokenizer::encode(std::string_view text) const {
  const std::size_t invalid = find_invalid_utf8(text);
  GQA_CHECK(invalid == std::string_view::npos, std::invalid_argument,
            "the text is not valid UTF-8 at byte " << invalid);
  std::vector<TokenId> ids;
  bool at_start = true;
  const auto encode_fragment = [&](std::string_view fragment) {
    if (fragment.empty()) return;
    encoder_->encode(fragment, at_start, ids);
    at_start = false;
  };
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const TokenId special = special_at(text.substr(at));
    if (special == no_token) {
      ++at;
      continue;
    }
    encode_fragment(text.substr(begin, at - begin));
    ids.push_back(special);
    at_start = true;
    at += vocabulary_.text(special).size();
    begin = at;
  }
  encode_fragment(text.substr(begin));
  // A chat template may spell the token itself; once is enough.
  if (bos_ != no_token && (ids.empty() || ids.front() != bos_)) ids.insert(ids.begin(), bos_);
  return ids;
}

std::string Tokenizer::bytes(TokenId id) const {
  switch (vocabulary_.kind(id)) {
    case TokenKind::control:
    case TokenKind::unknown:
    case TokenKind::unused:
      return {};
    case TokenKind::user_defined:
      return std::string(vocabulary_.text(id));
    default:
      return encoder_->bytes(id);
  }
}

bool Tokenizer::ends_text(TokenId id) const {
  return std::ranges::find(end_tokens_, id) != end_tokens_.end();
}

}  // namespace generate
