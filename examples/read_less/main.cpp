// SPDX-License-Identifier: Apache-2.0
// What it costs a real model to read, or to keep, fewer of the tokens before: perplexity by method and bytes.
#include <iostream>

#include "failure.hpp"
#include "loaded_model.hpp"
#include "options.hpp"
#include "output_file.hpp"
#include "progress.hpp"
#include "prompt.hpp"
#include "report.hpp"

namespace read_less {
namespace {

int run(const Options& options) {
  const generate::ModelFile file(options.model);
  const std::string text = options.read_text();
  const std::vector<TokenId> tokens = file.tokenizer.encode(text);
  check(options.settings, file.sizes, std::ssize(tokens));
  if (!options.svg.empty()) common::check_writable(options.svg);

  common::ProgressLine line;
  const generate::LoadedModel loaded(file, options.num_threads, generate::weight_type(options.weights),
                                     [&](double done) { line.show("loading weights", done); });
  const Results results = measure(loaded.model, loaded.executor, tokens, options.settings,
                                  [&](double done) { line.show("reading", done); });
  line.clear();
  if (!options.svg.empty()) common::write_text(options.svg, picture(results, file.sizes.name));
  if (options.json)
    std::cout << to_json(results, file.sizes.name)
                     .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
              << "\n";
  else
    std::cout << table(results, file.sizes.name);
  return 0;
}

}  // namespace
}  // namespace read_less

int main(int argc, char** argv) {
  return common::exit_code_of("read_less", [&](std::string& model) {
    const auto options = read_less::parse_options(argc, argv);
    if (!options) return 0;
    model = options->model.string();
    return read_less::run(*options);
  });
}
