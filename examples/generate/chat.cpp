// SPDX-License-Identifier: Apache-2.0
#include "chat.hpp"

#include <unistd.h>

#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "failure.hpp"
#include "interrupt.hpp"
#include "line_reader.hpp"
#include "progress.hpp"
#include "sampler.hpp"

namespace generate {
namespace {

/// What to feed for a message. Throws std::invalid_argument for one that cannot be answered.
std::vector<TokenId> tokens_of(const Conversation& conversation, std::string_view message, Index size,
                               Index context_length) {
  auto tokens = conversation.turn(message);
  GQA_CHECK(std::ssize(tokens) <= context_length - size, std::invalid_argument,
            "the context is full: this turn has " << tokens.size() << " tokens, the conversation before it "
                                                  << size << ", the model's context " << context_length
                                                  << (size > 0 ? "; /reset forgets the conversation" : ""));
  return tokens;
}

}  // namespace

double ChatTotals::prompt_rate() const {
  return prompt_seconds > 0 ? static_cast<double>(prompt_tokens) / prompt_seconds : 0;
}

double ChatTotals::generation_rate() const {
  return generation_seconds > 0 ? static_cast<double>(output_tokens - turns) / generation_seconds : 0;
}

ChatTotals chat(const Options& options, Session& session, const Tokenizer& tokenizer,
                const ChatTemplate& chat_template, const Hyperparameters& sizes, std::string_view label) {
  const bool terminal = ::isatty(STDIN_FILENO) == 1;
  ChatTotals totals;
  LineReader lines;
  Conversation conversation(chat_template, tokenizer, session.size() > 0);
  Sampler sampler(options.temperature, options.top_k, static_cast<std::uint64_t>(options.seed));
  while (true) {
    if (terminal) std::cerr << "> " << std::flush;
    const auto message = lines.next(interrupted);
    if (!message) break;
    if (message->empty()) continue;
    if (*message == "/reset") {
      session.clear();
      conversation.reset();
      continue;
    }
    std::vector<TokenId> tokens;
    try {
      tokens = tokens_of(conversation, *message, session.size(), sizes.context_length);
    } catch (const std::invalid_argument& error) {
      common::fail("generate", 2, error.what());
      totals.refused = true;
      continue;
    }

    common::ProgressLine line;
    const auto stream = [&](std::string_view text) {
      line.clear();
      if (!options.json) std::cout << text << std::flush;
    };
    const Generation answer = continue_prompt(
        session, tokenizer, tokens, sampler, sizes.context_length, options.max_tokens, stream,
        [&](double done) { line.show("reading the message", done); }, interrupted);
    line.clear();
    conversation.answered(answer.output_ids);
    totals.turns += answer.output_ids.empty() ? 0 : 1;
    totals.prompt_tokens += answer.prompt_tokens;
    totals.output_tokens += answer.output_ids.size();
    totals.prompt_seconds += answer.prompt_seconds;
    totals.generation_seconds += answer.generation_seconds;
    if (options.json)
      std::cout << nlohmann::ordered_json{{"prompt_ids", tokens},
                                          {"output_ids", answer.output_ids},
                                          {"text", answer.text},
                                          {"stop", answer.stop},
                                          {"conversation_tokens", session.size()}}
                       .dump();
    std::cout << std::endl;
    if (answer.stop == "context")
      common::fail("generate", 0,
                   "the context of " + std::to_string(sizes.context_length) +
                       " tokens is full; /reset forgets the conversation");
    if (!std::cout || answer.stop == "interrupt") break;
  }
  if (options.save) save_all(session, conversation.unfed(), sizes.context_length, *options.save, label);
  if (interrupted()) totals.stop = "interrupt";
  return totals;
}

}  // namespace generate
