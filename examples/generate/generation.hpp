// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "continuation.hpp"
#include "sampler.hpp"
#include "session.hpp"
#include "tokenizer.hpp"

namespace generate {

/// The continuation of a prompt and how long it took.
struct Generation {
  std::vector<TokenId> output_ids;  ///< the token that ended the text included
  std::string text;                 ///< valid UTF-8
  std::string_view stop;            ///< why: the "end" of the text, "max-tokens", "context" or "interrupt"
  std::size_t prompt_tokens = 0;    ///< read; all of the prompt's unless interrupted
  double prompt_seconds = 0;        ///< up to the scores of the first new token
  double generation_seconds = 0;    ///< of all new tokens after the first

  double prompt_rate() const;      ///< tokens/s
  double generation_rate() const;  ///< tokens/s; 0 when there is at most one token
};

/// Asked between the steps of long work: whether to leave it as it is.
using Stop = std::function<bool()>;

/// Throws std::invalid_argument for a prompt that is empty or longer than the context.
void check_prompt(std::span<const TokenId> prompt, Index context_length);

/// The same for a prompt that follows `size` tokens.
void check_prompt_after(Index size, std::span<const TokenId> prompt, Index context_length);

/// Continues a prompt until the model ends the text, `max_tokens` are there, its context is full or `stop`
/// says so. `sink` gets the text as it is produced, in whole code points. Throws as check_prompt() does.
Generation continue_prompt(Session& session, const Tokenizer& tokenizer, std::span<const TokenId> prompt,
                           Sampler& sampler, Index context_length, Index max_tokens,
                           const std::function<void(std::string_view)>& sink = {},
                           const Progress& progress = {}, const Stop& stop = {});

/// Saves a session's cache when it holds also `unfed`, the tokens of its text that it was not fed yet (unless
/// the context is full). Throws as Session::save does.
void save_all(Session& session, std::span<const TokenId> unfed, Index context_length,
              const std::filesystem::path& path, std::string_view label);

/// The mean of -ln p(token | those before it) over a text, and of how many tokens.
struct Likelihood {
  double mean_negative_log = 0;  ///< NaN of none
  Index num_tokens = 0;
  bool interrupted = false;  ///< `stop` said so: the rest of the text was left out
};

/// Texts longer than the context are cut into pieces of that length that do not see each other; the first
/// token of a piece is not counted. Throws std::invalid_argument when no token is left to count.
Likelihood measure(Session& session, std::span<const TokenId> tokens, Index context_length,
                   const Progress& progress = {}, const Stop& stop = {});

}  // namespace generate
