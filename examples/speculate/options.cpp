// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <CLI/CLI.hpp>

#include "gqa/core/error.hpp"
#include "mapped_file.hpp"

namespace speculate {

std::optional<Options> parse_options(int argc, const char* const* argv) {
  Options options;
  options.max_tokens = 256;
  CLI::App app("Generates the likeliest text, several tokens a step, by drafts looked up in the text itself.",
               "speculate");
  options.add_to(app);
  auto* prompt = app.add_option("--prompt", options.prompt,
                                "text to continue, or with --chat to answer; - reads standard input");
  auto* prompt_file =
      app.add_option("--prompt-file", options.prompt_file, "file that holds it; - is standard input")
          ->type_name("FILE")
          ->excludes(prompt);
  app.add_option("--ngram", options.lookup.ngram, "last tokens that are looked for in the text before")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--draft", options.lookup.draft, "most tokens drafted a step; 0: none, as without drafts")
      ->check(CLI::Range(0, 255))
      ->capture_default_str();
  app.add_option("--branches", options.lookup.branches, "most different continuations drafted")
      ->check(CLI::Range(1, 255))
      ->capture_default_str();
  app.add_flag("--verify", options.verify, "decode plainly too, and fail unless every token is the same");
  app.add_flag("--compare", options.compare, "--verify, and report both speeds");
  if (!common::parse(app, argc, argv)) return std::nullopt;
  GQA_CHECK(!prompt->empty() || !prompt_file->empty(), std::invalid_argument,
            "--prompt or --prompt-file is required");
  GQA_CHECK(options.prompt_file || !options.prompt.empty(), std::invalid_argument, "--prompt is empty");
  const bool from_input =
      options.prompt_file ? generate::is_standard_input(*options.prompt_file) : options.prompt == "-";
  GQA_CHECK(!from_input || !generate::is_standard_input(options.model), std::invalid_argument,
            (options.prompt_file ? "--prompt-file" : "--prompt") << " and --model both read standard input");
  return options;
}

}  // namespace speculate
