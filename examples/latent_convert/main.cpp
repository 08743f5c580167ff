// SPDX-License-Identifier: Apache-2.0
// What a model in a GGUF file loses with latents in place of keys and values, against fewer KV heads, at the
// bytes its cache then takes. The table goes to standard output, progress to standard error.
#include <signal.h>

#include "failure.hpp"
#include "program.hpp"

/// 0: done; 130: stopped by Ctrl-C; 2: the arguments or a file are wrong; 1: anything else.
int main(int argc, char** argv) {
  ::signal(SIGXFSZ, SIG_IGN);  // a file that may grow no more is an error of the write, not the end
  return common::exit_code_of("latent_convert", [&](std::string& model) {
    const auto options = latent_convert::parse_options(argc, argv);
    if (!options) return 0;
    model = options->model.string();
    return latent_convert::run(*options);
  });
}
