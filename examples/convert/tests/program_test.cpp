// SPDX-License-Identifier: Apache-2.0
// The program as it is run.
#include <algorithm>

#include "converted_model.hpp"
#include "real_model.hpp"

namespace convert {
namespace {

using generate::GgufTensor;
using Program = test::Converter;

TEST_F(Program, CopiesHeadsExactly) {
  const auto object = converted({"--kv-heads", "4", "--perplexity", text("text")});
  EXPECT_EQ(object["kv_heads_before"], 2);
  EXPECT_EQ(object["kv_heads_after"], 4);
  EXPECT_EQ(object["perplexity"]["before"], object["perplexity"]["after"]);
  EXPECT_EQ(object["cache_elements_per_token"]["before"], 2 * 2 * 32);
  EXPECT_EQ(object["cache_elements_per_token"]["after"], 2 * 4 * 32);
  EXPECT_EQ(object["file_bytes"]["after"], std::filesystem::file_size(path("out.gguf")));
  EXPECT_EQ(scores("out.gguf"), scores("tiny.gguf"));
  EXPECT_EQ(generated("out.gguf")["output_ids"], generated("tiny.gguf")["output_ids"]);
  EXPECT_EQ(generated("out.gguf")["kv_cache"]["now"]["bytes"],
            generated("out.gguf")["kv_cache"]["now"]["mha_bytes"]);
  // And back: two of four heads that are alike in pairs.
  const auto back = run({"--model", path("out.gguf"), "--out", path("back.gguf"), "--kv-heads", "2"});
  EXPECT_EQ(back.code, 0) << back.err;
  EXPECT_EQ(scores("back.gguf"), scores("tiny.gguf"));
}

TEST_F(Program, LeavesAModelOfAsManyHeadsAsItIs) {
  for (const char* method : {"mean", "first", "medoid", "aligned_mean"}) {
    EXPECT_EQ(convert({"--kv-heads", "2", "--method", method}).code, 0);
    auto bytes = generate::test::read(path("tiny.gguf"));
    bytes.resize((bytes.size() + 31) / 32 * 32);
    EXPECT_TRUE(generate::test::read(path("out.gguf")) == bytes) << method;
  }
}

TEST_F(Program, WritesFilesOfFewerHeadsByEveryMethod) {
  std::ofstream(path("factors")) << R"({"along": "heads", "layers": [{"keys": [0.5, 0.5], "values": [1, 0]},
                                       {"keys": [1, 0], "values": [0.25, 0.75]}]})";
  const auto before = scores("tiny.gguf");
  for (const char* method : {"mean", "first", "medoid", "random", "weighted", "aligned_mean"}) {
    SCOPED_TRACE(method);
    std::vector<std::string> arguments{"--kv-heads", "1", "--method", method, "--perplexity", text("text")};
    if (std::string(method) == "weighted") arguments.insert(arguments.end(), {"--factors", path("factors")});
    const auto object = converted(arguments);
    EXPECT_EQ(object["method"], method);
    EXPECT_EQ(object["kv_heads_after"], 1);
    EXPECT_EQ(object["cache_elements_per_token"]["after"], 2 * 32);
    EXPECT_NE(object["perplexity"]["before"], object["perplexity"]["after"]);
    EXPECT_EQ(object["by_layer"].size(), 2U);
    EXPECT_EQ(object["by_layer"][1]["groups"], (std::vector<int>{0, 0}));
    EXPECT_GT(object["by_layer"][0]["relative_error"], 0);
    EXPECT_GT(distance(before, scores("out.gguf")), 1e-3);
    EXPECT_EQ(generated("out.gguf")["output_ids"].size(), 20U);
    EXPECT_TRUE(clean());
  }
}

