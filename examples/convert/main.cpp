// SPDX-License-Identifier: Apache-2.0
// Another number of KV heads for a Llama-architecture model in a GGUF file: a converted file, and what that
// costs and saves. The report goes to standard output, with --json as one object.
#include <signal.h>

#include "failure.hpp"
#include "options.hpp"
#include "program.hpp"

/// 0: done; 130: stopped by Ctrl-C; 2: the arguments or a file are wrong; 1: anything else.
int main(int argc, char** argv) {
  ::signal(SIGXFSZ, SIG_IGN);  // a file that may grow no more is an error of the write, not the end
  return common::exit_code_of("convert", [&](std::string& model) {
    const auto options = convert::parse_options(argc, argv);
    if (!options) return 0;
    model = options->model.string();
    return convert::run(*options);
  });
}
