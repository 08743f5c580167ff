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

namespace latent_convert {

std::optional<Options> parse_options(int argc, const char* const* argv) {
  Options options;
  options.num_threads = std::max<Index>(1, std::thread::hardware_concurrency());
  constexpr auto largest = std::numeric_limits<std::int32_t>::max();
  std::vector<std::string> forms;

  CLI::App app(
      "Measures a Llama-architecture model in a GGUF file with latents in place of keys and values, and with "
      "fewer KV heads: perplexity against the bytes of its cache.",
      "latent_convert");
  const auto file = [&](const char* name, std::filesystem::path& path, const char* help, const char* type) {
    return app.add_option(name, path, help)->type_name(type)->required();
  };
  file("--model", options.model, "model to convert; - is standard input", "GGUF");
  file("--calibration", options.calibration, "text that shows what layers read; - is standard input", "FILE");
  file("--perplexity", options.perplexity, "another text, to measure on", "FILE");
  app.add_option("--out", options.out, "folder for results.json and perplexity.svg")->type_name("FOLDER");
  app.add_option("--form", forms,
                 "what a layer caches for a token, any number of these (default: several of each): source, "
                 "kv_heads=N; value_rank=R for each KV head; key_rank=R,value_rank=R or "
                 "latents=N,key_rank=R,value_rank=R or key_rank=R (of both); "
                 "latent_rank=R,rope_dim=N[,kept=by_norm|by_turn|high_frequency|uniform][,mix_heads=no]")
      ->type_name("FORM");
  const auto number = [&](const char* name, Index& value, const char* help, Index least, Index most) {
    app.add_option(name, value, help)->check(CLI::Range(least, most))->capture_default_str();
  };
  app.add_option("--noise", options.noise,
                 "share of what the calibration saw that counts as noise in every direction")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  number("--context", options.context, "tokens of a text that see each other", 2, largest);
  number("--tokens", options.max_tokens, "most tokens read of each text; 0: all", 0, largest);
  number("--decode", options.decode, "time decoding with so many tokens in the cache; 0: do not", 0, largest);
  number("--threads", options.num_threads, "threads to compute with", 1, 1024);
  app.add_flag("--json", options.json, "print one JSON object");
  if (!common::parse(app, argc, argv)) return std::nullopt;

  GQA_CHECK(!std::isnan(options.noise), std::invalid_argument, "--noise is nan");  // Range lets it pass
  for (const std::string& form : forms) options.forms.push_back(read_form(form));
  std::vector<const char*> from_input;
  for (const auto& [name, path] : {std::pair{"--model", &options.model},
                                   {"--calibration", &options.calibration},
                                   {"--perplexity", &options.perplexity}})
    if (generate::is_standard_input(*path)) from_input.push_back(name);
  GQA_CHECK(from_input.size() < 2, std::invalid_argument,
            from_input[0] << " and " << from_input[1] << " both read standard input");
  return options;
}

}  // namespace latent_convert
