// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>

#include "command_line.hpp"
#include "gqa/core/error.hpp"
#include "mapped_file.hpp"

namespace uptrain_gguf {

std::optional<Options> parse_options(int argc, const char* const* argv) {
  Options options;
  Recipe& recipe = options.recipe;
  options.num_threads = std::max<Index>(1, std::thread::hardware_concurrency());
  constexpr auto largest = std::numeric_limits<std::int32_t>::max();

  CLI::App app(
      "Trains the attention of a Llama-architecture model in a GGUF file on a text, all else frozen: after "
      "examples/convert has given it fewer KV heads.",
      "uptrain_gguf");
  const auto file = [&](const char* name, std::filesystem::path& path, const char* help, const char* type) {
    return app.add_option(name, path, help)->type_name(type)->required();
  };
  file("--model", options.model, "model to train; - is standard input", "GGUF");
  file("--text", options.text, "text to learn; - is standard input", "FILE");
  file("--perplexity", options.perplexity, "another text, to measure the model on", "FILE");
  file("--out", options.out,
       "folder for model.gguf, results.json, perplexity.svg and the checkpoint: a run "
       "that was stopped goes on",
       "FOLDER");
  app.add_option("--reference", options.reference,
                 "another model to measure and draw as a line: the one that was converted")
      ->type_name("GGUF");
  app.add_option("--beside", options.beside, "results.json of other runs, drawn in the same plot")
      ->delimiter(',')
      ->type_name("FILES");
  app.add_option("--name", options.name, "what the plot calls this run (default: the model's file)");
  const auto number = [&](const char* name, Index& value, const char* help, Index least, Index most) {
    app.add_option(name, value, help)->check(CLI::Range(least, most))->capture_default_str();
  };
  number("--steps", recipe.steps, "of training", 1, largest);
  number("--warm-up", recipe.warm_up, "steps until the learning rate is highest", 0, largest);
  number("--sequences", recipe.sequences, "of a step", 1, 1 << 16);
  number("--context", recipe.context, "tokens of a sequence", 2, largest);
  number("--every", recipe.every, "steps between measurements", 1, largest);
  app.add_option("--rate", recipe.rate, "highest learning rate")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--seed", recipe.seed, "of the sequences")
      ->check(CLI::Range(std::numeric_limits<Index>::max()))
      ->capture_default_str();
  number("--tokens", options.max_tokens, "most tokens measured on; 0: all", 0, largest);
  number("--threads", options.num_threads, "threads to compute with", 1, 1024);
  app.add_option("--checkpoint-seconds", options.checkpoint_seconds, "time between checkpoints")
      ->check(CLI::Range(0.0, 1e9))
      ->capture_default_str();
  app.add_flag("--json", options.json, "print one JSON object");
  if (!common::parse(app, argc, argv)) return std::nullopt;

  for (const auto& [name, value] :
       {std::pair{"--rate", recipe.rate}, std::pair{"--checkpoint-seconds", options.checkpoint_seconds}})
    GQA_CHECK(!std::isnan(value), std::invalid_argument, name << " is nan");  // Range lets it pass
  if (options.name.empty()) options.name = options.model.filename().string();
  std::vector<const char*> from_input;
  const auto look = [&](const char* name, const std::filesystem::path& path) {
    if (generate::is_standard_input(path)) from_input.push_back(name);
  };
  look("--model", options.model);
  look("--text", options.text);
  look("--perplexity", options.perplexity);
  if (options.reference) look("--reference", *options.reference);
  GQA_CHECK(from_input.size() < 2, std::invalid_argument,
            from_input[0] << " and " << from_input[1] << " both read standard input");
  return options;
}

}  // namespace uptrain_gguf
