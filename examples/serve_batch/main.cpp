// SPDX-License-Identifier: Apache-2.0
// Many prompts continued at once by one model. The texts go to standard output when all are done, the table
// and the report to standard error; with --json everything is one object on standard output.
#include <iostream>

#include "alone.hpp"
#include "chat_template.hpp"
#include "failure.hpp"
#include "interrupt.hpp"
#include "loaded_model.hpp"
#include "progress.hpp"
#include "serve_options.hpp"
#include "serve_report.hpp"
#include "table.hpp"

namespace serve_batch {
namespace {

std::vector<Request> read_requests(const Options& options, const generate::ModelFile& file) {
  if (options.chat) generate::ChatTemplate{file.gguf};  // throws where it is another one
  std::vector<Request> requests;
  for (const std::string& prompt : options.prompts) {
    const std::string text = options.chat             ? generate::ChatTemplate::render(prompt, options.system)
                             : options.system.empty() ? prompt
                                                      : options.system + "\n\n" + prompt;
    requests.push_back({file.tokenizer.encode(text), std::ssize(requests) * options.arrival});
  }
  return requests;
}

void print_texts(const Options& options, const Service& service) {
  for (std::size_t i = 0; i < service.sequences.size(); ++i) {
    const auto samples = static_cast<std::size_t>(service.samples);
    std::cout << (i == 0 ? "" : "\n") << i / samples + 1;
    if (samples > 1) std::cout << "." << i % samples + 1;
    std::cout << "  " << generate::valid_utf8(options.prompts[i / samples]) << "\n"
              << service.sequences[i].continuation.text() << "\n";
  }
  std::cout << std::flush;
}

/// Returns the exit code.
template <gqa::Scalar T>
int serve(const Options& options, const generate::ModelFile& file) {
  const auto requests = read_requests(options, file);
  common::ProgressLine line;
  generate::LoadedModel loaded(file, options.num_threads, options.weights,
                               [&](double done) { line.show("loading weights", done); });
  line.clear();
  Server<T> server(loaded.model, file.tokenizer, loaded.executor, requests, options.settings);
  generate::catch_interrupt();
  LiveTable table;
  do {
    table.show(server.service());
    if (generate::interrupted()) server.interrupt();
  } while (!generate::interrupted() && server.step());
  table.clear();

  const Service& service = server.service();
  Report report{service, options.settings, server.cache().allocated_bytes() / service.pages.pages};
  for (std::size_t i = 0; options.verify && i < service.sequences.size(); ++i) {
    line.show("continuing each alone",
              static_cast<double>(i) / static_cast<double>(service.sequences.size()));
    const auto alone = continue_alone(loaded.model, file.tokenizer, loaded.executor, options.cache_type,
                                      requests[i / static_cast<std::size_t>(service.samples)],
                                      options.settings, static_cast<Index>(i), generate::interrupted);
    const auto& together = service.sequences[i].continuation;
    report.same_alone = report.same_alone.value_or(true) && alone.output_ids == together.ids() &&
                        alone.text == together.text() && alone.stop == together.stop();
    report.alone_seconds += alone.prompt_seconds + alone.generation_seconds;
    if (generate::interrupted()) break;
  }
  line.clear();
  if (generate::interrupted()) report.same_alone.reset();
  if (options.json) {
    std::cout << report.json().dump() << "\n";
  } else {
    print_texts(options, service);
    std::cerr << "\n" << report.text();
  }
  GQA_CHECK(report.same_alone.value_or(true), std::logic_error, "a text is not the one it is alone");
  return generate::interrupted() ? generate::interrupt_exit_code : 0;
}

}  // namespace
}  // namespace serve_batch

/// 0: done; 130: stopped by Ctrl-C; 2: the arguments, a prompt or the file are wrong; 1: anything else, also
/// a text that --verify finds to be another.
int main(int argc, char** argv) {
  return common::exit_code_of("serve_batch", [&](std::string& model) {
    const auto options = serve_batch::parse_options(argc, argv);
    if (!options) return 0;
    model = options->model.string();
    const generate::ModelFile file(options->model);
    return generate::with_scalar(options->cache_type,
                                 [&]<class T>() { return serve_batch::serve<T>(*options, file); });
  });
}
