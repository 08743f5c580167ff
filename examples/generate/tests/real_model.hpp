// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <sstream>
#include <string>

namespace generate::test {

/// A model's file, if it is there: where an environment variable says, or where CMake puts it.
inline std::optional<std::filesystem::path> find_model(const char* variable, const char* file) {
  if (const char* given = std::getenv(variable)) return given;
  std::istringstream folders(GENERATE_MODELS);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const auto path = std::filesystem::path(folder) / file;
    if (std::filesystem::exists(path)) return path;
  }
  return std::nullopt;
}

inline std::optional<std::filesystem::path> real_model() {
  return find_model("GQA_MODEL", "SmolLM2-135M-Instruct.Q4_1.gguf");
}
inline std::optional<std::filesystem::path> gemma3_model() {
  return find_model("GQA_GEMMA3_MODEL", "gemma-3-270m-q4_k_m.gguf");
}

}  // namespace generate::test

#define GENERATE_SKIP_WITHOUT_MODEL()                                    \
  if (!generate::test::real_model())                                     \
  GTEST_SKIP() << "the real model is not here; the target demo fetches " \
                  "it"

// The tiny models go through the same code; 135 million weights would take minutes.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define GENERATE_SKIP_UNDER_SANITIZERS() GTEST_SKIP() << "too slow under sanitizers"
#else
#define GENERATE_SKIP_UNDER_SANITIZERS() static_cast<void>(0)
#endif
