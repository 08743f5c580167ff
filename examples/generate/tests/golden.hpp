// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <unsupported/Eigen/CXX11/ThreadPool>
#include <vector>

#include "chat_template.hpp"
#include "generation.hpp"
#include "mapped_file.hpp"
#include "utf8.hpp"

namespace generate::test {

/// A real model, and threads to compute with.
struct RealModel {
  RealModel(const std::filesystem::path& path, std::optional<WeightType> weights)
      : bytes(path),
        file(bytes.bytes()),
        tokenizer(file),
        pool(static_cast<int>(std::max(1U, std::thread::hardware_concurrency()))),
        model(file, gqa::PoolExecutor(pool), {.weights = weights}) {}

  std::unique_ptr<Session> session(CacheType type = CacheType::f32, CacheKind kind = CacheKind::contiguous) {
    return make_session(model, type, gqa::PoolExecutor(pool), {}, kind);
  }

  MappedFile bytes;
  Gguf file;
  Tokenizer tokenizer;
  Eigen::ThreadPool pool;
  Model model;
};

/// What data/make_expected_ids.py wrote of a model.
inline nlohmann::json golden_prompts(const std::string& name) {
  std::ifstream data(std::string(GENERATE_TEST_DATA "/") + name);
  return nlohmann::json::parse(data)["prompts"];
}

/// The prompt becomes the same ids. Then transformers' own output is fed a token at a time: at each step the
/// score of the token it chose must be as it was there, up to `tolerance`, and the highest, unless another
/// was within twice that (or 0.02) of it.
inline void expect_agreement(RealModel& real, const nlohmann::json& prompt, float tolerance,
                             CacheKind kind = CacheKind::contiguous) {
  const std::string text = prompt["text"];
  const auto ids = real.tokenizer.encode(prompt["chat"] ? ChatTemplate(real.file).render(text) : text);
  ASSERT_EQ(ids, prompt["prompt_ids"].get<std::vector<TokenId>>());

  const auto session = real.session(CacheType::f32, kind);
  for (std::size_t first = 0; first < ids.size(); first += 256)
    session->append(std::span(ids).subspan(first, std::min<std::size_t>(256, ids.size() - first)));
  const auto outputs = prompt["output_ids"].get<std::vector<TokenId>>();
  const auto scores = prompt["top_logits"].get<std::vector<float>>();
  const auto close = prompt["close_steps"].get<std::vector<std::size_t>>();
  Utf8Stream stream;
  std::string decoded;
  for (std::size_t step = 0; step < outputs.size(); ++step) {
    const auto logits = session->logits();
    ASSERT_NEAR(logits[static_cast<std::size_t>(outputs[step])], scores[step], tolerance) << "step " << step;
    if (std::ranges::find(close, step) == close.end()) {
      ASSERT_EQ(most_likely(logits), outputs[step]) << "step " << step;
    }
    decoded += stream.push(real.tokenizer.bytes(outputs[step]));
    session->append({&outputs[step], 1});
  }
  EXPECT_EQ(decoded + stream.finish(), prompt["output_text"].get<std::string>());
}

}  // namespace generate::test
