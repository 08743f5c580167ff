// SPDX-License-Identifier: Apache-2.0
// Text from a model in a GGUF file, by the library's attention and KV cache. Text goes to standard output,
// the report and errors to standard error; with --json everything is one object on standard output.
#include <chrono>
#include <cmath>
#include <iostream>
#include <optional>
#include <string>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "chat.hpp"
#include "chat_template.hpp"
#include "failure.hpp"
#include "generation.hpp"
#include "gguf.hpp"
#include "identity.hpp"
#include "interrupt.hpp"
#include "mapped_file.hpp"
#include "model.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "prompt.hpp"
#include "report.hpp"
#include "sampler.hpp"
#include "session.hpp"
#include "tokenizer.hpp"

namespace generate {
namespace {

std::vector<TokenId> read_tokens(const Options& options, const Gguf& file, const Tokenizer& tokenizer) {
  if (options.perplexity) {
    const MappedFile text(*options.perplexity);
    return tokenizer.encode({reinterpret_cast<const char*>(text.bytes().data()), text.bytes().size()});
  }
  if (options.converses()) return {};
  const std::string prompt = options.prompt_file ? read_prompt_file(*options.prompt_file, "--prompt-file")
                                                 : read_prompt(options.prompt);
  if (options.load)
    return tokenizer.encode_next(options.chat ? ChatTemplate(file).render_next(prompt) : prompt);
  return tokenizer.encode(options.chat ? ChatTemplate(file).render(prompt) : prompt);
}

/// Returns the exit code.
int print_perplexity(const Options& options, Session& session, std::span<const TokenId> tokens,
                     const Hyperparameters& sizes) {
  common::ProgressLine line;
  const Likelihood likelihood = measure(
      session, tokens, sizes.context_length, [&](double done) { line.show("reading the text", done); },
      interrupted);
  line.clear();
  const double perplexity = std::exp(likelihood.mean_negative_log);
  if (options.json) {
    nlohmann::ordered_json object{{"mean_negative_log_likelihood", likelihood.mean_negative_log},
                                  {"perplexity", perplexity},
                                  {"tokens", likelihood.num_tokens}};
    if (likelihood.interrupted) object["stop"] = "interrupt";
    std::cout << object.dump() << "\n";
  } else {
    std::cout << "mean negative log-likelihood " << likelihood.mean_negative_log
              << " nats per token (perplexity " << perplexity << ", " << likelihood.num_tokens
              << (likelihood.interrupted ? " tokens, then interrupted)\n" : " tokens)\n");
  }
  return likelihood.interrupted ? interrupt_exit_code : 0;
}

/// Returns the exit code.
int print_chat(const Options& options, Session& session, const Tokenizer& tokenizer,
               const ChatTemplate& chat_template, const Hyperparameters& sizes, std::string_view label,
               Report report) {
  const ChatTotals totals = chat(options, session, tokenizer, chat_template, sizes, label);
  report.prompt_tokens = totals.prompt_tokens;
  report.output_tokens = totals.output_tokens;
  report.prompt_seconds = totals.prompt_seconds;
  report.prompt_rate = totals.prompt_rate();
  report.generation_seconds = totals.generation_seconds;
  report.generation_rate = totals.generation_rate();
  report.stop = totals.stop;
  report.note(session, sizes);
  if (options.json) {
    nlohmann::ordered_json object{{"turns", totals.turns}};
    object.update(report.json(sizes));
    std::cout << object.dump() << "\n";
  } else {
    std::cerr << "\n" << report.text(sizes);
  }
  return totals.stop == "interrupt" ? interrupt_exit_code : totals.refused ? 2 : 0;
}

/// Returns the exit code.
int run(const Options& options) {
  common::ProgressLine line;
  const auto start = std::chrono::steady_clock::now();
  const MappedFile bytes(options.model);
  const Gguf file(bytes.bytes(), check_metadata);
  // The cheap checks come first: a mistake is reported before the weights are read.
  const Hyperparameters sizes = read_hyperparameters(file);
  const Tokenizer tokenizer(file);
  GQA_CHECK(tokenizer.vocabulary_size() == sizes.vocabulary_size, gqa::format_error,
            "token_embd.weight has " << sizes.vocabulary_size << " rows for " << tokenizer.vocabulary_size()
                                     << " tokens");
  const std::vector<TokenId> tokens = read_tokens(options, file, tokenizer);
  std::optional<ChatTemplate> chat_template;
  if (options.converses())
    chat_template.emplace(file);
  else if (!options.perplexity)
    check_prompt(tokens, sizes.context_length);

  Eigen::ThreadPool pool(static_cast<int>(options.num_threads));
  const gqa::PoolExecutor executor(pool);
  const Model model(file, executor,
                    {.weights = options.weights,
                     .progress = [&](double done) { line.show("loading weights", done); },
                     .done_with = [&](std::span<const std::byte> piece) { bytes.forget(piece); }});
  const auto session = make_session(model, options.cache_type, executor, {}, options.cache_kind);
  const double load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  line.clear();
  const std::string label = options.load || options.save ? identity(file, bytes.bytes()) : "";
  if (options.load) {
    try {
      session->load(*options.load, label);
    } catch (const gqa::format_error& error) {  // not the model's file
      throw std::invalid_argument(error.what());
    }
    check_prompt_after(session->size(), tokens, sizes.context_length);
  }

  catch_interrupt();
  if (options.perplexity) return print_perplexity(options, *session, tokens, sizes);
  Report report{.num_threads = options.num_threads,
                .load_seconds = load_seconds,
                .num_weights = model.num_weights,
                .weight_bytes = model.bytes,
                .weight_types = model.weight_types,
                .cache_type = options.cache_type,
                .cache_kind = options.cache_kind};
  if (options.converses())
    return print_chat(options, *session, tokenizer, *chat_template, sizes, label, report);

  Sampler sampler(options.temperature, options.top_k, static_cast<std::uint64_t>(options.seed));
  const auto stream = [&](std::string_view text) {
    line.clear();
    if (!options.json) std::cout << text << std::flush;
  };
  const Generation result = continue_prompt(
      *session, tokenizer, tokens, sampler, sizes.context_length, options.max_tokens, stream,
      [&](double done) { line.show("reading the prompt", done); }, interrupted);
  line.clear();
  if (options.save) {
    // How an answer ends is spelled by what follows it: the next turn, or the text that goes on.
    std::span<const TokenId> unfed = result.output_ids;
    unfed = unfed.empty() || tokenizer.ends_text(unfed.back()) ? unfed.first(0) : unfed.last(1);
    save_all(*session, unfed, sizes.context_length, *options.save, label);
  }
  report.prompt_tokens = result.prompt_tokens;
  report.output_tokens = result.output_ids.size();
  report.prompt_seconds = result.prompt_seconds;
  report.prompt_rate = result.prompt_rate();
  report.generation_seconds = result.generation_seconds;
  report.generation_rate = result.generation_rate();
  report.stop = result.stop;
  report.note(*session, sizes);
  if (options.json) {
    nlohmann::ordered_json object{
        {"prompt_ids", tokens}, {"output_ids", result.output_ids}, {"text", result.text}};
    object.update(report.json(sizes));
    std::cout << object.dump() << "\n";
  } else {
    std::cout << std::endl;
    std::cerr << "\n" << report.text(sizes);
  }
  return result.stop == "interrupt" ? interrupt_exit_code : 0;
}

}  // namespace
}  // namespace generate

/// 0: done; 130: stopped by Ctrl-C; 2: the arguments, the prompt or the file are wrong; 1: anything else.
int main(int argc, char** argv) {
  return common::exit_code_of("generate", [&](std::string& model) {
    const auto options = generate::parse_options(argc, argv);
    if (!options) return 0;
    model = options->model.string();
    return generate::run(*options);
  });
}
