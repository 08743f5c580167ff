// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <sstream>
#include <string>

namespace generate::test {

/// SmolLM2-135M-Instruct.Q4_1.gguf, if it is there: where GQA_MODEL says, or where the demo puts it.
inline std::optional<std::filesystem::path> real_model() {
  if (const char* given = std::getenv("GQA_MODEL")) return given;
  std::istringstream folders(GENERATE_MODELS);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const auto path = std::filesystem::path(folder) / "SmolLM2-135M-Instruct.Q4_1.gguf";
    if (std::filesystem::exists(path)) return path;
  }
  return std::nullopt;
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
