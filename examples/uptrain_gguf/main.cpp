// SPDX-License-Identifier: Apache-2.0
// What training brings back of a model in a GGUF file that has been converted to fewer KV heads: its
// attention is trained, all else frozen. The table goes to standard output, progress to standard error.
#include <signal.h>

#include "failure.hpp"
#include "program.hpp"

/// 0: done; 130: stopped by Ctrl-C; 2: the arguments or a file are wrong; 1: anything else, such as a loss
/// that is no number.
int main(int argc, char** argv) {
  ::signal(SIGXFSZ, SIG_IGN);  // a file that may grow no more is an error of the write, not the end
  return common::exit_code_of("uptrain_gguf", [&](std::string& model) {
    const auto options = uptrain_gguf::parse_options(argc, argv);
    if (!options) return 0;
    model = options->model.string();
    return uptrain_gguf::run(*options);
  });
}
