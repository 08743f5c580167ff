// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <limits>
#include <thread>

#include "gqa/core/error.hpp"
#include "mapped_file.hpp"

namespace speculate {

std::optional<Options> parse_options(int argc, const char* const* argv) {
  Options options;
  options.num_threads = std::max<Index>(1, std::thread::hardware_concurrency());
  std::string cache_dtype = "f32";
  constexpr auto largest = std::numeric_limits<std::int32_t>::max();

  CLI::App app("Generates the likeliest text, several tokens a step, by drafts looked up in the text itself.",
               "speculate");
  app.add_option("--model", options.model, "model to load; - is standard input")
      ->type_name("GGUF")
      ->required();
  auto* prompt = app.add_option("--prompt", options.prompt,
                                "text to continue, or with --chat to answer; - reads standard input");
  auto* prompt_file =
      app.add_option("--prompt-file", options.prompt_file, "file that holds it; - is standard input")
          ->type_name("FILE")
          ->excludes(prompt);
  app.add_flag("--chat", options.chat, "put the prompt into the model's chat template");
  app.add_option("--ngram", options.lookup.ngram, "last tokens that are looked for in the text before")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--draft", options.lookup.draft, "most tokens drafted a step; 0: none, as without drafts")
      ->check(CLI::Range(0, 255))
      ->capture_default_str();
  app.add_option("--branches", options.lookup.branches, "most different continuations drafted")
      ->check(CLI::Range(1, 255))
      ->capture_default_str();
  app.add_option("--max-tokens", options.max_tokens, "most tokens to generate")
      ->check(CLI::Range(1, largest))
      ->capture_default_str();
  app.add_option("--threads", options.num_threads, "threads to compute with")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--cache-dtype", cache_dtype, "element type of the KV cache")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}))
      ->capture_default_str();
  app.add_flag("--verify", options.verify, "decode plainly too, and fail unless every token is the same");
  app.add_flag("--compare", options.compare, "--verify, and report both speeds");
  app.add_flag("--json", options.json, "print one JSON object");
  try {
    app.parse(argc, argv);
    if (prompt->empty() && prompt_file->empty()) throw CLI::RequiredError("--prompt or --prompt-file");
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    throw std::invalid_argument(error.what());
  }
  options.cache_type = cache_dtype == "f16"    ? generate::CacheType::f16
                       : cache_dtype == "bf16" ? generate::CacheType::bf16
                                               : generate::CacheType::f32;
  GQA_CHECK(options.prompt_file || !options.prompt.empty(), std::invalid_argument, "--prompt is empty");
  const bool from_input =
      options.prompt_file ? generate::is_standard_input(*options.prompt_file) : options.prompt == "-";
  GQA_CHECK(!from_input || !generate::is_standard_input(options.model), std::invalid_argument,
            (options.prompt_file ? "--prompt-file" : "--prompt") << " and --model both read standard input");
  return options;
}

}  // namespace speculate
