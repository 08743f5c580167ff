// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <CLI/CLI.hpp>
#include <map>

#include "gqa/core/error.hpp"
#include "mapped_file.hpp"
#include "model_options.hpp"

namespace look {

std::optional<Options> parse_options(int argc, const char* const* argv) {
  Options options;
  constexpr auto largest = std::numeric_limits<std::int32_t>::max();
  CLI::App app(
      "Shows what the heads of a model look at: a page with a heat map and measures of every head, or a "
      "picture, "
      "JSON or text.",
      "look");
  options.add_to(app);
  auto* html = app.add_option("--html", options.html,
                              "page to write; without --html, only if nothing else is asked for")
                   ->type_name("FILE")
                   ->capture_default_str();
  auto* svg =
      app.add_option("--svg", options.svg, "picture to write; - is standard output")->type_name("FILE");
  app.add_option("--picture", options.picture,
                 "what it shows: divergence of heads by layer, a head's heat map, or a layer's mask")
      ->transform(CLI::CheckedTransformer(std::map<std::string, Picture>{
          {"divergence", Picture::divergence}, {"head", Picture::head}, {"mask", Picture::mask}}))
      ->needs(svg)
      ->default_str("divergence");
  app.add_flag("--json", options.json, "print one JSON object");
  app.add_flag("--explain", options.explain,
               "print which keys each query of --layer sees and what is skipped");
  app.add_option("--layer", options.layer, "layer of a picture, from 0")
      ->check(CLI::Range(0, largest))
      ->capture_default_str();
  app.add_option("--head", options.head, "query head of a picture, from 0")
      ->check(CLI::Range(0, largest))
      ->capture_default_str();
  app.add_option("--sinks", options.sinks, "first tokens that count as sinks")
      ->check(CLI::Range(0, largest))
      ->capture_default_str();
  app.add_option("--window", options.window, "last tokens that count as near")
      ->check(CLI::Range(0, largest))
      ->capture_default_str();
  app.add_option("--cells", options.cells,
                 "most cells a side of a heat map; where there are more tokens, a cell is several")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_flag("--importance", options.importance,
               "leave out each head in turn: the text is read once more for every head");
  if (!common::parse(app, argc, argv)) return std::nullopt;
  options.check();
  const bool svg_printed = options.svg == "-";
  GQA_CHECK(
      static_cast<int>(options.json) + static_cast<int>(options.explain) + static_cast<int>(svg_printed) <= 1,
      std::invalid_argument, "--json, --explain and --svg - all print to standard output: one at a time");
  GQA_CHECK(options.html != "-" && !options.html.empty(), std::invalid_argument,
            "--html needs a file's name");
  options.html_wanted = !html->empty() || (svg->empty() && !options.json && !options.explain);
  return options;
}

}  // namespace look
