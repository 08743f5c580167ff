// SPDX-License-Identifier: Apache-2.0
// The program as it is run: what it prints, and exit code 2 with one line for whatever is wrong.
#include "program.hpp"

#include <sys/stat.h>

#include <cmath>

namespace generate {
namespace {

using test::Program;

TEST_F(Program, PrintsOneJsonObject) {
  const auto object = json({"--prompt", "the fox", "--max-tokens", "6", "--threads", "2"});
  EXPECT_EQ(object["prompt_ids"].size(), 5U);
  EXPECT_EQ(object["output_ids"].size(), object["generated_tokens"]);
  EXPECT_LE(object["output_ids"].size(), 6U);
  EXPECT_TRUE(object["text"].is_string());
  EXPECT_EQ(object["threads"], 2);
  EXPECT_EQ(object["cache_dtype"], "f32");
  const int tokens = 5 + static_cast<int>(object["output_ids"].size()) - 1;
  // 2 layers, 2 KV heads, 16 key and 16 value elements of 4 bytes.
  const auto now = object["kv_cache"]["now"], full = object["kv_cache"]["full_context"];
  EXPECT_EQ(now["tokens"], tokens);
  EXPECT_EQ(now["bytes"], tokens * 2 * 2 * 32 * 4);
  EXPECT_EQ(now["mha_bytes"], tokens * 2 * 4 * 32 * 4);
  EXPECT_EQ(now["mqa_bytes"], tokens * 2 * 1 * 32 * 4);
  EXPECT_EQ(full["tokens"], 200);
  EXPECT_EQ(full["bytes"], 200 * 2 * 2 * 32 * 4);
  for (const char* rate : {"prompt_tokens_per_second", "generation_tokens_per_second"})
    EXPECT_GT(object[rate], 0);
  EXPECT_GT(object["attention_share"], 0);
  EXPECT_LT(object["attention_share"], 1);
}

TEST_F(Program, NamesOfAnyBytesLeaveTheJsonValid) {
  auto writer = test::tiny_model();
  writer.text("general.name", "ti\xFFny");
  write("tiny.gguf", writer);
  EXPECT_EQ(json({"--prompt", "the fox", "--max-tokens", "2"})["model"], "ti\uFFFDny");
}

TEST_F(Program, StreamsTextAndReportsApart) {
  const auto object = json({"--prompt", "the fox", "--max-tokens", "20"});
  const Result result = run_tiny({"--prompt", "the fox", "--max-tokens", "20"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out, object["text"].get<std::string>() + "\n");
  for (const char* part : {"tokens/s", "attention", "KV cache", "MHA", "this (G=2)", "MQA", "full context"}) {
    EXPECT_NE(result.err.find(part), std::string::npos) << part << " in\n" << result.err;
  }
  EXPECT_EQ(result.err.find('\r'), std::string::npos) << "a progress line, though this is no terminal";
}

TEST_F(Program, GivesTheSameIdsOnAnyNumberOfThreads) {
  const auto one = json({"--prompt", "the fox", "--max-tokens", "30", "--threads", "1"});
  EXPECT_EQ(one["output_ids"],
            json({"--prompt", "the fox", "--max-tokens", "30", "--threads", "3"})["output_ids"]);
}

TEST_F(Program, TakesEveryCacheType) {
  for (const auto& [type, bytes] : {std::pair("f32", 4), std::pair("f16", 2), std::pair("bf16", 2)}) {
    const auto object = json({"--prompt", "the fox", "--max-tokens", "3", "--cache-dtype", type});
    EXPECT_EQ(object["cache_dtype"], type);
    EXPECT_EQ(object["kv_cache"]["full_context"]["bytes"], 200 * 2 * 2 * 32 * bytes);
  }
}

TEST_F(Program, KeepsItsCacheWhereItIsTold) {
  const auto object = json({"--prompt", "the fox", "--max-tokens", "90"});
  EXPECT_EQ(object["cache"], "contiguous");
  for (const char* type : {"f32", "f16", "bf16"}) {
    const auto with = [&](const char* cache) {
      return json({"--prompt", "the fox", "--max-tokens", "90", "--cache-dtype", type, "--cache", cache});
    };
    const auto contiguous = with("contiguous"), paged = with("paged");
    EXPECT_EQ(paged["cache"], "paged");
    EXPECT_EQ(paged["output_ids"], contiguous["output_ids"]) << type;
    EXPECT_EQ(paged["kv_cache"], contiguous["kv_cache"]);
  }
  EXPECT_NE(run_tiny({"--prompt", "the fox", "--cache", "paged"}).err.find("f32, paged"), std::string::npos);
  std::ofstream(path("text")) << "the quick brown fox";
  EXPECT_EQ(json({"--perplexity", path("text"), "--cache", "paged"}), json({"--perplexity", path("text")}));
}

TEST_F(Program, SamplesBySeed) {
  const auto ids = [&](const char* seed) {
    return json({"--prompt", "the fox", "--max-tokens", "20", "--temperature", "2", "--top-k", "50", "--seed",
                 seed})["output_ids"];
  };
  EXPECT_EQ(ids("5"), ids("5"));
  EXPECT_NE(ids("5"), ids("6"));
}

TEST_F(Program, PutsThePromptIntoTheChatTemplate) {
  const auto plain = json({"--prompt",
                           "<|im_start|>system\nYou are tiny<|im_end|>\n<|im_start|>user\nthe fox<|im_end|>\n"
                           "<|im_start|>assistant\n",
                           "--max-tokens", "1"});
  EXPECT_EQ(json({"--chat", "--prompt", "the fox", "--max-tokens", "1"})["prompt_ids"], plain["prompt_ids"]);
}

TEST_F(Program, MeasuresPerplexity) {
  std::ofstream(path("text")) << "the quick brown fox";
  const auto object = json({"--perplexity", path("text")});
  EXPECT_EQ(object["tokens"], 16);
  EXPECT_NEAR(std::log(object["perplexity"].get<double>()), object["mean_negative_log_likelihood"], 1e-9);
  const Result result = run_tiny({"--perplexity", path("text")});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out.find("mean negative log-likelihood "), 0U) << result.out;
}

TEST_F(Program, ReadsThePromptFromStandardInput) {
  std::ofstream(path("text")) << "the\nfox\n";
  const auto ids = [&](const Result& result) {
    EXPECT_EQ(result.code, 0) << result.err;
    return nlohmann::json::parse(result.out)["prompt_ids"];
  };
  const auto of_prompt = [&](const char* prompt) {
    return json({"--prompt", prompt, "--max-tokens", "2"})["prompt_ids"];
  };
  const std::vector<std::string> arguments{"--model", path("tiny.gguf"), "--prompt", "-", "--max-tokens",
                                           "2",       "--json"};
  // The line break that ends it is not part of it.
  EXPECT_EQ(ids(run(arguments, "cat " + path("text") + " |", "")), of_prompt("the\nfox"));
  EXPECT_EQ(ids(run(arguments, "", "<" + path("text"))), of_prompt("the\nfox"));
  // What others read before it neither.
  EXPECT_EQ(ids(run(arguments, "(read -r line;", "; ) <" + path("text"))), of_prompt("fox"));
  expect_refused(run(arguments), "--prompt is empty");
  expect_refused(run(arguments, "", "<&-"), "cannot read standard input: Bad file descriptor");
  expect_refused(run(arguments, "", "<" + folder_.string()), "cannot read standard input: Is a directory");
  std::ofstream(path("text")) << "ab\xFFz";
  expect_refused(run(arguments, "", "<" + path("text")), "not valid UTF-8 at byte 2");
}

TEST_F(Program, ReadsThePromptFromAFile) {
  std::ofstream(path("text")) << "the\nfox\n";
  const auto ids = [&](const char* option, const std::string& value, bool chat = false) {
    std::vector<std::string> arguments{option, value, "--max-tokens", "2"};
    if (chat) arguments.push_back("--chat");
    return json(arguments)["prompt_ids"];
  };
  EXPECT_EQ(ids("--prompt-file", path("text")), ids("--prompt", "the\nfox"));
  EXPECT_EQ(ids("--prompt-file", path("text"), true), ids("--prompt", "the\nfox", true));
  std::ofstream(path("text")) << "fox\n\n";
  EXPECT_EQ(ids("--prompt-file", path("text")), ids("--prompt", "fox\n")) << "one line break ends it";
  for (const char* name : {"-", "/dev/stdin"}) {
    const Result result =
        run({"--model", path("tiny.gguf"), "--prompt-file", name, "--max-tokens", "2", "--json"},
            "cat " + path("text") + " |", "");
    EXPECT_EQ(nlohmann::json::parse(result.out)["prompt_ids"], ids("--prompt", "fox\n")) << result.err;
    expect_refused(run({"--model", name, "--prompt-file", "-"}, "", "<" + path("text")),
                   "--prompt-file and --model both read standard input");
  }
  expect_refused(run_tiny({"--prompt-file", "-"}), "--prompt-file is empty: standard input holds no text");
  std::ofstream(path("empty"));
  expect_refused(run_tiny({"--prompt-file", path("empty")}), "--prompt-file is empty: " + path("empty"));
  expect_refused(run_tiny({"--prompt-file", path("empty"), "--chat"}), "--prompt-file is empty");
  expect_refused(run_tiny({"--prompt-file", path("absent")}), "absent");
  expect_refused(run_tiny({"--prompt-file", folder_.string()}), "Is a directory");
  expect_refused(run_tiny({"--prompt-file", path("text"), "--prompt", "x"}), "excludes");
  expect_refused(run_tiny({"--prompt-file", path("text"), "--perplexity", path("text")}), "excludes");
}

TEST_F(Program, ReadsFilesFromPipes) {
  std::ofstream(path("text")) << "the quick brown fox";
  const auto expected = run_tiny({"--perplexity", path("text"), "--json"});
  for (const char* name : {"-", "/dev/stdin"}) {
    for (const bool pipe : {true, false}) {
      const auto from = [&](const std::string& file, const std::vector<std::string>& arguments) {
        return pipe ? run(arguments, "cat " + path(file) + " |", "") : run(arguments, "", "<" + path(file));
      };
      const Result text = from("text", {"--model", path("tiny.gguf"), "--perplexity", name, "--json"});
      EXPECT_EQ(text.out, expected.out) << name << pipe << text.err;
      const Result model = from("tiny.gguf", {"--model", name, "--perplexity", path("text"), "--json"});
      EXPECT_EQ(model.out, expected.out) << name << pipe << model.err;
      expect_refused(from("text", {"--model", name, "--prompt", "x"}), "no GGUF file");
      expect_refused(from("text", {"--model", name, "--prompt", "-"}),
                     "--prompt and --model both read standard input");
      expect_refused(from("text", {"--model", name, "--perplexity", "-"}),
                     "--perplexity and --model both read standard input");
    }
  }
  ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
  const Result fifo = run({"--model", path("tiny.gguf"), "--perplexity", path("fifo"), "--json"},
                          "cat " + path("text") + " >" + path("fifo") + " & ");
  EXPECT_EQ(fifo.out, expected.out) << fifo.err;
  expect_refused(run_tiny({"--perplexity", "/dev/zero"}), "cannot read /dev/zero: Invalid argument");
}

TEST_F(Program, PrintsHelp) {
  const Result result = run({"--help"});
  EXPECT_EQ(result.code, 0);
  for (const char* option :
       {"--model", "--prompt", "--chat", "--max-tokens", "--temperature", "--top-k", "--seed", "--threads",
        "--cache-dtype", "--cache", "--prompt-file", "--json", "--perplexity"}) {
    EXPECT_NE(result.out.find(option), std::string::npos) << option;
  }
}

TEST_F(Program, RefusesWrongArguments) {
  expect_refused(run({}), "--model");
  expect_refused(run({"--prompt", "x"}), "--model");
  expect_refused(run_tiny({}), "--prompt");
  expect_refused(run_tiny({"--prompt", "x", "--bogus"}), "--bogus");
  expect_refused(run_tiny({"--prompt", "x", "extra"}), "extra");
  expect_refused(run_tiny({"--prompt", "x", "--perplexity", path("tiny.gguf")}), "excludes");
  for (const auto& [option, value] :
       {std::pair("--max-tokens", "0"), std::pair("--max-tokens", "-1"), std::pair("--max-tokens", "many"),
        std::pair("--max-tokens", "99999999999999999999"), std::pair("--temperature", "-0.5"),
        std::pair("--temperature", "nan"), std::pair("--temperature", "inf"), std::pair("--top-k", "-1"),
        std::pair("--threads", "0"), std::pair("--threads", "5000"), std::pair("--cache-dtype", "f64"),
        std::pair("--cache", "heap"), std::pair("--seed", "-1")}) {
    SCOPED_TRACE(std::string(option) + " " + value);
    expect_refused(run_tiny({"--prompt", "x", option, value}), option);
  }
}

TEST_F(Program, RefusesPromptsItCannotRead) {
  expect_refused(run_tiny({"--prompt", ""}), "--prompt is empty");
  expect_refused(run_tiny({"--prompt", "", "--chat"}), "--prompt is empty");
  expect_refused(run_tiny({"--prompt", "ab\xFFz"}), "not valid UTF-8 at byte 2");
  expect_refused(run_tiny({"--prompt", std::string(201, 'x')}),
                 "the prompt has 201 tokens, the model's context 200");
  EXPECT_EQ(run_tiny({"--prompt", std::string(200, 'x')}).code, 0);
  std::ofstream(path("empty"));
  expect_refused(run_tiny({"--perplexity", path("empty")}), "the text has 0 tokens");
  expect_refused(run_tiny({"--perplexity", path("absent")}), "absent");
}

TEST_F(Program, RefusesFilesThatAreNoModel) {
  const auto refused = [&](const char* name, const std::string& part) {
    expect_refused(run({"--model", path(name), "--prompt", "x"}), part);
  };
  refused("absent.gguf", "No such file");
  refused(".", "Is a directory");
  std::ofstream(path("empty.gguf"));
  refused("empty.gguf", "the file ends inside the magic number");
  std::ofstream(path("text.gguf")) << "This is not a model, whatever its name says.";
  refused("text.gguf", "no GGUF file");
  auto bytes = test::tiny_model().file();
  bytes.resize(bytes.size() - 1);
  write("cut.gguf", bytes);
  refused("cut.gguf", "past the end of the file");
  auto writer = test::tiny_model();
  writer.text("general.architecture", "two\nlines");
  write("lines.gguf", writer);
  refused("lines.gguf", "two?lines");
  writer = test::tiny_model();
  writer.find("blk.1.ffn_up.weight").type = 10;
  write("type.gguf", writer);
  refused("type.gguf", "Q2_K");
  // What the model is comes before how it is stored: requantising would not help.
  writer.text("general.architecture", "gemma4");
  write("type.gguf", writer);
  refused("type.gguf", "gemma4");
  writer.text("general.architecture", "llama");
  writer.integer("llama.expert_count", 8);
  write("type.gguf", writer);
  refused("type.gguf", "llama.expert_count");
  writer = test::tiny_model();
  writer.text("tokenizer.chat_template", "[INST]");
  write("template.gguf", writer);
  expect_refused(run({"--model", path("template.gguf"), "--prompt", "x", "--chat"}), "ChatML");
}

}  // namespace
}  // namespace generate
