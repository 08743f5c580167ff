// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>

#include "gqa/core/error.hpp"
#include "mapped_file.hpp"
#include "model_options.hpp"

namespace generate {

std::optional<Options> parse_options(int argc, const char* const* argv) {
  Options options;
  options.num_threads = std::max<Index>(1, std::thread::hardware_concurrency());
  std::string weights = "auto", cache_dtype = "f32", cache = "contiguous";
  constexpr auto largest = std::numeric_limits<std::int32_t>::max();

  CLI::App app("Generates text with a llama, qwen2, qwen3 or gemma3 model from a GGUF file.", "generate");
  app.add_option("--model", options.model, "model to load; - is standard input")
      ->type_name("GGUF")
      ->required();
  auto* prompt = app.add_option("--prompt", options.prompt,
                                "text to continue, or with --chat to answer; - reads standard input");
  auto* prompt_file =
      app.add_option("--prompt-file", options.prompt_file, "file that holds the prompt; - is standard input")
          ->type_name("FILE")
          ->excludes(prompt);
  auto* chat =
      app.add_flag("--chat", options.chat,
                   "put the prompt into the model's chat template; without a prompt, answer standard "
                   "input line by line, where /reset forgets what was said");
  app.add_option("--max-tokens", options.max_tokens, "most tokens to generate")
      ->check(CLI::Range(1, largest))
      ->capture_default_str();
  app.add_option("--temperature", options.temperature, "0: always the most likely token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--top-k", options.top_k, "choose among the K most likely tokens; 0: among all")
      ->check(CLI::Range(0, largest))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "of the choices that a temperature above 0 makes")
      ->check(CLI::Range(std::numeric_limits<Index>::max()))
      ->capture_default_str();
  app.add_option("--threads", options.num_threads, "threads to compute with")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  add_weights_option(app, weights);
  app.add_option("--cache-dtype", cache_dtype, "element type of the KV cache")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}))
      ->capture_default_str();
  app.add_option("--cache", cache,
                 "where keys and values are kept: in one piece, in pages, or in a ring of the model's window")
      ->check(CLI::IsMember({"contiguous", "paged", "ring"}))
      ->capture_default_str();
  auto* load = app.add_option("--load", options.load,
                              "go on from a cache that --save kept: the prompt follows what it holds")
                   ->type_name("FILE");
  auto* save =
      app.add_option("--save", options.save, "keep the cache of all that was read and written in a file")
          ->type_name("FILE");
  app.add_option("--perplexity", options.perplexity,
                 "print the mean negative log-likelihood per token of this text instead; - is standard input")
      ->type_name("FILE")
      ->excludes(prompt)
      ->excludes(prompt_file)
      ->excludes(chat)
      ->excludes(load)
      ->excludes(save);
  app.add_flag("--json", options.json, "print one JSON object");
  if (!common::parse(app, argc, argv)) return std::nullopt;
  GQA_CHECK(options.perplexity || !prompt->empty() || !prompt_file->empty() || options.chat,
            std::invalid_argument, "--prompt, --prompt-file, --chat or --perplexity is required");
  options.weights = weight_type(weights);
  options.cache_type = cache_dtype == "f16"    ? CacheType::f16
                       : cache_dtype == "bf16" ? CacheType::bf16
                                               : CacheType::f32;
  options.cache_kind = cache == "paged"  ? CacheKind::paged
                       : cache == "ring" ? CacheKind::ring
                                         : CacheKind::contiguous;
  GQA_CHECK(!std::isnan(options.temperature), std::invalid_argument,
            "--temperature is nan");  // Range lets it pass
  GQA_CHECK(prompt->empty() || !options.prompt.empty(), std::invalid_argument, "--prompt is empty");
  const auto& file = options.perplexity ? options.perplexity : options.prompt_file;
  const bool text_from_input =
      options.converses() || (file ? is_standard_input(*file) : options.prompt == "-");
  GQA_CHECK(!text_from_input || !is_standard_input(options.model), std::invalid_argument,
            (options.perplexity    ? "--perplexity"
             : options.prompt_file ? "--prompt-file"
             : options.converses() ? "--chat without a prompt"
                                   : "--prompt")
                << " and --model both read standard input");
  return options;
}

}  // namespace generate
