// SPDX-License-Identifier: Apache-2.0
#include "serve_options.hpp"

#include "model_options.hpp"
#include "prompts.hpp"

namespace serve_batch {

std::optional<Options> parse_options(int argc, const char* const* argv) {
  generate::ModelOptions common;
  Options options;
  options.system = default_system;
  Settings& settings = options.settings;
  std::filesystem::path prompts;
  Index seed = 0;
  constexpr auto largest = std::numeric_limits<std::int32_t>::max();

  CLI::App app("Continues many prompts at once with one model: continuous batching over a paged KV cache.",
               "serve_batch");
  common.add_to(app);
  app.add_option("--prompts", prompts,
                 "prompts, one a line; - is standard input; none: some that are built in")
      ->type_name("FILE");
  app.add_option("--system", options.system,
                 "what stands before every prompt; with --chat the system message");
  app.add_option("--arrival", options.arrival, "passes of the model from one request to the next")
      ->check(CLI::Range(0, largest))
      ->capture_default_str();
  app.add_option("--samples", settings.samples, "texts for each prompt")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--temperature", settings.temperature, "0: always the most likely token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--top-k", settings.top_k, "choose among the K most likely tokens; 0: among all")
      ->check(CLI::Range(0, largest))
      ->capture_default_str();
  app.add_option("--seed", seed, "of the first text's choices; the next one's is one more")
      ->check(CLI::Range(std::numeric_limits<Index>::max()))
      ->capture_default_str();
  app.add_option("--pages", settings.num_pages, "pages of the KV cache, of 64 tokens each")
      ->check(CLI::Range(1, largest))
      ->capture_default_str();
  app.add_option("--max-sequences", settings.limits.sequences, "most texts in one pass of the model")
      ->check(CLI::Range(1, largest))
      ->capture_default_str();
  app.add_option("--prompt-tokens", settings.limits.prompt_tokens, "most tokens of prompts in one pass")
      ->check(CLI::Range(1, largest))
      ->capture_default_str();
  app.add_flag("--verify", options.verify, "continue each prompt alone too, and compare");
  if (!common::parse(app, argc, argv)) return std::nullopt;
  GQA_CHECK(!std::isnan(settings.temperature), std::invalid_argument, "--temperature is nan");
  GQA_CHECK(settings.samples <= settings.limits.sequences, std::invalid_argument,
            "--samples is " << settings.samples << ", expected at most the " << settings.limits.sequences
                            << " of --max-sequences");
  GQA_CHECK(!generate::is_standard_input(prompts) || !generate::is_standard_input(common.model),
            std::invalid_argument, "--prompts and --model both read standard input");
  settings.max_tokens = common.max_tokens;
  settings.seed = static_cast<std::uint64_t>(seed);
  options.model = common.model;
  options.chat = common.chat;
  options.num_threads = common.num_threads;
  options.weights = common.weight_type();
  options.cache_type = common.cache_type();
  options.json = common.json;
  options.prompts = prompts.empty() ? default_prompts() : read_prompts(prompts);
  return options;
}

}  // namespace serve_batch
