// SPDX-License-Identifier: Apache-2.0
// Text from a model in a GGUF file, by the library's attention and KV cache. Text goes to standard output,
// the report and errors to standard error; with --json everything is one object on standard output.
#include <chrono>
#include <cmath>
#include <exception>
#include <iostream>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "chat_template.hpp"
#include "failure.hpp"
#include "generation.hpp"
#include "gguf.hpp"
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
  const std::string prompt = read_prompt(options.prompt);
  return tokenizer.encode(options.chat ? ChatTemplate(file).render(prompt) : prompt);
}

/// Returns the exit code.
int print_perplexity(const Options& options, Session& session, std::span<const TokenId> tokens,
                     const Hyperparameters& sizes) {
  ProgressLine line;
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
int run(const Options& options) {
  ProgressLine line;
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
  if (!options.perplexity) check_prompt(tokens, sizes.context_length);

  Eigen::ThreadPool pool(static_cast<int>(options.num_threads));
  const gqa::PoolExecutor executor(pool);
  const Model model(file, executor, [&](double done) { line.show("loading weights", done); });
  const auto session = make_session(model, options.cache_type, executor);
  const double load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  line.clear();

  catch_interrupt();
  if (options.perplexity) return print_perplexity(options, *session, tokens, sizes);

  Sampler sampler(options.temperature, options.top_k, static_cast<std::uint64_t>(options.seed));
  const auto stream = [&](std::string_view text) {
    line.clear();
    if (!options.json) std::cout << text << std::flush;
  };
  const Generation result = continue_prompt(
      *session, tokenizer, tokens, sampler, sizes.context_length, options.max_tokens, stream,
      [&](double done) { line.show("reading the prompt", done); }, interrupted);
  line.clear();
  const double seconds = result.prompt_seconds + result.generation_seconds;
  const Report report{.num_threads = options.num_threads,
                      .load_seconds = load_seconds,
                      .num_weights = model.num_weights,
                      .weight_bytes = model.bytes(),
                      .prompt_tokens = result.prompt_tokens,
                      .output_tokens = result.output_ids.size(),
                      .prompt_seconds = result.prompt_seconds,
                      .prompt_rate = result.prompt_rate(),
                      .generation_seconds = result.generation_seconds,
                      .generation_rate = result.generation_rate(),
                      .attention_share = seconds > 0 ? session->attention_seconds() / seconds : 0,
                      .stop = result.stop,
                      .cache_type = options.cache_type,
                      .now = cache_sizes(sizes, options.cache_type, session->size()),
                      .full = cache_sizes(sizes, options.cache_type, sizes.context_length)};
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
  return generate::exit_code_of("generate", [&](std::string& model) {
    const auto options = generate::parse_options(argc, argv);
    if (!options) return 0;
    model = options->model.string();
    return generate::run(*options);
  });
}
