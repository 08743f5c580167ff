// SPDX-License-Identifier: Apache-2.0
// Small models of every architecture against what transformers makes of them.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "batch.hpp"
#include "report.hpp"
#include "session.hpp"
#include "small_architectures.hpp"

namespace generate {
namespace {

using test::small_architecture;

struct Loaded {
  explicit Loaded(const test::GgufWriter& writer)
      : bytes(writer.file()), file(bytes), model(file, gqa::PoolExecutor(pool)) {}

  std::unique_ptr<Session> session(CacheKind kind = CacheKind::contiguous) {
    return make_session(model, CacheType::f32, gqa::PoolExecutor(pool), {}, kind);
  }

  std::vector<std::byte> bytes;
  Gguf file;
  Eigen::ThreadPool pool{2};
  Model model;
};

Matrix scores(Session& session, std::size_t chunk) {
  const auto tokens = test::small_text();
  Matrix all(std::ssize(tokens), 97);
  for (std::size_t first = 0; first < tokens.size(); first += chunk) {
    const auto piece = std::span(tokens).subspan(first, std::min(chunk, tokens.size() - first));
    session.append(piece);
    all.middleRows(static_cast<Index>(first), std::ssize(piece)) = session.all_logits();
  }
  return all;
}

TEST(Architecture, AgreesWithTransformers) {
  std::ifstream file(GENERATE_TEST_DATA "/architecture_scores.json");
  int models = 0;
  for (const auto& expected : nlohmann::json::parse(file)) {
    const std::string name = expected["name"];
    Loaded small(small_architecture(name, expected["layers"]));
    const Matrix ours = scores(*small.session(), 25);
    const auto rows = expected["rows"].get<std::vector<Index>>();
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const auto row = expected["scores"][r].get<std::vector<float>>();
      ASSERT_EQ(std::ssize(row), ours.cols());
      for (Index i = 0; i < ours.cols(); ++i)
        // The norms keep what a layer adds to about 1, and each sum of up to 80 products rounds a few times.
        ASSERT_NEAR(ours(rows[r], i), row[static_cast<std::size_t>(i)], 2e-5)
            << name << " of " << expected["layers"] << " layers, after token " << rows[r];
    }
    ++models;
  }
  EXPECT_EQ(models, 5);
}

// Layers with a window of 8 and one without: the same bits wherever keys and values are, and however the text
// is cut.
TEST(Architecture, CachesChangeNoBitWhereLayersDiffer) {
  Loaded small(small_architecture("gemma3", 7));
  const Matrix expected = scores(*small.session(), 25);
  for (const CacheKind kind : {CacheKind::contiguous, CacheKind::paged, CacheKind::ring}) {
    for (const std::size_t chunk : {1UL, 7UL, 25UL})
      EXPECT_EQ(scores(*small.session(kind), chunk), expected) << kind_name(kind) << " " << chunk;
  }
  Batch<float> batch(small.model, gqa::PoolExecutor(small.pool), 2);
  const auto id = batch.cache().create();
  const auto tokens = test::small_text();
  batch.step(std::vector<Piece>{{id, tokens}});
  EXPECT_EQ(batch.logits(std::vector<Index>{0}).row(0), expected.row(24));
}

// Of 1,200 tokens five layers keep the window of 8, a span, what truncating may take back, and what the tiles
// they lie in have besides.
TEST(Architecture, ARingKeepsLessOfTheLayersWithAWindow) {
  auto writer = small_architecture("gemma3", 6);
  writer.integer("gemma3.context_length", 2000);
  Loaded small(writer);
  const auto ring = small.session(CacheKind::ring), all = small.session();
  const std::vector<TokenId> tokens(400, 5);
  for (int i = 0; i < 3; ++i) {
    ring->append(tokens);
    all->append(tokens);
  }
  const Index token = 2 * 16 * 4;
  EXPECT_EQ(all->cache_bytes(), 6 * 1200 * token);
  EXPECT_GE(ring->cache_bytes(), (1200 + 5 * (8 + ring_span)) * token);
  EXPECT_LE(ring->cache_bytes(), (1200 + 5 * (8 + 2 * ring_span + 2 * 64)) * token);
  EXPECT_EQ(ring->all_logits(), all->all_logits());
  EXPECT_EQ(cache_bytes(small.model.sizes, CacheType::bf16, CacheKind::ring, 2000),
            (2000 + 5 * 8) * token / 2);
  EXPECT_EQ(cache_bytes(small.model.sizes, CacheType::f32, CacheKind::paged, 2000), 6 * 2000 * token);
  const CacheSizes sizes = cache_sizes(small.model.sizes, 1200, all->cache_bytes());
  EXPECT_EQ(sizes.mha, 4 * sizes.gqa);
  EXPECT_EQ(sizes.mqa, sizes.gqa);
}

// A branch behind a text that is longer than the window.
TEST(Architecture, TreesSeeEachLayersWindow) {
  Loaded small(small_architecture("gemma3", 7));
  const auto tokens = test::small_text();
  const std::span text(tokens);
  const Matrix expected = scores(*small.session(), 25);
  for (const CacheKind kind : {CacheKind::contiguous, CacheKind::ring}) {
    const auto session = small.session(kind);
    session->append(text.first(20));
    std::vector<TokenId> draft(text.begin() + 20, text.end());
    draft.push_back(3);
    session->append_tree(draft, std::vector<Index>{-1, 0, 1, 2, 3, -1});
    EXPECT_EQ(session->all_logits().topRows(5), expected.bottomRows(5)) << kind_name(kind);
  }
}

std::string error_of(const test::GgufWriter& writer) {
  try {
    const Loaded small(writer);
  } catch (const gqa::format_error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Architecture, NeedsItsOwnTensorsAndNoOthers) {
  const auto without = [](const char* architecture, const std::string& tensor) {
    auto writer = small_architecture(architecture, 2);
    std::erase_if(writer.tensors, [&](const auto& each) { return each.name == tensor; });
    EXPECT_EQ(error_of(writer), "tensor " + tensor + " is missing");
  };
  without("qwen2", "blk.1.attn_q.bias");
  without("qwen2", "blk.0.attn_k.bias");
  without("qwen2", "blk.1.attn_v.bias");
  without("qwen3", "blk.0.attn_q_norm.weight");
  without("qwen3", "blk.1.attn_k_norm.weight");
  without("gemma3", "blk.1.post_attention_norm.weight");
  without("gemma3", "blk.0.post_ffw_norm.weight");
  auto writer = small_architecture("qwen2", 2);
  writer.tensor("blk.0.attn_q_norm.weight", {12}, TensorType::f32, std::vector<std::byte>(48));
  EXPECT_EQ(error_of(writer),
            "tensor blk.0.attn_q_norm.weight is not part of a qwen2 model as this program knows it");
  auto wide = small_architecture("qwen3", 2);
  wide.find("blk.0.attn_q_norm.weight").sizes = {8, 2};
  EXPECT_EQ(error_of(wide), "tensor blk.0.attn_q_norm.weight is [8, 2], expected [16, 1]");
}

TEST(Architecture, ReadsTheKeysOfItsOwn) {
  const auto read = [](auto change, const char* architecture = "gemma3") {
    auto writer = small_architecture(architecture, 7);
    change(writer);
    const auto bytes = writer.file();
    return read_hyperparameters(Gguf(bytes));
  };
  const auto plain = read([](auto&) {});
  EXPECT_EQ(plain.windows, gqa::LayerPattern(5, 1));
  EXPECT_EQ(plain.window(4), 8);
  EXPECT_EQ(plain.window(5), 200);
  EXPECT_EQ(plain.local_rope.theta, 10000);
  EXPECT_EQ(plain.rope.theta, 1e6);
  EXPECT_EQ(read([](auto& w) { w.integer("gemma3.attention.sliding_window_pattern", 3); }).windows,
            gqa::LayerPattern(2, 1));
  EXPECT_FALSE(read([](auto& w) { w.integer("gemma3.attention.sliding_window_pattern", 1); }).has_windows());
  EXPECT_EQ(read([](auto& w) { w.real("gemma3.rope.freq_base_swa", 500); }).local_rope.theta, 500);
  const auto none = read([](auto& w) { w.integer("gemma3.attention.sliding_window", 0); });
  EXPECT_FALSE(none.has_windows());
  EXPECT_EQ(none.window(0), 200);
  const auto windowed = read([](auto& w) { w.integer("qwen3.attention.sliding_window", 9); }, "qwen3");
  EXPECT_EQ(windowed.window(6), 9);

  const auto refused = [&](auto change, const std::string& part, const char* architecture = "gemma3") {
    std::string error = "no error";
    try {
      (void)read(change, architecture);
    } catch (const gqa::format_error& caught) {
      error = caught.what();
    }
    EXPECT_NE(error.find(part), std::string::npos) << error;
  };
  refused([](auto& w) { w.integer("gemma3.attention.sliding_window_pattern", 0); },
          "key gemma3.attention.sliding_window_pattern is 0, expected 1 to");
  refused([](auto& w) { w.real("gemma3.rope.freq_base_swa", 0); }, "theta is 0");
  refused([](auto& w) { w.real("gemma3.attention.layer_norm_rms_epsilon", 0); }, "rms_epsilon is 0");
  refused([](auto& w) { w.real("gemma3.final_logit_softcapping", 30); },
          "gemma3.final_logit_softcapping is not supported but as 0");
  refused([](auto& w) { w.integer("qwen3.attention.sliding_window_pattern", 6); },
          "the hyper-parameter qwen3.attention.sliding_window_pattern is not supported", "qwen3");
  refused([](auto& w) { w.text("qwen2.tensor_data_layout", "Meta AI original pth"); },
          "qwen2.tensor_data_layout is Meta AI original pth, expected reference", "qwen2");
}

}  // namespace
}  // namespace generate
