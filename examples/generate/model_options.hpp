// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <thread>

#include "command_line.hpp"
#include "gqa/core/error.hpp"
#include "mapped_file.hpp"
#include "prompt.hpp"
#include "session.hpp"

namespace generate {

/// What the weights of linear layers are kept as.
inline void add_weights_option(CLI::App& app, std::string& weights) {
  app.add_option("--weights", weights,
                 "element type of the weights in memory; auto: 16 bits where the file has 16 or fewer")
      ->check(CLI::IsMember({"auto", "f32", "f16", "bf16"}))
      ->capture_default_str();
}

/// The options of every program that has a model read one text.
struct ReadingOptions {
  std::filesystem::path model;
  std::optional<std::string> given_text;
  std::optional<std::filesystem::path> text_file;
  Index num_threads = std::max<Index>(1, std::thread::hardware_concurrency());
  std::string weights = "auto";

  void add_to(CLI::App& app) {
    app.add_option("--model", model, "model to load; - is standard input")->type_name("GGUF")->required();
    auto* text = app.add_option("--text", given_text, "text for the model to read");
    app.add_option("--text-file", text_file, "file that holds it; - is standard input")
        ->type_name("FILE")
        ->excludes(text);
    app.add_option("--threads", num_threads, "threads to compute with")
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    add_weights_option(app, weights);
  }
  /// Of what was parsed. Throws std::invalid_argument.
  void check() const {
    GQA_CHECK(given_text || text_file, std::invalid_argument, "--text or --text-file is required");
    GQA_CHECK(text_file || !given_text->empty(), std::invalid_argument, "--text is empty");
    GQA_CHECK(!text_file || !is_standard_input(*text_file) || !is_standard_input(model),
              std::invalid_argument, "--text-file and --model both read standard input");
  }
  std::string read_text() const {
    return text_file ? read_prompt_file(*text_file, "--text-file") : *given_text;
  }
};

/// The options of every program that has a model continue texts.
struct ModelOptions {
  std::filesystem::path model;
  bool chat = false;
  Index max_tokens = 64;
  Index num_threads = std::max<Index>(1, std::thread::hardware_concurrency());
  std::string weights = "auto";
  std::string cache_dtype = "f32";
  bool json = false;

  void add_to(CLI::App& app) {
    constexpr auto largest = std::numeric_limits<std::int32_t>::max();
    app.add_option("--model", model, "model to load; - is standard input")->type_name("GGUF")->required();
    app.add_flag("--chat", chat, "put each prompt into the model's chat template");
    app.add_option("--max-tokens", max_tokens, "most tokens to generate for each text")
        ->check(CLI::Range(1, largest))
        ->capture_default_str();
    app.add_option("--threads", num_threads, "threads to compute with")
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    add_weights_option(app, weights);
    app.add_option("--cache-dtype", cache_dtype, "element type of the KV cache")
        ->check(CLI::IsMember({"f32", "f16", "bf16"}))
        ->capture_default_str();
    app.add_flag("--json", json, "print one JSON object");
  }

  std::optional<WeightType> weight_type() const { return generate::weight_type(weights); }
  CacheType cache_type() const {
    return cache_dtype == "f16" ? CacheType::f16 : cache_dtype == "bf16" ? CacheType::bf16 : CacheType::f32;
  }
};

}  // namespace generate
