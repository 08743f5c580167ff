// SPDX-License-Identifier: Apache-2.0
// The program as a person runs it. CACHE_SIZE is its path.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

namespace {

struct Outcome {
  int code = -1;
  std::string out;  // both streams
};

Outcome run(const std::string& arguments) {
  Outcome outcome;
  std::FILE* pipe = popen(("'" CACHE_SIZE "' " + arguments + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return outcome;
  char text[4096];
  for (std::size_t n = 0; (n = std::fread(text, 1, sizeof text, pipe)) > 0;) outcome.out.append(text, n);
  const int status = pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

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
  EXPECT_EQ(json.at("fits")[2].at("users"), 499'000'000'000 / (40'960ll * 131072));
  r = run("--model Llama-3.1-70B --memory 640GB --weights 141GB --users 4 --json");
  json = nlohmann::json::parse(r.out);
  EXPECT_EQ(json.at("fits")[0].at("context"), 499'000'000'000 / 4 / (512ll * 2'621'440) * 512);
  EXPECT_EQ(json.at("fits")[1].at("context"), 131072);
  r = run("--model Gemma-3-1B --memory 1GiB --users 100 --placement hybrid");
  EXPECT_EQ(r.code, 0) << r.out;
  EXPECT_TRUE(contains(r.out, "the longest context of 100 users at once, up to 32,768")) << r.out;
  r = run("--model DeepSeek-V3 --memory 80GB --context 4096");
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
