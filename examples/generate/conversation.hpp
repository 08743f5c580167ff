// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "chat_template.hpp"
#include "tokenizer.hpp"

namespace generate {

/// What to feed for each turn of a conversation whose earlier turns are in the cache: only what is new. It is
/// what the whole conversation would be, but for answers whose text has other tokens than the model chose:
/// those stay as they were chosen.
class Conversation {
 public:
  /// Both must outlive it. `begun`: earlier turns are in the cache already.
  Conversation(const ChatTemplate& chat, const Tokenizer& tokenizer, bool begun = false)
      : chat_(chat), tokenizer_(tokenizer), first_(!begun) {}

  /// The tokens that come next for a message to be answered; nothing changes until it is. Throws
  /// std::invalid_argument when it is not UTF-8.
  std::vector<TokenId> turn(std::string_view message) const {
    if (first_) return tokenizer_.encode(chat_.render(message));
    std::vector<TokenId> ids = unfed_;
    const auto next = tokenizer_.encode_next(chat_.render_next(message));
    ids.insert(ids.end(), next.begin(), next.end());
    return ids;
  }

  /// What is to be fed for the cache to hold all of the last answer that turn() does not spell.
  std::span<const TokenId> unfed() const { return unfed_; }

  /// The answer to the last turn, all but its last token fed. The template spells how answers end, whatever
  /// token the model chose for it, and an answer that was cut short ends so too.
  void answered(std::span<const TokenId> answer) {
    first_ = false;
    unfed_.clear();
    if (!answer.empty() && !tokenizer_.ends_text(answer.back())) unfed_.push_back(answer.back());
  }

  void reset() {
    first_ = true;
    unfed_.clear();
  }

 private:
  const ChatTemplate& chat_;
  const Tokenizer& tokenizer_;
  bool first_;
  std::vector<TokenId> unfed_;  // of the last answer
};

}  // namespace generate
