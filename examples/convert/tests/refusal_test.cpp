// SPDX-License-Identifier: Apache-2.0
// What the program refuses, and that an output it cannot complete stays as it was.
#include <limits>

#include "converted_model.hpp"

namespace convert {
namespace {

class Refusal : public test::Converter {
 protected:
  void refused(std::vector<std::string> arguments, const std::string& part,
               const std::string& model = "tiny.gguf") {
    const std::string before = generate::test::read(path("out.gguf"));
    SCOPED_TRACE(testing::PrintToString(arguments));
    expect_refused(convert(std::move(arguments), model), part);
    EXPECT_TRUE(generate::test::read(path("out.gguf")) == before);
    EXPECT_TRUE(clean());
  }
};

TEST_F(Refusal, OfArguments) {
  expect_refused(run({}), "--model");
  expect_refused(run_tiny({"--kv-heads", "1"}), "--out");
  refused({}, "--kv-heads, --map or --budget is required");
  refused({"--kv-heads", "1", "--budget", "3", "--grouping", "asymmetric"}, "excludes");
  refused({"--budget", "0", "--grouping", "asymmetric"}, "--budget");
  refused({"--budget", "1", "--grouping", "asymmetric"},
          "budget is 1 KV heads, expected at least 1 for each of the 2 layers");
  refused({"--kv-heads", "0"}, "--kv-heads");
  refused({"--kv-heads", "one"}, "--kv-heads");
  refused({"--kv-heads", "1", "--map", "0,0"}, "excludes");
  refused({"--kv-heads", "1", "--method", "median"}, "--method");
  refused({"--kv-heads", "1", "--grouping", "map"}, "--grouping");
  refused({"--map", "0,0", "--grouping", "strided"}, "excludes");
  refused({"--map", "0,-1"}, "--map");
  refused({"--kv-heads", "1", "--type", "Q4_0"}, "--type");
  refused({"--kv-heads", "1", "--context", "1"}, "--context");
  refused({"--kv-heads", "1", "--tokens", "-1"}, "--tokens");
  refused({"--kv-heads", "1", "--noise", "0.1"}, "--calibration");
  refused({"--kv-heads", "1", "--calibration", text("text"), "--noise", "-1"}, "--noise");
  refused({"--kv-heads", "1", "--calibration", text("text"), "--noise", "nan"}, "noise");
  refused({"--kv-heads", "1", "--bogus"}, "--bogus");
  expect_refused(run({"--model", "-", "--out", path("out.gguf"), "--kv-heads", "1", "--perplexity", "-"}),
                 "--model and --perplexity both read standard input");
}

TEST_F(Refusal, OfWhatWouldSayNothing) {
  refused({"--kv-heads", "1", "--distance", "cka"}, "--distance says nothing");
  refused({"--kv-heads", "1", "--seed", "3"}, "--seed says nothing");
  refused({"--budget", "3"}, "--budget says nothing without --grouping asymmetric");
  refused({"--kv-heads", "1", "--method", "low_rank", "--groups", path("groups")}, "--groups says nothing");
  refused({"--kv-heads", "1", "--factors", path("tiny.gguf")}, "--factors says nothing");
  refused({"--kv-heads", "1", "--method", "low_rank", "--keep-norms"}, "--keep-norms says nothing");
  refused({"--kv-heads", "1", "--method", "low_rank", "--grouping", "strided"}, "--grouping says nothing");
  refused({"--map", "0,0", "--method", "low_rank"}, "--map says nothing");
  for (const std::vector<std::string>& option : {std::vector<std::string>{"--method", "mean"},
                                                 {"--grouping", "strided"},
                                                 {"--keep-norms"},
                                                 {"--calibration", text("text")},
                                                 {"--groups", path("groups")}}) {
    std::vector<std::string> arguments{"--kv-heads", "4"};
    arguments.insert(arguments.end(), option.begin(), option.end());
    refused(arguments, option.front() + " says nothing of copies");
  }
}

TEST_F(Refusal, OfNumbersOfHeads) {
  refused({"--kv-heads", "3"}, "a multiple of the 2 KV heads there are that divides the 4");
  refused({"--kv-heads", "8"}, "divides the 4 query heads");
  refused({"--map", "0,0,0"}, "the map has 3 groups, expected one for each of the 2");
  refused({"--map", "0,2"}, "leaves group 1 empty");
  ASSERT_EQ(convert({"--kv-heads", "4"}).code, 0);
  std::filesystem::rename(path("out.gguf"), path("four.gguf"));
  refused({"--kv-heads", "3"}, "expected a divisor of the 4 KV heads", "four.gguf");
}

TEST_F(Refusal, OfTextsAndFactors) {
  refused({"--kv-heads", "1", "--perplexity", path("absent")}, "absent");
  refused({"--kv-heads", "1", "--calibration", path("absent")}, "absent");
  std::ofstream(path("short")) << "the";
  refused({"--kv-heads", "1", "--perplexity", path("short")}, "--perplexity: the text has 1 tokens");
  refused({"--kv-heads", "1", "--calibration", path("short")},
          "--calibration: the text has 1 tokens, expected at least 64");
  EXPECT_EQ(convert({"--kv-heads", "1", "--calibration", path("short"), "--noise", "1"}).code, 0);
  refused({"--kv-heads", "1", "--calibration", text("long"), "--tokens", "63"}, "63 tokens");
  // A text of few different tokens spans little of what the first layer can be given.
  refused({"--kv-heads", "1", "--method", "low_rank", "--calibration", text("long")},
          "layer 0: activations: ");
  std::ofstream(path("bytes")) << "ab\xFFz";
  refused({"--kv-heads", "1", "--perplexity", path("bytes")}, "not valid UTF-8 at byte 2");

  refused({"--kv-heads", "1", "--method", "weighted"}, "--method weighted needs --factors");
  const auto factors = [&](const std::string& json, const std::string& part) {
    std::ofstream(path("factors")) << json;
    refused({"--kv-heads", "1", "--method", "weighted", "--factors", path("factors")}, part);
  };
  factors("{", "--factors: " + path("factors"));
  factors("[1]", "--factors: ");
  factors(R"({"along": "keys", "layers": []})", "along is keys");
  factors(R"({"along": "heads", "layers": []})", "0 layers, expected 2");
  factors(
      R"({"along": "heads", "layers": [{"keys": [1, 1], "values": [1, 1]}, {"keys": [1], "values": [1, 1]}]})",
      "layer 1: weights of keys: size is 1, expected 2 heads");
}

TEST_F(Refusal, OfFilesThatAreNoModel) {
  const auto model = [&](const std::string& name, const std::string& part) {
    refused({"--kv-heads", "1"}, part, name);
  };
  model("absent", "No such file");
  model(".", "Is a directory");
  std::ofstream(path("empty"));
  model("empty", "the file ends inside the magic number");
  std::ofstream(path("text.gguf")) << "This is not a model, whatever its name says.";
  model("text.gguf", "no GGUF file");
  auto writer = generate::test::tiny_model();
  auto bytes = writer.file();
  bytes.resize(bytes.size() - 1);
  write("cut.gguf", bytes);
  model("cut.gguf", "past the end of the file");
  writer.text("general.architecture", "mamba");
  write("mamba.gguf", writer);
  model("mamba.gguf", "mamba");
  writer = generate::test::tiny_model();
  writer.tensors.erase(writer.tensors.begin() + 5);
  write("less.gguf", writer);
  model("less.gguf", "tensor blk.0.attn_v.weight is missing");
  writer = generate::test::tiny_model();
  writer.numbers<std::uint32_t>("llama.attention.head_count_kv", 4, {2, 1});
  write("uneven.gguf", writer);
  model("uneven.gguf", "layers that differ are not supported");
}

TEST_F(Refusal, OfWeightsThatAreNoNumbers) {
  const auto with = [&](const char* tensor, float value) {
    auto writer = test::turned_model();
    std::memcpy(writer.find(tensor).data.data() + 4 * 100, &value, 4);
    write("wrong.gguf", writer);
  };
  for (const char* tensor : {"blk.1.attn_k.weight", "blk.0.attn_output.weight", "blk.1.ffn_up.weight"}) {
    with(tensor, std::numeric_limits<float>::quiet_NaN());
    refused({"--kv-heads", "1"}, std::string("tensor ") + tensor + ": value 100 is nan", "wrong.gguf");
    with(tensor, -std::numeric_limits<float>::infinity());
    refused({"--kv-heads", "4"}, "value 100 is -inf", "wrong.gguf");
  }
  with("blk.1.attn_k.weight", 2e5F);
  refused({"--kv-heads", "1"}, "tensor blk.1.attn_k.weight, converted: value 100 needs 99999", "wrong.gguf");
  EXPECT_EQ(convert({"--kv-heads", "1", "--type", "F32"}, "wrong.gguf").code, 0);
}

TEST_F(Refusal, OfOutputs) {
  const auto output = [&](const std::string& name, const std::string& part) {
    expect_refused(run_tiny({"--out", path(name), "--kv-heads", "1"}), part);
  };
  const std::string model = generate::test::read(path("tiny.gguf"));
  output("tiny.gguf", "--out and --model are the same file");
  std::filesystem::create_symlink(path("tiny.gguf"), path("link.gguf"));
  output("link.gguf", "--out and --model are the same file");
  std::filesystem::create_hard_link(path("tiny.gguf"), path("hard.gguf"));
  output("./hard.gguf", "--out and --model are the same file");
  EXPECT_TRUE(generate::test::read(path("tiny.gguf")) == model);
  output("absent/out.gguf", "No such file");
  refused({"--kv-heads", "1", "--groups", path("tiny.gguf")}, "tiny.gguf");
  output(".", "Is a directory");
  expect_refused(run_tiny({"--out", "/dev/null", "--kv-heads", "1"}), "cannot replace /dev/null");
  text("text");
  expect_refused(run_tiny({"--out", path("text"), "--kv-heads", "1", "--perplexity", path("text")}),
                 "--out and --perplexity are the same file");
  expect_refused(run_tiny({"--out", path("text"), "--kv-heads", "1", "--calibration", path("text")}),
                 "--out and --calibration are the same file");
  expect_refused(
      run_tiny({"--out", path("text"), "--kv-heads", "1", "--method", "weighted", "--factors", path("text")}),
      "--out and --factors are the same file");
}

TEST_F(Refusal, OfADiskThatFills) {
  std::ofstream(path("out.gguf")) << "what was there";
  // Blocks of 512 bytes: less than the tiny model's 200 kB.
  const auto result =
      run({"--model", path("tiny.gguf"), "--out", path("out.gguf"), "--kv-heads", "1"}, "ulimit -f 40;");
  expect_refused(result, "cannot write");
  EXPECT_NE(result.err.find("File too large"), std::string::npos) << result.err;
  EXPECT_EQ(generate::test::read(path("out.gguf")), "what was there");
  EXPECT_TRUE(clean());
}

TEST_F(Refusal, SaysWhereItCannotPrint) {
  const auto full = run({"--model", path("tiny.gguf"), "--out", path("out.gguf"), "--kv-heads", "1"}, "",
                        "</dev/null >/dev/full");
  EXPECT_EQ(full.code, 1);
  EXPECT_EQ(full.err, "convert: cannot write to standard output\n");
}

TEST_F(Refusal, LeavesAnOutputAsItWasWhenInterrupted) {
  std::ofstream(path("out.gguf")) << "what was there";
  const auto result = run({"--model", path("tiny.gguf"), "--out", path("out.gguf"), "--kv-heads", "1",
                           "--perplexity", text("text", 20'000)},
                          "timeout --preserve-status -s INT 1");
  EXPECT_EQ(result.code, 130) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(generate::test::read(path("out.gguf")), "what was there");
  EXPECT_TRUE(clean());
}

}  // namespace
}  // namespace convert
