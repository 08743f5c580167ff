// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "batch.hpp"
#include "tokenizer.hpp"

namespace beam {

using generate::TokenId;
using gqa::Index;

struct Settings {
  Index beams = 4;
  Index max_tokens = 64;
  double length_penalty = 1;  ///< the power of a text's length that its logarithm is divided by; 0: none
};

/// A continuation of the prompt.
struct Hypothesis {
  std::vector<TokenId> ids;  ///< the token that ended the text included
  double log_probability = 0;
  double score = 0;       ///< log_probability / tokens^length_penalty
  std::string_view stop;  ///< the "end" of the text, "max-tokens", "context" or "interrupt"
};

struct Result {
  std::vector<Hypothesis> best;  ///< at most as many as beams, the best first
  Index steps = 0;
  bool interrupted = false;
  Index most_used = 0;   ///< pages
  Index taken_over = 0;  ///< pages of tokens that beams took over from others, all steps together
  Index copied = 0;      ///< those that were copied for it: what two beams write to
};

/// Pages that a search can come to need: each beam's own ones behind the prompt.
Index pages_needed(Index prompt_tokens, Index context_length, const Settings& settings);

/// Beam search: with each step all unfinished texts, at first the prompt, are continued by every token, and
/// of that the likeliest are kept until there are as many unfinished ones as beams; those among them that end
/// the text are results. Of equals those of the earlier beam come first, then those of the lower token. The
/// results with the best scores are returned, as many as beams; the search is over when no unfinished text
/// can be among them any more.
///
/// Each beam is a sequence of the batch's cache; with a step they go on as their parents are (reorder), and
/// no token's keys and values are copied but those of a last page that two write to. They are freed at the
/// end, also of an exception. Throws as check_prompt() does, and std::length_error where pages run out.
template <gqa::Scalar T>
Result search(generate::Batch<T>& batch, const generate::Tokenizer& tokenizer, Index context_length,
              std::span<const TokenId> prompt, const Settings& settings,
              const generate::Progress& progress = {}, const std::function<bool()>& stop = {});

}  // namespace beam
