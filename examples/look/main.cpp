// SPDX-License-Identifier: Apache-2.0
// What the heads of a real model look at: a page, a picture, JSON or text.
#include <iomanip>
#include <iostream>

#include "failure.hpp"
#include "loaded_model.hpp"
#include "options.hpp"
#include "output_file.hpp"
#include "page.hpp"
#include "picture.hpp"
#include "progress.hpp"
#include "prompt.hpp"

namespace look {
namespace {

int run(const Options& options) {
  const generate::ModelFile file(options.model);
  check_place(file.sizes, options);
  const std::string text = options.read_text();
  const std::vector<TokenId> tokens = file.tokenizer.encode(text);
  GQA_CHECK(!tokens.empty(), std::invalid_argument, "the text has no tokens");
  GQA_CHECK(std::ssize(tokens) <= file.sizes.context_length, std::invalid_argument,
            "the text has " << tokens.size() << " tokens, expected at most the model's context of "
                            << file.sizes.context_length);
  if (options.explain) {
    std::cout << explain_mask(file.sizes, options.layer, std::ssize(tokens)).text();
    if (!options.html_wanted && options.svg.empty()) return 0;
  }
  const bool svg_in_file = !options.svg.empty() && options.svg != "-";
  if (options.html_wanted) common::check_writable(options.html);
  if (svg_in_file) common::check_writable(options.svg);

  common::ProgressLine line;
  const generate::LoadedModel loaded(file, options.num_threads, generate::weight_type(options.weights),
                                     [&](double done) { line.show("loading weights", done); });
  const Look look = look_at(loaded.model, loaded.executor, tokens, options,
                            [&](double done) { line.show("looking", done); });
  line.clear();
  if (options.html_wanted) common::write_text(options.html, page(look, file.sizes, file.tokenizer));
  if (!options.svg.empty()) {
    const std::string svg = picture(look, file.sizes, file.tokenizer, options);
    if (svg_in_file)
      common::write_text(options.svg, svg);
    else
      std::cout << svg;
  }
  if (!options.json && !options.explain && options.svg != "-") {
    std::cout << file.sizes.name << ": " << tokens.size()
              << " tokens; Jensen-Shannon divergence of heads in nats, 0 to 0.693: " << std::fixed
              << std::setprecision(3) << look.within() << " within groups, " << look.between()
              << " between groups\n";
    for (const auto& written : {options.html_wanted ? options.html : "", options.svg})
      if (!written.empty()) std::cout << "open " << written.string() << " in a browser\n";
  }
  if (options.json)
    std::cout << to_json(look, file.sizes, file.tokenizer)
                     .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
              << "\n";
  return 0;
}

}  // namespace
}  // namespace look

int main(int argc, char** argv) {
  return common::exit_code_of("look", [&](std::string& model) {
    const auto options = look::parse_options(argc, argv);
    if (!options) return 0;
    model = options->model.string();
    return look::run(*options);
  });
}
