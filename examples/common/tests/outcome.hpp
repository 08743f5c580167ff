// SPDX-License-Identifier: Apache-2.0
// Programs as a person runs them.
#pragma once

#include <sys/wait.h>

#include <cstdio>
#include <string>

namespace common::test {

struct Outcome {
  int code = -1;
  std::string out;  // both streams
};

/// Of a program with arguments as a shell has them.
inline Outcome outcome_of(const std::string& program, const std::string& arguments) {
  Outcome outcome;
  std::FILE* pipe = popen(("'" + program + "' " + arguments + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return outcome;
  char text[4096];
  for (std::size_t n = 0; (n = std::fread(text, 1, sizeof text, pipe)) > 0;) outcome.out.append(text, n);
  const int status = pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace common::test
