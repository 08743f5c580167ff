// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tokenizer.hpp"
#include "utf8.hpp"

namespace generate {

/// The text that goes on behind a prompt, while its tokens are chosen one after the other: what they spell,
/// and whether it is over.
class Continuation {
 public:
  /// The tokenizer must outlive it.
  Continuation(const Tokenizer& tokenizer, Index context_length, Index max_tokens)
      : tokenizer_(&tokenizer), context_length_(context_length), max_tokens_(max_tokens) {}

  /// Adds the token chosen after `fed` tokens went through the model. Returns what it adds to the text, in
  /// whole code points.
  std::string push(TokenId token, Index fed) {
    ids_.push_back(token);
    std::string added = utf8_.push(tokenizer_->bytes(token));
    text_ += added;
    if (tokenizer_->ends_text(token))
      added += end("end");
    else if (std::ssize(ids_) >= max_tokens_)
      added += end("max-tokens");
    else if (fed >= context_length_)
      added += end("context");
    return added;
  }

  /// Ends it, and says why. Returns what it adds to the text.
  std::string end(std::string_view why) {
    stop_ = why;
    std::string added = utf8_.finish();
    text_ += added;
    return added;
  }

  bool goes_on() const { return stop_.empty(); }
  const std::vector<TokenId>& ids() const { return ids_; }  ///< the token that ended the text included
  const std::string& text() const { return text_; }         ///< valid UTF-8
  /// Why it is over: the "end" of the text, "max-tokens", "context" or what end() was told.
  std::string_view stop() const { return stop_; }

 private:
  const Tokenizer* tokenizer_;
  Index context_length_, max_tokens_;
  std::vector<TokenId> ids_;
  std::string text_;
  std::string_view stop_;
  Utf8Stream utf8_;
};

}  // namespace generate