// Alignment must turn the pairs that this file format rotates; the mean of heads in different bases is none.
TEST_F(Program, LosesNothingWhereHeadsDifferByTheirBasis) {
  write("turned.gguf", test::turned_model());
  const auto before = scores("turned.gguf");
  const auto by = [&](const char* method, std::vector<std::string> more = {}) {
    more.insert(more.end(), {"--kv-heads", "1", "--type", "F32", "--method", method});
    const auto result = convert(more, "turned.gguf");
    EXPECT_EQ(result.code, 0) << result.err;
    return distance(before, scores("out.gguf"));
  };
  // Weights of 0.15 rounded to F32 twice: 64 of them a sum, two layers.
  EXPECT_LT(by("aligned_mean"), 1e-5);
  EXPECT_LT(by("aligned_mean", {"--calibration", text("text"), "--noise", "0.01"}), 1e-5);
  EXPECT_GT(by("mean"), 0.05);
  EXPECT_GT(by("first"), 0.05);
}

TEST_F(Program, WritesTheTypeItIsTold) {
  const auto file_type = [&] {
    const std::string bytes = generate::test::read(path("out.gguf"));
    const generate::Gguf file(std::as_bytes(std::span(bytes)));
    for (const GgufTensor& tensor : file.tensors())
      EXPECT_EQ(tensor.type == generate::TensorType::f32,
                tensor.rows() == 1 || file.integer("general.file_type") == 0)
          << tensor.name;
    return file.integer("general.file_type");
  };
  const auto before = scores("tiny.gguf");
  EXPECT_EQ(convert({"--kv-heads", "4", "--type", "F32"}).code, 0);
  EXPECT_EQ(file_type(), 0);
  EXPECT_EQ(scores("out.gguf"), before);
  EXPECT_EQ(convert({"--kv-heads", "4", "--type", "F16"}).code, 0);
  EXPECT_EQ(file_type(), 1);
  EXPECT_LT(distance(before, scores("out.gguf")), 2e-3);
  EXPECT_EQ(convert({"--kv-heads", "4", "--type", "Q8_0"}).code, 0);
  EXPECT_EQ(file_type(), 7);
  {
    const std::string bytes = generate::test::read(path("out.gguf"));
    EXPECT_EQ(generate::Gguf(std::as_bytes(std::span(bytes))).integer("general.quantization_version"), 2);
  }
  EXPECT_LT(distance(before, scores("out.gguf")), 3e-2);
  EXPECT_GT(distance(before, scores("out.gguf")), 0);
}

TEST_F(Program, ConvertsByAMapOfUnequalGroups) {
  // 4 KV heads, of which three become one: a file needs it three times.
  ASSERT_EQ(convert({"--kv-heads", "4"}).code, 0);
  std::filesystem::rename(path("out.gguf"), path("four.gguf"));
  const auto result = convert({"--map", "0,1,0,0", "--method", "first", "--json"}, "four.gguf");
  ASSERT_EQ(result.code, 0) << result.err;
  const auto object = nlohmann::json::parse(result.out);
  EXPECT_EQ(object["kv_heads_after"], 4);
  EXPECT_EQ(object["by_layer"][0]["groups"], (std::vector<int>{0, 1, 0, 0}));
  EXPECT_EQ(object["cache_elements_per_token"]["after"], 2 * 4 * 32);
  // Heads 0 and 1 of the four are the first of the two there were, so all read that now.
  EXPECT_EQ(convert({"--kv-heads", "1", "--method", "first"}).code, 0);
  const auto only_first = scores("out.gguf");
  EXPECT_EQ(convert({"--map", "0,1,0,0", "--method", "first"}, "four.gguf").code, 0);
  EXPECT_LT(distance(only_first, scores("out.gguf")), 1e-3) << "Wo is F16 where its columns moved";
}

