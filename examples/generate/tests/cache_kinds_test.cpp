// SPDX-License-Identifier: Apache-2.0
// Where a session keeps its keys and values, and whether it came from a file, changes no bit of its scores.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "generation.hpp"
#include "program.hpp"
#include "session.hpp"

namespace generate {
namespace {

using test::Program;

std::vector<TokenId> some_tokens(std::size_t count) {
  std::vector<TokenId> ids(count);
  for (std::size_t i = 0; i < count; ++i) ids[i] = static_cast<TokenId>((i * i * 7 + 11 * i + 3) % 272);
  return ids;
}

test::GgufWriter windowed_model() {
  auto writer = test::tiny_model();
  writer.integer("llama.attention.sliding_window", 70);
  return writer;
}

class CacheKinds : public Program {
 protected:
  void SetUp() override {
    Program::SetUp();
    load(windowed_model());
  }
  void load(const test::GgufWriter& writer) {
    bytes_ = writer.file();
    file_.emplace(bytes_);
    model_.emplace(*file_, gqa::PoolExecutor(pool_));
  }
  std::unique_ptr<Session> session(CacheKind kind, CacheType type = CacheType::bf16) {
    return make_session(*model_, type, gqa::PoolExecutor(pool_), {}, kind);
  }

  /// The scores after a prompt in pieces and some single tokens.
  static Matrix scores(Session& session, std::span<const TokenId> tokens) {
    Matrix all(std::ssize(tokens), 272);
    for (std::size_t first = 0; first < tokens.size();) {
      const std::size_t n = std::min(tokens.size() - first, first < 100 ? std::size_t{33} : std::size_t{1});
      session.append(tokens.subspan(first, n));
      all.middleRows(static_cast<Index>(first), static_cast<Index>(n)) = session.all_logits();
      first += n;
    }
    return all;
  }

  std::vector<std::byte> bytes_;
  Eigen::ThreadPool pool_{2};
  std::optional<Gguf> file_;
  std::optional<Model> model_;
};

TEST_F(CacheKinds, ChangeNoBit) {
  const auto tokens = some_tokens(180);
  for (const CacheType type : {CacheType::f32, CacheType::f16, CacheType::bf16}) {
    const Matrix expected = scores(*session(CacheKind::contiguous, type), tokens);
    for (const CacheKind kind : {CacheKind::paged, CacheKind::ring})
      EXPECT_EQ(scores(*session(kind, type), tokens), expected) << kind_name(kind) << ", " << type_name(type);
  }
}

TEST_F(CacheKinds, ARingNeedsAWindow) {
  load(test::tiny_model());
  EXPECT_THROW(session(CacheKind::ring), std::invalid_argument);
  EXPECT_EQ(run_tiny({"--prompt", "the fox", "--cache", "ring"}).code, 2);
  write("tiny.gguf", windowed_model());
  const auto object = json({"--prompt", "the fox", "--max-tokens", "5", "--cache", "ring"});
  EXPECT_EQ(object["cache"], "ring");
  EXPECT_EQ(object["output_ids"], json({"--prompt", "the fox", "--max-tokens", "5"})["output_ids"]);
}

#ifdef GENERATE_FILES
TEST_F(CacheKinds, ComeBackFromFiles) {
  const auto tokens = some_tokens(180);
  const std::span all(tokens);
  for (const CacheKind kind : {CacheKind::contiguous, CacheKind::paged, CacheKind::ring}) {
    const auto one = session(kind), back = session(kind);
    scores(*one, all.first(120));
    one->save(path("cache"), "model");
    EXPECT_THROW(back->load(path("cache"), "another"), gqa::format_error);
    EXPECT_EQ(back->size(), 0);
    back->load(path("cache"), "model");
    EXPECT_EQ(back->size(), 120);
    EXPECT_EQ(scores(*back, all.subspan(120)), scores(*one, all.subspan(120))) << kind_name(kind);
  }
}

TEST_F(CacheKinds, TheProgramGoesOnFromAFile) {
  const std::string cache = path("cache");
  const auto first = json({"--prompt", "the fox", "--max-tokens", "4", "--save", cache});
  const auto next = json({"--prompt", " jumps", "--max-tokens", "8", "--load", cache});
  EXPECT_EQ(next["output_ids"], json({"--prompt", " jumps", "--max-tokens", "8", "--load", cache, "--cache",
                                      "paged"})["output_ids"]);
  // The same tokens in one go.
  auto tokens = first["prompt_ids"].get<std::vector<TokenId>>();
  for (const TokenId id : first["output_ids"]) tokens.push_back(id);
  for (const TokenId id : next["prompt_ids"]) tokens.push_back(id);
  load(test::tiny_model());
  const auto whole = session(CacheKind::contiguous, CacheType::f32);
  whole->append(tokens);
  const auto logits = whole->logits();
  EXPECT_EQ(next["output_ids"][0], std::ranges::max_element(logits) - logits.begin());

  EXPECT_EQ(run_tiny({"--prompt", "a", "--load", path("absent")}).code, 2);
  EXPECT_EQ(run_tiny({"--prompt", "a", "--load", cache, "--cache-dtype", "f16"}).code, 2);
  EXPECT_EQ(run_tiny({"--prompt", "a", "--load", path("tiny.gguf")}).code, 2);
  EXPECT_EQ(run_tiny({"--prompt", "a", "--save", path("absent/cache")}).code, 2);
}

/// Of the same name and sizes: nothing but the weights can tell.
TEST_F(CacheKinds, AModelTrainedFurtherIsRefused) {
  auto writer = test::tiny_model();
  writer.text("general.name", "tiny\nmodel");
  auto bytes = writer.file();
  write("tiny.gguf", bytes);
  const std::string cache = path("cache");
  EXPECT_EQ(run_tiny({"--prompt", "the fox", "--max-tokens", "2", "--save", cache}).code, 0);
  EXPECT_EQ(run_tiny({"--prompt", "a", "--max-tokens", "1", "--load", cache}).code, 0);
  bytes.back() ^= std::byte{1};
  write("tiny.gguf", bytes);
  const auto refused = run_tiny({"--prompt", "a", "--max-tokens", "1", "--load", cache});
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.err.find("the label is \"tiny model, xxh3 "), std::string::npos) << refused.err;
}

TEST_F(CacheKinds, AConversationGoesOnFromAFile) {
  const std::string cache = path("cache");
  const auto turns = [&](const std::string& text, std::vector<std::string> more) {
    std::ofstream(path("turns")) << text;
    more.insert(more.begin(), {"--model", path("tiny.gguf"), "--chat", "--max-tokens", "5"});
    const auto result = run(more, "", "<" + path("turns"));
    EXPECT_EQ(result.code, 0) << result.err;
    return result.out;
  };
  const std::string both = turns("one\ntwo\n", {});
  const std::string first = turns("one\n", {"--save", cache});
  EXPECT_EQ(first + turns("two\n", {"--load", cache}), both);
}
#endif

}  // namespace
}  // namespace generate
