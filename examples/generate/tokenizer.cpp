// SPDX-License-Identifier: Apache-2.0
#include "tokenizer.hpp"

#include <algorithm>
#include <stdexcept>

#include "byte_pair.hpp"
#include "gqa/core/error.hpp"
#include "known_keys.hpp"
#include "merge.hpp"
#include "sentence_piece.hpp"
#include "utf8.hpp"

namespace generate {
namespace {

using enum KnownKey::Use;

/// The tokeniser's keys that llama.cpp writes or reads and this program can honour.
constexpr KnownKey known_keys[] = {
    // clang-format off
    {"add_bos_token",            acts},
    {"add_eos_token",            only, 0},  // a prompt that ends cannot be continued
    {"add_sep_token",            only, 0},
    {"add_space_prefix",         acts},
    {"added_tokens",             describes},
    {"bos_token_id",             acts},
    {"cls_token_id",             describes},
    {"eom_token_id",             acts},
    {"eos_token_id",             acts},
    {"eot_token_id",             acts},
    {"fim_mid_token_id",         describes},
    {"fim_pad_token_id",         acts},
    {"fim_pre_token_id",         describes},
    {"fim_rep_token_id",         acts},
    {"fim_sep_token_id",         acts},
    {"fim_suf_token_id",         describes},
    {"mask_token_id",            describes},
    {"merges",                   acts},
    {"middle_token_id",          describes},
    {"model",                    acts},
    {"padding_token_id",         describes},
    {"pre",                      acts},
    {"prefix_token_id",          describes},
    {"remove_extra_whitespaces", only, 0},
    {"scores",                   acts},
    {"seperator_token_id",       describes},  // so spelled
    {"suffix_token_id",          describes},
    {"token_type",               acts},
    {"tokens",                   acts},
    {"unknown_token_id",         describes},
    // clang-format on
};

/// The tokens that say that a text, a turn, a message or a file is over.
constexpr const char* end_keys[] = {"eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"};

std::unique_ptr<FragmentEncoder> make_encoder(const Gguf& file, const Vocabulary& vocabulary) {
  check_keys(file, "tokenizer.ggml.", "tokeniser's key", known_keys);
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
  for (const char* name : end_keys) {
    end_tokens_.push_back(token_key(file, "tokenizer.ggml." + std::string(name) + "_token_id", vocabulary_));
  }
  for (const char* text : {"<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>"}) {
    const auto id = vocabulary_.find(text);
    if (id && vocabulary_.kind(*id) == TokenKind::control) end_tokens_.push_back(*id);
  }

  const TokenId bos = token_key(file, "tokenizer.ggml.bos_token_id", vocabulary_);
  GQA_CHECK(bos != no_token || !file.boolean("tokenizer.ggml.add_bos_token", false), gqa::format_error,
            "key tokenizer.ggml.bos_token_id is missing, which tokenizer.ggml.add_bos_token needs");
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

std::vector<TokenId> Tokenizer::encode_next(std::string_view text) const {
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
  return ids;
}

std::vector<TokenId> Tokenizer::encode(std::string_view text) const {
  std::vector<TokenId> ids = encode_next(text);
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