TEST_F(Program, GroupsByFreeSizesAndDrawsThem) {
  ASSERT_EQ(convert({"--kv-heads", "4"}).code, 0);
  std::filesystem::rename(path("out.gguf"), path("four.gguf"));  // heads 0 and 1 are alike, and 2 and 3
  const auto before = scores("tiny.gguf");
  const auto by = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(),
                     {"--grouping", "asymmetric", "--json", "--type", "F32", "--groups", path("groups")});
    const auto result = convert(arguments, "four.gguf");
    EXPECT_EQ(result.code, 0) << result.err;
    return nlohmann::json::parse(result.out);
  };
  const auto three = by({"--kv-heads", "3"});
  EXPECT_EQ(three["distinct_kv_heads"], 6);
  EXPECT_EQ(three["kv_heads_after"], 4);
  EXPECT_LT(distance(before, scores("out.gguf")), 1e-6);
  const auto enough = by({"--budget", "4"});
  EXPECT_EQ(enough["distinct_kv_heads"], 4);
  EXPECT_EQ(enough["kv_heads_after"], 2);
  EXPECT_EQ(enough["by_layer"][1]["groups"], (std::vector<int>{0, 0, 1, 1}));
  EXPECT_LT(distance(before, scores("out.gguf")), 1e-6);
  const auto less = by({"--budget", "3", "--calibration", text("text")});
  EXPECT_EQ(less["distinct_kv_heads"], 3);
  EXPECT_GT(distance(before, scores("out.gguf")), 1e-3);
  EXPECT_EQ(by({"--budget", "1000"})["distinct_kv_heads"], 4) << "more would not help";
  for (const char* picture : {"groups/layer-0.svg", "groups/layer-1.svg"}) {
    const std::string svg = generate::test::read(path(picture));
    EXPECT_TRUE(svg.starts_with("<svg") && svg.ends_with("</svg>\n")) << picture;
    EXPECT_NE(svg.find("<title>4 heads in 2 groups"), std::string::npos);
  }
  const std::string table = generate::test::read(path("groups/groups.txt"));
  EXPECT_TRUE(table.starts_with("layer 0\ngroup  heads")) << table;
  EXPECT_NE(table.find("layer 1\n"), std::string::npos);
  const auto report = convert({"--budget", "3", "--grouping", "asymmetric"}, "four.gguf");
  EXPECT_NE(report.out.find("KV heads    3 in all, 1 to 2 a layer: "), std::string::npos) << report.out;
}

TEST_F(Program, ConvertsBiases) {
  auto writer = generate::test::tiny_model();
  const std::pair<const char*, std::uint64_t> parts[] = {
      {"attn_q", 64}, {"attn_k", 32}, {"attn_v", 32}, {"attn_output", 64}};
  for (const auto& [part, size] : parts) {
    std::vector<float> bias(size);
    for (std::size_t i = 0; i < size; ++i) bias[i] = static_cast<float>(i * i % 17) / 8 - 1;
    const auto bytes = std::as_bytes(std::span(bias));
    writer.tensor(std::string("blk.1.") + part + ".bias", {size}, generate::TensorType::f32,
                  {bytes.begin(), bytes.end()});
  }
  write("biases.gguf", writer);
  EXPECT_GT(distance(scores("biases.gguf"), scores("tiny.gguf")), 1e-3);
  EXPECT_EQ(convert({"--kv-heads", "4"}, "biases.gguf").code, 0);
  EXPECT_EQ(scores("out.gguf"), scores("biases.gguf"));
  EXPECT_EQ(convert({"--kv-heads", "1"}, "biases.gguf").code, 0);
  const std::string bytes = generate::test::read(path("out.gguf"));
  const generate::Gguf file(std::as_bytes(std::span(bytes)));
  for (const char* name : {"blk.1.attn_k.bias", "blk.1.attn_v.bias"}) {
    std::vector<float> bias(16);
    generate::dequantize(generate::TensorType::f32, file.find_tensor(name)->data, bias);
    for (std::size_t i = 0; i < 16; ++i)
      EXPECT_EQ(bias[i], static_cast<float>(i * i % 17 + (i + 16) * (i + 16) % 17) / 16 - 1) << name << i;
  }
}

