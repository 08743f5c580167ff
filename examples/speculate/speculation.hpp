// SPDX-License-Identifier: Apache-2.0
// Speculative decoding: several tokens a step, and still the text of greedy decoding to the last token.
#pragma once

#include <functional>
#include <span>
#include <string_view>

#include "generation.hpp"
#include "token_tree.hpp"

namespace speculate {

/// Guesses what comes after a text: a tree of at most `most` drafted tokens behind its last one. The `sure`
/// tokens are likely to come next and belong at the head of its trunk. Any guess gives the same text, good
/// ones in fewer steps.
using Draft =
    std::function<TokenTree(std::span<const TokenId> text, std::span<const TokenId> sure, Index most)>;

/// A text and what the steps to it were worth.
struct Speculation {
  generate::Generation generation;
  Index steps = 0;         ///< passes of the model after the prompt's
  Index drafted = 0;       ///< tokens fed beside the ones that were known
  Index accepted = 0;      ///< of those, the ones that were right and kept
  Index branch_steps = 0;  ///< steps in which another branch than the trunk was right

  double tokens_per_step() const;  ///< 1 without drafts; 0 when there was no step
  double accepted_share() const;   ///< of the drafted tokens; 0 of none
};

/// The likeliest continuation of a prompt, as generate::continue_prompt() gives it at temperature 0.
///
/// A step feeds the last known token and a tree of drafts behind it in one pass, each seeing its ancestors
/// alone. Along the trunk, the branch that lies in the cache where decoding would have put it, the scores are
/// those of decoding to the bit: each says what the next token is, and as long as that is the drafted one the
/// next score is valid too. Then the cache is truncated to what was right.
///
/// Where another branch was right, its tokens lie at other places of the cache than decoding's, and the sums
/// over them are rounded differently. Moving its keys and values to the right place would be cheap and the
/// text almost always the same. But it need not be: a near tie falls one way or the other, sooner where the
/// cache is of 16 bits. So what the branch foretells becomes the head of the next step's trunk, and is kept
/// when it is confirmed there. That costs no step (the next one is due anyway, and drafts beyond it) but some
/// rows more in its pass.
///
/// Throws as check_prompt() does.
Speculation speculate(generate::Session& session, const generate::Tokenizer& tokenizer,
                      std::span<const TokenId> prompt, const Draft& draft, Index context_length,
                      Index max_tokens, const std::function<void(std::string_view)>& sink = {},
                      const generate::Progress& progress = {}, const generate::Stop& stop = {});

}  // namespace speculate
