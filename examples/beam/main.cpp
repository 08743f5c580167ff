// SPDX-License-Identifier: Apache-2.0
// The likeliest continuations of a prompt, by beam search. They go to standard output, the report to standard
// error; with --json everything is one object on standard output.
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "beam_search.hpp"
#include "chat_template.hpp"
#include "failure.hpp"
#include "generation.hpp"
#include "interrupt.hpp"
#include "loaded_model.hpp"
#include "model_options.hpp"
#include "progress.hpp"
#include "prompt.hpp"

namespace beam {
namespace {

struct Options {
  generate::ModelOptions common;
  std::string prompt;
  Settings settings;
  Index show = 1;
};

std::optional<Options> parse_options(int argc, const char* const* argv) {
  Options options;
  Settings& settings = options.settings;
  CLI::App app("Finds the likeliest continuations of a prompt: beam search over a paged KV cache.", "beam");
  options.common.add_to(app);
  app.add_option("--prompt", options.prompt,
                 "text to continue, or with --chat to answer; - reads standard input")
      ->required();
  app.add_option("--beams", settings.beams, "texts that are followed at once")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  app.add_option(
         "--length-penalty", settings.length_penalty,
         "P: a text's score is its logarithm of the probability, divided by its tokens to the power P")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--show", options.show, "texts to print, the best first")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  if (!common::parse(app, argc, argv)) return std::nullopt;
  settings.max_tokens = options.common.max_tokens;
  GQA_CHECK(!std::isnan(settings.length_penalty), std::invalid_argument, "--length-penalty is nan");
  GQA_CHECK(options.show <= settings.beams, std::invalid_argument,
            "--show is " << options.show << ", expected at most the " << settings.beams << " of --beams");
  GQA_CHECK(!options.prompt.empty(), std::invalid_argument, "--prompt is empty");
  GQA_CHECK(options.prompt != "-" || !generate::is_standard_input(options.common.model),
            std::invalid_argument, "--prompt and --model both read standard input");
  return options;
}

std::string text_of(const Hypothesis& hypothesis, const generate::Tokenizer& tokenizer) {
  std::string bytes;
  for (const TokenId id : hypothesis.ids) bytes += tokenizer.bytes(id);
  return generate::valid_utf8(bytes);
}

void print_json(const Result& result, const std::vector<TokenId>& prompt,
                const generate::Tokenizer& tokenizer, double seconds, Index page_bytes) {
  auto texts = nlohmann::ordered_json::array();
  for (const Hypothesis& h : result.best)
    texts.push_back({{"score", h.score},
                     {"log_probability", h.log_probability},
                     {"stop", h.stop},
                     {"output_ids", h.ids},
                     {"text", text_of(h, tokenizer)}});
  const nlohmann::ordered_json object{{"prompt_ids", prompt},
                                      {"texts", texts},
                                      {"steps", result.steps},
                                      {"seconds", seconds},
                                      {"pages",
                                       {{"bytes", page_bytes},
                                        {"most_used", result.most_used},
                                        {"taken_over", result.taken_over},
                                        {"copied", result.copied}}}};
  std::cout << object.dump() << "\n";
}

void print_text(const Result& result, const Options& options, const generate::Tokenizer& tokenizer,
                double seconds, Index page_bytes) {
  const Index show = std::min(options.show, std::ssize(result.best));
  for (Index i = 0; i < show; ++i) {
    const Hypothesis& h = result.best[static_cast<std::size_t>(i)];
    if (show > 1) std::printf("%s%td  score %.4f\n", i == 0 ? "" : "\n", i + 1, h.score);
    std::printf("%s\n", text_of(h, tokenizer).c_str());
  }
  std::fflush(stdout);
  const double mb = static_cast<double>(page_bytes) / 1e6;
  std::fprintf(stderr, "\nbeams       %td, %td steps in %.2f s, %.1f steps/s%s\n", options.settings.beams,
               result.steps, seconds, seconds > 0 ? static_cast<double>(result.steps) / seconds : 0,
               result.interrupted ? " (interrupted)" : "");
  std::fprintf(stderr, "pages       %td used at most, %.2f MB\n", result.most_used,
               static_cast<double>(result.most_used) * mb);
  std::fprintf(stderr, "reordered   %td pages went from beam to beam, %td of them copied\n",
               result.taken_over, result.copied);
  if (result.best.empty()) return;
  const Hypothesis& best = result.best.front();
  std::fprintf(stderr, "best        score %.4f, ln p = %.4f over %td tokens (stopped by: %s)\n", best.score,
               best.log_probability, std::ssize(best.ids), std::string(best.stop).c_str());
}

/// Returns the exit code.
template <gqa::Scalar T>
int run(const Options& options, const generate::ModelFile& file) {
  const Index context = file.sizes.context_length;
  const std::string text = generate::read_prompt(options.prompt);
  const auto prompt =
      file.tokenizer.encode(options.common.chat ? generate::ChatTemplate(file.gguf).render(text) : text);
  generate::check_prompt(prompt, context);
  common::ProgressLine line;
  generate::LoadedModel loaded(file, options.common.num_threads, options.common.weight_type(),
                               [&](double done) { line.show("loading weights", done); });
  line.clear();
  generate::Batch<T> batch(loaded.model, loaded.executor,
                           pages_needed(std::ssize(prompt), context, options.settings));
  generate::catch_interrupt();
  const auto start = std::chrono::steady_clock::now();
  const Result result = search(
      batch, file.tokenizer, context, prompt, options.settings,
      [&](double done) { line.show("searching", done); }, generate::interrupted);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  line.clear();
  const Index page_bytes = batch.cache().page_tokens() * batch.cache().bytes_per_token();
  if (options.common.json)
    print_json(result, prompt, file.tokenizer, seconds, page_bytes);
  else
    print_text(result, options, file.tokenizer, seconds, page_bytes);
  return result.interrupted ? generate::interrupt_exit_code : 0;
}

}  // namespace
}  // namespace beam

/// 0: done; 130: stopped by Ctrl-C; 2: the arguments, the prompt or the file are wrong; 1: anything else.
int main(int argc, char** argv) {
  return common::exit_code_of("beam", [&](std::string& model) {
    const auto options = beam::parse_options(argc, argv);
    if (!options) return 0;
    model = options->common.model.string();
    const generate::ModelFile file(options->common.model);
    return generate::with_scalar(options->common.cache_type(),
                                 [&]<class T>() { return beam::run<T>(*options, file); });
  });
}