TEST_F(Program, ComparesHeadsAsTheMethodJoinsThemUnlessToldOtherwise) {
  const auto distance = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--kv-heads", "1", "--grouping", "clustered"});
    return converted(arguments)["distance"];
  };
  EXPECT_EQ(distance({}), "plain");
  EXPECT_EQ(distance({"--method", "aligned_mean"}), "aligned");
  EXPECT_EQ(distance({"--method", "aligned_mean", "--distance", "cka"}), "cka");
  EXPECT_FALSE(converted({"--kv-heads", "1"}).contains("distance"));
}

TEST_F(Program, FactorisesAndReportsTheLatentCache) {
  const auto all = converted({"--kv-heads", "2", "--method", "low_rank", "--type", "F32"});
  EXPECT_EQ(all["kv_heads_after"], 2);
  EXPECT_LT(distance(scores("tiny.gguf"), scores("out.gguf")), 1e-5) << "full rank: 64 inputs";
  const auto half = converted(
      {"--kv-heads", "1", "--method", "low_rank", "--calibration", text("text"), "--noise", "0.001"});
  EXPECT_EQ(half["cache_elements_per_token"]["after"], 2 * 32);
  EXPECT_GT(distance(scores("tiny.gguf"), scores("out.gguf")), 1e-3);
  EXPECT_EQ(half["calibration_tokens"].get<int>(),
            converted({"--kv-heads", "1", "--calibration", text("text")})["calibration_tokens"]);
}

TEST_F(Program, GivesTheSameBytesOnAnyNumberOfThreads) {
  const auto bytes = [&](const char* threads) {
    EXPECT_EQ(convert({"--kv-heads", "1", "--method", "aligned_mean", "--calibration", text("text"),
                       "--noise", "0.1", "--threads", threads})
                  .code,
              0);
    return generate::test::read(path("out.gguf"));
  };
  EXPECT_TRUE(bytes("1") == bytes("3"));
}

TEST_F(Program, PrintsAReport) {
  const auto result = convert({"--kv-heads", "1", "--grouping", "clustered", "--keep-norms", "--perplexity",
                               text("text"), "--tokens", "100", "--context", "40"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  for (const char* part :
       {"model       tiny: 2 layers, 4 query heads, 2 KV heads",
        "conversion  mean of clustered groups, norms kept", "out.gguf: 1 KV heads",
        "KV cache    0.1 MB before, 0.0 MB after (f16, 200 tokens)", "lost  ", "perplexity  ", "(97 tokens)"})
    EXPECT_NE(result.out.find(part), std::string::npos) << part << " in\n" << result.out;
}

TEST_F(Program, ConvertsARealModel) {
  GENERATE_SKIP_WITHOUT_MODEL();
  GENERATE_SKIP_UNDER_SANITIZERS();
  const std::string model = generate::test::real_model()->string();
  const auto converted = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--model", model, "--out", path("out.gguf"), "--json", "--perplexity",
                                       CONVERT_TEXTS "/ecclesiastes.txt", "--tokens", "48"});
    const auto result = run(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return nlohmann::json::parse(result.out);
  };
  const auto nine = converted({"--kv-heads", "9"});
  EXPECT_EQ(nine["kv_heads_before"], 3);
  EXPECT_EQ(nine["kv_heads_after"], 9);
  const double before = nine["perplexity"]["before"];
  EXPECT_LT(before, 40);
  EXPECT_EQ(nine["perplexity"]["after"], before);
  EXPECT_EQ(generated("out.gguf")["output_ids"].size(), 20U);
  const auto one = converted({"--kv-heads", "1"});
  EXPECT_EQ(one["perplexity"]["before"], before);
  EXPECT_GT(one["perplexity"]["after"], before);
  EXPECT_EQ(one["cache_elements_per_token"]["before"], 30 * 3 * 128);
  EXPECT_EQ(one["cache_elements_per_token"]["after"], 30 * 128);
  EXPECT_EQ(generated("out.gguf")["kv_cache"]["now"]["bytes"],
            generated("out.gguf")["kv_cache"]["now"]["mqa_bytes"]);
}

}  // namespace
}  // namespace convert
