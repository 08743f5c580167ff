// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "token_tree.hpp"

namespace speculate {

/// Drafts what comes next from the text itself (prompt lookup, Saxena 2023): where its last tokens have been
/// before, what followed them may follow again. Good where an answer quotes: summaries, edits, code, lists.
struct PromptLookup {
  Index ngram = 4;     ///< last tokens that must have been there; fewer find more that is wrong
  Index draft = 8;     ///< most tokens drafted
  Index branches = 2;  ///< most different continuations

  /// What followed the last tokens of the text where they have been before, each of `length` tokens and all
  /// different, the latest first. A continuation that reaches the end of the text goes on with its own
  /// beginning, as a repetition does.
  std::vector<std::vector<TokenId>> continuations(std::span<const TokenId> text, Index length) const;

  /// The last token of the text and what may come after it: the `sure` tokens, which are likely, and then
  /// what was found after them. At most `most` tokens are drafted.
  TokenTree operator()(std::span<const TokenId> text, std::span<const TokenId> sure, Index most) const;
};

}  // namespace speculate
