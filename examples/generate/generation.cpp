// SPDX-License-Identifier: Apache-2.0
#include "generation.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>

#include "gqa/core/error.hpp"
#include "log_sum_exp.hpp"

namespace generate {
namespace {

/// Tokens that go through the model at once: enough to make matrix products efficient, few enough that the
/// buffers stay small beside the weights.
constexpr Index prompt_chunk = 256;
/// A row of scores for each: 64 x 49,152 x 4 bytes are 12.6 MB.
constexpr Index measured_chunk = 64;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Calls task(tokens of the chunk, index of its first) for each chunk in turn, until `stop`: false then.
template <class Task>
bool each_chunk(std::span<const TokenId> tokens, Index size, const Stop& stop, Task task) {
  for (Index first = 0; first < std::ssize(tokens); first += size) {
    if (stop && stop()) return false;
    task(tokens.subspan(static_cast<std::size_t>(first),
                        static_cast<std::size_t>(std::min(size, std::ssize(tokens) - first))),
         first);
  }
  return true;
}

/// -ln softmax(scores)[token]
double negative_log(const Eigen::Ref<const Vector>& scores, TokenId token) {
  return log_sum_exp(scores) - static_cast<double>(scores[token]);
}

}  // namespace

double Generation::prompt_rate() const {
  return prompt_seconds > 0 ? static_cast<double>(prompt_tokens) / prompt_seconds : 0;
}

double Generation::generation_rate() const {
  return generation_seconds > 0 ? static_cast<double>(output_ids.size() - 1) / generation_seconds : 0;
}

void check_prompt(std::span<const TokenId> prompt, Index context_length) {
  GQA_CHECK(!prompt.empty(), std::invalid_argument, "the prompt has no tokens");
  GQA_CHECK(std::ssize(prompt) <= context_length, std::invalid_argument,
            "the prompt has " << prompt.size() << " tokens, the model's context " << context_length);
}

void check_prompt_after(Index size, std::span<const TokenId> prompt, Index context_length) {
  GQA_CHECK(std::ssize(prompt) <= context_length - size, std::invalid_argument,
            "the prompt has " << prompt.size() << " tokens, the cache " << size << ", the model's context "
                              << context_length);
}

Generation continue_prompt(Session& session, const Tokenizer& tokenizer, std::span<const TokenId> prompt,
                           Sampler& sampler, Index context_length, Index max_tokens,
                           const std::function<void(std::string_view)>& sink, const Progress& progress,
                           const Stop& stop) {
  check_prompt(prompt, context_length);
  Generation result;
  Continuation continuation(tokenizer, context_length, max_tokens);
  const auto emit = [&](const std::string& text) {
    if (sink && !text.empty()) sink(text);
  };

  auto start = std::chrono::steady_clock::now();
  const bool whole = each_chunk(prompt, prompt_chunk, stop, [&](std::span<const TokenId> chunk, Index first) {
    if (progress) progress(static_cast<double>(first) / static_cast<double>(prompt.size()));
    session.append(chunk);
    result.prompt_tokens += chunk.size();
  });
  if (!whole) {
    result.stop = "interrupt";
    result.prompt_seconds = seconds_since(start);
    return result;
  }
  std::span<const float> logits = session.logits();
  result.prompt_seconds = seconds_since(start);

  start = std::chrono::steady_clock::now();
  while (true) {
    emit(continuation.push(sampler(logits), session.size()));
    if (continuation.goes_on() && stop && stop()) emit(continuation.end("interrupt"));
    if (!continuation.goes_on()) break;
    session.append({&continuation.ids().back(), 1});
    logits = session.logits();
  }
  result.output_ids = continuation.ids();
  result.text = continuation.text();
  result.stop = continuation.stop();
  result.generation_seconds = result.output_ids.size() > 1 ? seconds_since(start) : 0;
  return result;
}

void save_all(Session& session, std::span<const TokenId> unfed, Index context_length,
              const std::filesystem::path& path, std::string_view label) {
  if (!unfed.empty() && session.size() + std::ssize(unfed) <= context_length) session.append(unfed);
  session.save(path, label);
}

Likelihood measure(Session& session, std::span<const TokenId> tokens, Index context_length,
                   const Progress& progress, const Stop& stop) {
  Likelihood result;
  double sum = 0;
  const auto measure_piece = [&](std::span<const TokenId> piece, Index piece_first) {
    session.clear();
    return each_chunk(piece, measured_chunk, stop, [&](std::span<const TokenId> chunk, Index first) {
      if (progress) progress(static_cast<double>(piece_first + first) / static_cast<double>(tokens.size()));
      session.append(chunk);
      const Matrix& logits = session.all_logits();
      for (Index t = 0; t < logits.rows() && first + t + 1 < std::ssize(piece); ++t) {
        sum += negative_log(logits.row(t), piece[static_cast<std::size_t>(first + t + 1)]);
        ++result.num_tokens;
      }
    });
  };
  each_chunk(tokens, context_length, {}, [&](std::span<const TokenId> piece, Index first) {
    if (!result.interrupted) result.interrupted = !measure_piece(piece, first);
  });
  GQA_CHECK(result.num_tokens > 0 || result.interrupted, std::invalid_argument,
            "the text has " << tokens.size() << " tokens; at least two in one context are needed");
  result.mean_negative_log = sum / static_cast<double>(result.num_tokens);
  return result;
}

}  // namespace generate
