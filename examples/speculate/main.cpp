// SPDX-License-Identifier: Apache-2.0
// Speculative decoding with a real model: drafts looked up in the text, checked in one pass by tree
// attention, and rolled back where they were wrong. Text goes to standard output, the report and errors to
// standard error; with --json everything is one object on standard output.
#include <algorithm>
#include <iostream>
#include <string>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "chat_template.hpp"
#include "failure.hpp"
#include "gguf.hpp"
#include "interrupt.hpp"
#include "mapped_file.hpp"
#include "model.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "prompt.hpp"
#include "report.hpp"
#include "sampler.hpp"
#include "speculation.hpp"
#include "tokenizer.hpp"

namespace speculate {
namespace {

/// Throws std::logic_error naming the first token that differs.
void check_same(std::span<const TokenId> output, std::span<const TokenId> plain) {
  const auto [mine, other] = std::ranges::mismatch(output, plain);
  GQA_CHECK(mine == output.end() && other == plain.end(), std::logic_error,
            "token " << mine - output.begin() << " of the text is not plain decoding's");
}

/// Returns the exit code.
int run(const Options& options) {
  common::ProgressLine line;
  const generate::MappedFile bytes(options.model);
  const generate::Gguf file(bytes.bytes(), generate::check_metadata);
  const generate::Hyperparameters sizes = generate::read_hyperparameters(file);
  const generate::Tokenizer tokenizer(file);
  const std::string prompt = options.prompt_file
                                 ? generate::read_prompt_file(*options.prompt_file, "--prompt-file")
                                 : generate::read_prompt(options.prompt);
  const auto tokens = tokenizer.encode(options.chat ? generate::ChatTemplate(file).render(prompt) : prompt);
  generate::check_prompt(tokens, sizes.context_length);

  Eigen::ThreadPool pool(static_cast<int>(options.num_threads));
  const gqa::PoolExecutor executor(pool);
  const generate::Model model(file, executor,
                              {.weights = options.weight_type(),
                               .progress = [&](double done) { line.show("loading weights", done); },
                               .done_with = [&](std::span<const std::byte> piece) { bytes.forget(piece); }});
  const auto show = [&](double done) { line.show("reading the prompt", done); };
  line.clear();

  generate::catch_interrupt();
  const auto session = generate::make_session(model, options.cache_type(), executor);
  const auto stream = [&](std::string_view text) {
    line.clear();
    if (!options.json) std::cout << text << std::flush;
  };
  const Speculation result = speculate(*session, tokenizer, tokens, options.lookup, sizes.context_length,
                                       options.max_tokens, stream, show, generate::interrupted);
  line.clear();
  if (!options.json) std::cout << std::endl;

  Report report{.options = options, .result = result, .plain = std::nullopt};
  bool interrupted = result.generation.stop == "interrupt";
  if (!interrupted && (options.verify || options.compare)) {
    session->clear();
    generate::Sampler greedy(0, 0, 0);
    report.plain = generate::continue_prompt(*session, tokenizer, tokens, greedy, sizes.context_length,
                                             options.max_tokens, {}, show, generate::interrupted);
    line.clear();
    interrupted = report.plain->stop == "interrupt";
    if (interrupted)
      report.plain.reset();
    else
      check_same(result.generation.output_ids, report.plain->output_ids);
  }
  if (options.json) {
    nlohmann::ordered_json object{{"model", sizes.name}, {"prompt_ids", tokens}};
    object.update(report.json());
    std::cout << object.dump() << "\n";
  } else {
    std::cerr << "\n" << report.text();
  }
  return interrupted ? generate::interrupt_exit_code : 0;
}

}  // namespace
}  // namespace speculate

/// 0: done; 130: stopped by Ctrl-C; 2: the arguments, the prompt or the file are wrong; 1: anything else.
int main(int argc, char** argv) {
  return common::exit_code_of("speculate", [&](std::string& model) {
    const auto options = speculate::parse_options(argc, argv);
    if (!options) return 0;
    model = options->model.string();
    return speculate::run(*options);
  });
}
