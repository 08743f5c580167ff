// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "conversation.hpp"
#include "generation.hpp"
#include "hyperparameters.hpp"
#include "options.hpp"

namespace generate {

/// What the turns of a chat took together.
struct ChatTotals {
  std::size_t turns = 0;  ///< answered
  std::size_t prompt_tokens = 0, output_tokens = 0;
  double prompt_seconds = 0, generation_seconds = 0;
  std::string_view stop = "end";  ///< of the input, or "interrupt"
  bool refused = false;           ///< some line was not answered

  double prompt_rate() const;
  double generation_rate() const;
};

/// Answers the lines of standard input, each in view of those before it: their keys and values stay in the
/// session, and only what is new is fed. Empty lines are passed over; `/reset` forgets what was said. A line
/// that cannot be answered, because the context has no room for it or it is no text, is said on standard
/// error and forgotten. Answers go to standard output, with options.json one object a line. With options.save
/// the cache is saved in the end, under the model's label.
ChatTotals chat(const Options& options, Session& session, const Tokenizer& tokenizer,
                const ChatTemplate& chat_template, const Hyperparameters& sizes, std::string_view label = {});

}  // namespace generate
