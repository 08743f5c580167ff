// SPDX-License-Identifier: Apache-2.0
// What it costs to turn multi-head into grouped-query attention, by every method, and how much of that a
// little training brings back. The table goes to standard output, progress to standard error.
#include <chrono>
#include <iostream>

#include "checkpoint.hpp"
#include "experiment.hpp"
#include "failure.hpp"
#include "gqa/kv/file_io.hpp"
#include "interrupt.hpp"
#include "options.hpp"
#include "plots.hpp"
#include "progress.hpp"

namespace uptrain {
namespace {

/// Returns the exit code.
int run(const Options& options) {
  const std::string bytes = options.text ? read_text(*options.text) : read_bible();
  const std::string name = !options.text          ? "the Bible (bible-kjv)"
                           : *options.text == "-" ? "standard input"
                                                  : options.text->string();
  const Text text(bytes, options.settings.shape.context, name);
  Results results{.settings = options.settings,
                  .text_name = name,
                  .text_digest = digest(bytes),
                  .text_bytes = std::ssize(bytes),
                  .base = {},
                  .runs = {},
                  .threads = options.threads};
  results.settings.shape.vocabulary = text.vocabulary();

  ExperimentOptions how{
      .folder = {}, .checkpoint_seconds = options.checkpoint_seconds, .threads = options.threads};
  if (options.out) {
    how.folder = *options.out / "checkpoints";
    std::filesystem::create_directories(*options.out);
    // Better to know now than after all the work whether results can be written.
    const gqa::detail::Replacement probe(*options.out / "results.json");
  }
  Experiment experiment(results.settings, text, results.text_digest, how);
  generate::catch_interrupt();
  common::ProgressLine line;
  const auto begin = std::chrono::steady_clock::now();
  const bool complete = experiment.run([&](double done) { line.show("training", done); },
                                       [] { return !generate::interrupted(); });
  line.clear();
  results.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (!complete) {
    std::cerr << "uptrain: stopped"
              << (options.out ? "; the same command goes on from here\n" : ", and nothing kept\n");
    return generate::interrupt_exit_code;
  }

  experiment.fill(results);
  if (options.out) {
    write_file(*options.out / "results.json", results.json().dump(1) + "\n");
    for (const Plot& plot : plots(results)) write_file(*options.out / plot.file, plot.svg);
  }
  if (options.json)
    std::cout << results.json().dump() << "\n";
  else
    std::cout << results.table();
  return 0;
}

}  // namespace
}  // namespace uptrain

/// 0: done; 130: stopped by Ctrl-C; 2: the arguments, the text, a checkpoint or the folder are wrong; 1:
/// anything else, such as a loss that is no number.
int main(int argc, char** argv) {
  return common::exit_code_of("uptrain", [&] {
    const auto options = uptrain::parse_options(argc, argv);
    return options ? uptrain::run(*options) : 0;
  });
}
