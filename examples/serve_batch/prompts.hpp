// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "gqa/core/error.hpp"
#include "mapped_file.hpp"

namespace serve_batch {

inline constexpr const char* default_system =
    "You are the assistant of a small public library in a harbour town. People ask you about science, "
    "history, "
    "books, and everyday life. Answer in plain English, in at most three short sentences, and begin with the "
    "answer itself. Give one example where it helps. Do not invent facts: where you are not sure, say so, "
    "and "
    "say where in a library one would look. Be kind, never talk down to anybody, and do not repeat the "
    "question. Numbers are written with their units, and names as they are in an encyclopedia.";

inline std::vector<std::string> default_prompts() {
  return {"What is photosynthesis?",   "Why is the sky blue?",          "Who wrote Romeo and Juliet?",
          "How do vaccines work?",     "What is the capital of Italy?", "Why do ships float?",
          "How far away is the Moon?", "What causes the tides?"};
}

/// The prompts of a file: one a line, empty lines left out. Throws std::system_error for a file that cannot
/// be read and std::invalid_argument for one without any.
inline std::vector<std::string> read_prompts(const std::filesystem::path& path) {
  const generate::MappedFile file(path);
  std::istringstream text(
      std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()));
  std::vector<std::string> prompts;
  for (std::string line; std::getline(text, line);) {
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty()) prompts.push_back(line);
  }
  GQA_CHECK(!prompts.empty(), std::invalid_argument, "--prompts: " << path.string() << " holds no prompt");
  return prompts;
}

}  // namespace serve_batch
