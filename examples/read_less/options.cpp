// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <CLI/CLI.hpp>
#include <charconv>
#include <map>

#include "gqa/core/error.hpp"
#include "mapped_file.hpp"
#include "model_options.hpp"

namespace read_less {
namespace {

/// `all` stands for every token there is.
Index parse_keep(const std::string& word, const Settings& settings) {
  if (word == "all") return settings.num_tokens();
  Index keep = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), keep);
  GQA_CHECK(error == std::errc() && end == word.data() + word.size(), std::invalid_argument,
            "--keep: " << word << " is no number of tokens, nor all");
  return keep;
}

}  // namespace

std::optional<Options> parse_options(int argc, const char* const* argv) {
  Options options;
  Settings& settings = options.settings;
  constexpr auto largest = std::numeric_limits<std::int32_t>::max();
  CLI::App app(
      "Measures what it costs a model to read, or to keep, fewer of the tokens before: the perplexity of a "
      "text after a prompt, by method and bytes.",
      "read_less");
  options.add_to(app);
  app.add_option("--prompt", settings.prompt, "first tokens of the text, which are read in full")
      ->check(CLI::Range(1, largest))
      ->capture_default_str();
  app.add_option("--tokens", settings.tokens, "tokens after them whose perplexity is measured")
      ->check(CLI::Range(1, largest))
      ->capture_default_str();
  app.add_option("--keep", options.keep,
                 "budgets: keys and values of so many tokens are held, or read for a token; or all")
      ->delimiter(',')
      ->capture_default_str();
  std::map<std::string, Method> methods;
  for (const Method method : all_methods) methods[name_of(method)] = method;
  app.add_option("--method", settings.methods,
                 "pages reads the most relevant (Quest); h2o, snapkv and recent (StreamingLLM) keep fewer")
      ->delimiter(',')
      ->transform(CLI::CheckedTransformer(methods))
      ->default_str("all of them");
  auto* sinks = app.add_option("--sinks", settings.sinks, "first tokens that recent keeps")
                    ->check(CLI::Range(0, largest))
                    ->capture_default_str();
  app.add_option("--window", settings.window,
                 "queries that snapkv looks at; and where tokens are dropped, so many at once")
      ->check(CLI::Range(1, largest))
      ->capture_default_str();
  auto* pool = app.add_option("--pool", settings.pool,
                              "neighbours among which snapkv takes the largest mass, an odd number")
                   ->check(CLI::Range(1, largest))
                   ->capture_default_str();
  app.add_option("--svg", options.svg, "picture to write")->type_name("FILE");
  app.add_flag("--json", options.json, "print one JSON object");
  if (!common::parse(app, argc, argv)) return std::nullopt;
  options.check();
  const auto uses = [&](Method method) { return std::ranges::count(settings.methods, method) > 0; };
  GQA_CHECK(sinks->empty() || uses(Method::recent), std::invalid_argument,
            "--sinks says nothing without recent");
  GQA_CHECK(pool->empty() || uses(Method::snapkv), std::invalid_argument,
            "--pool says nothing without snapkv");
  for (const Method method : settings.methods)
    GQA_CHECK(std::ranges::count(settings.methods, method) == 1, std::invalid_argument,
              "--method names " << name_of(method) << " twice");
  for (const std::string& word : options.keep) {
    const Index keep = parse_keep(word, settings);
    GQA_CHECK(std::ranges::count(settings.keep, keep) == 0, std::invalid_argument,
              "--keep names " << word << " twice");
    settings.keep.push_back(keep);
  }
  return options;
}

}  // namespace read_less
