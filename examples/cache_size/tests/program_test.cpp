// SPDX-License-Identifier: Apache-2.0
// The program as a person runs it. CACHE_SIZE is its path.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/outcome.hpp"

namespace {

using common::test::contains, common::test::Outcome;

Outcome run(const std::string& arguments) { return common::test::outcome_of(CACHE_SIZE, arguments); }

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

/// In a folder of its own.
class CacheSizeFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "cache_size-XXXXXX";
    ASSERT_NE(::mkdtemp(folder_.data()), nullptr);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  void write(const std::string& name, const std::string& text) const { std::ofstream(path(name)) << text; }
  std::string read(const std::string& name) const {
    std::ifstream file(path(name));
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::string folder_;
};

TEST(CacheSizeProgram, NamedModel) {
  const Outcome r = run("--model llama-3.1-70b");
  EXPECT_EQ(r.code, 0) << r.out;
  for (const char* part : {"Llama-3.1-70B: 80 layers, 64 query heads, head_dim 128; 131,072 tokens in bf16",
                           "Lightning-AI/litgpt", "343,597,383,680", "42,949,672,960", "5,368,709,120",
                           "327,680", "8.00x", "64.00x", "saved against MHA: 300.648 GB a sequence"})
    EXPECT_TRUE(contains(r.out, part)) << part << " in\n" << r.out;
}

TEST(CacheSizeProgram, AnyShape) {
  const Outcome r = run("--layers 61 --heads 128 --kv-heads 1 --head-dim 128 --context 100000 --dtype f16");
  EXPECT_EQ(r.code, 0) << r.out;
  for (const char* part : {"399.770 GB", "399,769,600,000", "3.123 GB", "128.00x"})
    EXPECT_TRUE(contains(r.out, part)) << part << " in\n" << r.out;
}

TEST(CacheSizeProgram, WhatFitsInMemory) {
  // 80 layers of 64 heads of 128 in bf16 take 2.62 MB a token, of 8 heads 0.33; 512 tokens at a time.
  Outcome r = run("--model Llama-3.1-70B --memory 640GB --weights 141GB --json");
  ASSERT_EQ(r.code, 0) << r.out;
  auto json = nlohmann::json::parse(r.out);
  EXPECT_EQ(json.at("fits")[0].at("users"), 499'000'000'000 / (2'621'440ll * 131072));
  EXPECT_EQ(json.at("fits")[1].at("users"), 499'000'000'000 / (327'680ll * 131072));
  EXPECT_EQ(json.at("weights"), 141'000'000'000);
  EXPECT_EQ(json.at("fits")[2].at("users"), 499'000'000'000 / (40'960ll * 131072));
  r = run("--model Llama-3.1-70B --memory 640GB --weights 141GB --users 4 --json");
  json = nlohmann::json::parse(r.out);
  EXPECT_EQ(json.at("fits")[0].at("context"), 499'000'000'000 / 4 / (512ll * 2'621'440) * 512);
  EXPECT_EQ(json.at("fits")[1].at("context"), 131072);
  r = run("--model Gemma-3-1B --memory 1GiB --weights 0 --users 100 --placement hybrid");
  EXPECT_EQ(r.code, 0) << r.out;
  EXPECT_TRUE(contains(r.out, "the longest context of 100 users at once, up to 32,768")) << r.out;
  r = run("--model DeepSeek-V3 --memory 80GB --weights 0 --context 4096");
  EXPECT_TRUE(contains(r.out, "this: MLA, 576 elements")) << r.out;
  r =
      run("--model Llama-3-8B --memory 24GB --weights 16GB --context 2048 --placement paged --shared-tokens "
          "1000");
  EXPECT_EQ(r.code, 0) << r.out;
  for (const char* wrong : {"--model Llama-3-8B --memory 10GB --weights 16GB", "--model Llama-3-8B --users 3",
                            "--memory 10GB --list", "--model Llama-3-8B --memory 10GB --dtype int8",
                            "--model Llama-3-8B --memory 10GB --placement stacked",
                            "--model Llama-3-8B --memory 10GB --placement paged --page-tokens 48",
                            "--model DeepSeek-V3 --memory 80GB --placement paged",
                            "--model Llama-3-8B --memory 10GB --users 0", "--model Llama-3-8B --memory -5"}) {
    r = run(wrong);
    EXPECT_EQ(r.code, 2) << wrong << "\n" << r.out;
    EXPECT_EQ(std::count(r.out.begin(), r.out.end(), '\n'), 1) << wrong << "\n" << r.out;
  }
}

TEST(CacheSizeProgram, EightDevicesAgainstFour) {
  const Outcome r = run("--model Llama-3.1-70B --device-memory 80GB --weights 141GB --json");
  ASSERT_EQ(r.code, 0) << r.out;
  const auto json = nlohmann::json::parse(r.out);
  EXPECT_EQ(json.at("devices")[0].at("count"), 8);
  EXPECT_EQ(json.at("devices")[1].at("count"), 4);
  EXPECT_NEAR(json.at("devices")[0].at("quotient").get<double>(), (141e9 + 343'597'383'680.0) / 80e9, 1e-9);
  EXPECT_EQ(json.at("devices")[0].at("cache").get<long>() - json.at("devices")[1].at("cache").get<long>(),
            300'647'710'720);
  const Outcome text = run("--model Llama-3.1-70B --device-memory 80GB --weights 141GB");
  EXPECT_TRUE(contains(text.out, "6.06x         8")) << text.out;
  EXPECT_TRUE(contains(
      text.out, "assumed: weights and caches split evenly over devices whose number is a power of two"))
      << text.out;
}

TEST(CacheSizeProgram, MoreUsersAtOnceAreANumber) {
  const Outcome r = run("--model Llama-3.1-70B --memory 640GB --weights 141GB");
  EXPECT_TRUE(contains(r.out, "11.0x")) << r.out;
  EXPECT_TRUE(contains(r.out, "MLA, 576 elements")) << r.out;
  EXPECT_FALSE(contains(r.out, "\nGQA, ")) << r.out;  // it is one
  EXPECT_TRUE(contains(run("--model Llama-2-7B --memory 80GB").out, "\nGQA, 8 KV heads")) << r.out;
  EXPECT_TRUE(
      contains(run("--model DeepSeek-V3 --memory 80GB --weights 0 --context 4096").out, "GQA, 8 KV heads"));
}

const std::string config =
    R"({"model_type": "llama", "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072})";

TEST_F(CacheSizeFiles, AreReadWhereverTheyStand) {
  write("config.json", config);
  for (const std::string& where : {path("config.json"), folder_, "- <" + path("config.json")}) {
    const Outcome r = run("--json --model " + where);
    ASSERT_EQ(r.code, 0) << r.out;
    EXPECT_EQ(nlohmann::json::parse(r.out).at("bytes_per_token"), 131072);
  }
  // Its weights are counted: 8,030,261,248 of two bytes, or of what is asked for.
  const auto weights = [&](const std::string& more) {
    const Outcome r = run("--json --memory 24GB --context 2048 " + more + " --model " + path("config.json"));
    EXPECT_EQ(r.code, 0) << r.out;
    return nlohmann::json::parse(r.out).at("weights");
  };
  EXPECT_EQ(weights(""), 2 * 8'030'261'248);
  EXPECT_EQ(weights("--weights-dtype q4_k"), (8'030'261'248 + 255) / 256 * 144);
  EXPECT_EQ(weights("--weights 5GB"), 5'000'000'000);
  const Outcome text = run("--memory 24GB --model " + path("config.json"));
  EXPECT_TRUE(contains(text.out,
                       "weights: 16.061 GB, 8,030,261,248 parameters in bf16 (counted by the architecture "
                       "llama)"))
      << text.out;
}

TEST_F(CacheSizeFiles, UsersAgainstContextAreDrawn) {
  const std::string model = "--model Llama-3.1-70B --memory 640GB --weights 141GB --plot ";
  Outcome r = run(model + path("users.svg"));
  EXPECT_EQ(r.code, 0) << r.out;
  EXPECT_TRUE(contains(r.out, "11.0x")) << r.out;
  const std::string svg = read("users.svg");
  EXPECT_EQ(svg.find("<svg xmlns"), 0u);
  for (const char* part :
       {"MHA, 64 KV heads", "this model", "Llama-3.1-70B (GQA, 8 KV heads)", "MQA, 1 KV head",
        "MLA, 576 elements", "tokens of each user", "users at once", "128k", "499.000 GB", "</svg>"})
    EXPECT_TRUE(contains(svg, part)) << part;
  for (const char* asks : {"http://", "https://", "url(", "<script", "<image"})
    EXPECT_EQ(svg.find(asks),
              asks == std::string("http://") ? svg.find("http://www.w3.org/2000/svg") : std::string::npos)
        << asks;
  r = run(model + "-");
  EXPECT_EQ(r.out, svg);
  // Eight lengths from 1,024 on, of each way to keep them.
  EXPECT_EQ(count(svg, "<circle"), 4 * (8 + 1));
}

TEST_F(CacheSizeFiles, MistakesAreOneLineAndExitCodeTwo) {
  write("config.json", config);
  write("empty.json", "");
  write("text.gguf", "this is no model");
  write("short.gguf", "GGUF");
  write("broken.json", "{\"num_hidden_layers\": ");
  write("deep.json", std::string(100'000, '['));
  write("list.json", "[]");
  write("nothing.json", "{}");
  write("unknown.json",
        config.substr(0, config.find("llama")) + "rodent" + config.substr(config.find("llama") + 5));
  write("wide.json",
        config.substr(0, config.size() - 1) + ", \"num_hidden_layers\": 60000, \"head_dim\": 2000000000}");
  write("tall.json", config.substr(0, config.size() - 1) + ", \"num_hidden_layers\": 2000000000}");
  const std::string good = "--model " + path("config.json") + " ";
  struct Bad {
    std::string arguments, message;
  };
  for (const Bad& bad : {
           Bad{"--model " + path("none.json"), "none.json: No such file"},
           {"--model " + path("none.gguf"), "none.gguf: No such file"},
           {"--model " + path("empty.json"), "empty.json: this is neither a GGUF file nor a config.json"},
           {"--model " + path("text.gguf"), "text.gguf: this is neither a GGUF file nor a config.json"},
           {"--model - </dev/null", "standard input: this is neither"},
           {"--model " + path("list.json"), "list.json: this is neither"},
           {"--model " + path("short.gguf"), "short.gguf: the file ends inside the version"},
           {"--model " + path("broken.json"),
            "broken.json: this is no config.json: it is not well-formed JSON"},
           {"--model " + path("deep.json"), "deep.json: this is neither"},
           {"--model " + path("nothing.json"), "nothing.json: num_hidden_layers is missing"},
           {"--model " + path("wide.json"), "overflows"},
           {"--model " + path("tall.json"), "num_hidden_layers is 2000000000, expected at most 65536"},
           {"--layers 2000000000 --heads 8 --kv-heads 2 --head-dim 64 --context 100 --memory 10GB",
            "layers is 2000000000, expected at most 65536"},
           {"--model " + folder_ + "/no/such", "No such file"},
           {"--model /dev/null", "cannot read /dev/null"},
           {good + "--context 131073", "context is 131073, expected at most the model's 131072"},
           {"--model Llama-3-8B --context 8193", "context is 8193, expected at most the model's 8192"},
           {good + "--context 0", "context is 0"},
           {good + "--local-layers 33", "local-layers is 33"},
           {good + "--layers 3", "exclude one another"},
           {good + "--memory 16GB", "budget is 16.000 GB, less than the weights' 16.061 GB"},
           {good + "--memory 24GB --weights-dtype q9", "weights-dtype is 'q9'"},
           {good + "--memory 24GB --weights-dtype q4_k --weights 3GB", "--weights"},
           {good + "--memory 24GB --device-memory 3GB", "--device-memory"},
           {good + "--device-memory 0", "device-memory is 0"},
           {good + "--memory 24GB --users -1", "users is -1"},
           {good + "--memory 24GB --placement paged --shared-tokens 4096 --context 64", "4096"},
           {"--model " + path("unknown.json") + " --memory 24GB",
            "what the weights take is not known (the parameters of a model of type rodent are not counted "
            "here): give "
            "--weights"},
           {"--model Llama-2-7B --memory 24GB --weights-dtype bf16", "give --weights"},
           {"--model DeepSeek-V3 --memory 80GB", "less than the weights' 1342.053 GB"},
           {"--model Llama-3-8B --local-layers 3", "--local-layers"},
           {good + "--plot " + path("a.svg"), "--memory"},
           {good + "--memory 24GB --plot " + path("no/a.svg"), "no/a.svg: No such file"},
           {good + "--memory 24GB --plot " + folder_, "Is a directory"},
           {good + "--memory 24GB --plot /dev/full", "/dev/full: No space left"},
           {good + "--memory 24GB --plot - --json", "both print to standard output"},
           {good + "--memory 16.07GB", "16.07"},
           {good + "--memory 16062MB --plot -", "nothing to plot: no user of 1,024 tokens fits in"},
       }) {
    const Outcome r = run(bad.arguments);
    EXPECT_EQ(r.code, 2) << bad.arguments << "\n" << r.out;
    EXPECT_EQ(std::count(r.out.begin(), r.out.end(), '\n'), 1) << bad.arguments << "\n" << r.out;
    EXPECT_EQ(r.out.find("cache_size: "), 0u) << bad.arguments << "\n" << r.out;
    EXPECT_TRUE(contains(r.out, bad.message)) << bad.arguments << "\n" << r.out;
  }
}

TEST(CacheSizeProgram, Json) {
  const Outcome r =
      run("--json --layers 30 --heads 9 --kv-heads 3 --head-dim 64 --context 8192 --dtype f32 --window 1024 "
          "--local-layers 20");
  ASSERT_EQ(r.code, 0) << r.out;
  const auto json = nlohmann::json::parse(r.out);
  EXPECT_EQ(json.at("kind"), "GQA");
  EXPECT_EQ(json.at("bytes_per_token"), 46080);
  EXPECT_EQ(json.at("bytes_per_sequence"), 1536 * (10 * 8192 + 20 * 1024));
  EXPECT_EQ(json.at("mha").at("bytes_per_sequence"), 3 * 46080 * 8192);
  EXPECT_EQ(json.at("mqa").at("bytes_per_token"), 15360);
  EXPECT_NEAR(json.at("ratio").get<double>(), 3.0 * 30 * 8192 / (10 * 8192 + 20 * 1024), 1e-12);
  EXPECT_FALSE(json.contains("source"));

  const auto model = nlohmann::json::parse(run("--json --model DeepSeek-V3 --context 100000").out);
  EXPECT_EQ(model.at("kind"), "MLA");
  EXPECT_EQ(model.at("bytes_per_sequence"), 7'027'200'000);
  EXPECT_EQ(model.at("mha").at("bytes_per_sequence"), 399'769'600'000);
  EXPECT_TRUE(contains(model.at("source"), "DeepSeek"));
}

TEST(CacheSizeProgram, List) {
  const Outcome r = run("--list");
  EXPECT_EQ(r.code, 0);
  EXPECT_EQ(run("").out, r.out);
  for (const char* part :
       {"GPT-3-175B", "MLA", "DeepSeek-V3", "536.87 MB", "32.00x", "[1] ", "arXiv:2005.14165"})
    EXPECT_TRUE(contains(r.out, part)) << part << " in\n" << r.out;
  const auto json = nlohmann::json::parse(run("--list --json --dtype f32").out);
  EXPECT_EQ(json.size(), 51u);
  EXPECT_EQ(json.at(41).at("name"), "SmolLM2-135M");
  EXPECT_EQ(json.at(41).at("bytes_per_token"), 46080);
  EXPECT_EQ(run("--json --dtype f32").out, run("--list --json --dtype f32").out);
  EXPECT_EQ(run("--json").out, run("--list --json").out);
  EXPECT_EQ(run("--json").code, 0);
  EXPECT_EQ(run("--dtype f32").out, run("--list --dtype f32").out);
}

TEST(CacheSizeProgram, WindowsAndLatentsAreExplained) {
  const Outcome window = run("--model gemma-3-27b");
  EXPECT_TRUE(contains(window.out, "52 of 62 layers keep the last 1,024 tokens only")) << window.out;
  EXPECT_TRUE(contains(window.out, "66,571,993,088")) << window.out;  // without it
  const Outcome latent = run("--model deepseek-v3");
  EXPECT_TRUE(contains(latent.out, "MLA, 576 elements")) << latent.out;
  EXPECT_TRUE(contains(latent.out, "GQA, 8 KV heads")) << latent.out;
}

TEST(CacheSizeProgram, HelpIsNotAnError) {
  const Outcome r = run("--help");
  EXPECT_EQ(r.code, 0);
  for (const char* option :
       {"--model", "--list", "--json", "--layers", "--heads", "--kv-heads", "--head-dim", "--value-dim",
        "--latent-dim", "--context", "--dtype", "--window", "--local-layers"})
    EXPECT_TRUE(contains(r.out, option)) << option;
}

TEST(CacheSizeProgram, BadInputIsOneLineAndExitCodeTwo) {
  const std::string shape = "--layers 2 --heads 8 --kv-heads 2 --head-dim 64 --context 100";
  struct Bad {
    std::string arguments, message;
  };
  for (const Bad& bad : {
           Bad{"--model nothing", "model is 'nothing'"},
           {"--model ''", "--layers is missing"},
           {"--model", "--model"},
           {"--nonsense", "--nonsense"},
           {"extra", "extra"},
           {"--layers 2 --heads 8 --kv-heads 2 --head-dim 64", "--context is missing"},
           {"--layers 2 --heads 8 --head-dim 64 --context 100", "--kv-heads is missing"},
           {"--context 100", "--layers is missing"},
           {shape + " --kv-heads 3", "kv-heads"},
           {"--layers 0 --heads 8 --kv-heads 2 --head-dim 64 --context 100", "layers is 0"},
           {"--layers 2 --heads 8 --kv-heads 3 --head-dim 64 --context 100", "multiple of kv-heads = 3"},
           {"--layers two --heads 8 --kv-heads 2 --head-dim 64 --context 100", "two"},
           {"--layers 2.5 --heads 8 --kv-heads 2 --head-dim 64 --context 100", "2.5"},
           {"--layers 99999999999999999999 --heads 8 --kv-heads 2 --head-dim 64 --context 100", "overflows"},
           {"--layers 9000000000000000000 --heads 8 --kv-heads 2 --head-dim 64 --context 100", "overflows"},
           {"--layers 2 --heads 8 --kv-heads 2 --head-dim 64 --context 0", "context is 0"},
           {"--model llama-3-8b --context -5", "context is -5"},
           {shape + " --dtype f8", "dtype is 'f8'"},
           {shape + " --window 0", "window is 0"},
           {shape + " --window -1", "window is -1"},
           {shape + " --window 5 --local-layers 3", "local-layers is 3"},
           {shape + " --local-layers 1", "--window"},
           {shape + " --value-dim 0", "value-dim is 0"},
           {shape + " --latent-dim 0", "latent-dim is 0"},
           {"--model llama-3-8b --layers 3", "--model, --list"},
           {"--list --model llama-3-8b", "exclude one another"},
           {"--list --local-layers 3", "exclude one another"},
       }) {
    const Outcome r = run(bad.arguments);
    EXPECT_EQ(r.code, 2) << bad.arguments << "\n" << r.out;
    EXPECT_EQ(std::count(r.out.begin(), r.out.end(), '\n'), 1) << bad.arguments << "\n" << r.out;
    EXPECT_TRUE(contains(r.out, "cache_size: ")) << bad.arguments << "\n" << r.out;
    EXPECT_TRUE(contains(r.out, bad.message)) << bad.arguments << "\n" << r.out;
  }
}

}  // namespace
