// SPDX-License-Identifier: Apache-2.0
// The program as it is run, and that what it writes is what it measured.
#include <cmath>

#include "converted_model.hpp"
#include "results.hpp"

namespace uptrain_gguf {
namespace {

class Program : public convert::test::Converter {
 protected:
  /// Short trainings, into the folder `run`.
  std::vector<std::string> tiny(std::vector<std::string> more = {}, const char* steps = "12") const {
    std::vector<std::string> arguments{"--text",    text("text"), "--perplexity", text("measured", 3),
                                       "--out",     path("run"),  "--steps",      steps,
                                       "--context", "30",         "--every",      "6",
                                       "--rate",    "0.01",       "--warm-up",    "3"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  void refused(const std::vector<std::string>& arguments, const std::string& part) const {
    SCOPED_TRACE(testing::PrintToString(arguments));
    expect_refused(run_tiny(arguments), part);
  }
  std::string in_run(const char* name) const { return generate::test::read(folder_ / "run" / name); }
};

TEST_F(Program, TrainsAndWritesTheModelItMeasured) {
  const auto object = json(tiny({"--reference", path("tiny.gguf"), "--name", "this <run>"}));
  const auto points = object["perplexity"];
  ASSERT_EQ(points.size(), 3U);
  EXPECT_EQ(points[1]["step"], 6);
  EXPECT_EQ(points[0]["perplexity"], object["reference_perplexity"]);
  EXPECT_LT(points[2]["perplexity"], 0.9 * points[0]["perplexity"].get<double>());
  EXPECT_EQ(object["trained"], 2 * (64 + 32 + 32 + 64) * 64);
  EXPECT_GT(object["measured_tokens"], 60);
  EXPECT_EQ(object, nlohmann::json::parse(in_run("results.json")));
  EXPECT_TRUE(clean());

  // Another program measures the file, by another forward pass; what was trained is F16 in it.
  const std::string command =
      std::string(UPTRAIN_CONVERT) + " --model " + path("run/model.gguf") + " --out " + path("four.gguf") +
      " --kv-heads 4 --context 30 --json --perplexity " + path("measured") + " >" + path("report");
  ASSERT_EQ(std::system(command.c_str()), 0);
  const auto report = nlohmann::json::parse(generate::test::read(path("report")));
  EXPECT_NEAR(report["perplexity"]["before"].get<double>() / points[2]["perplexity"].get<double>(), 1, 1e-2);
  // Nothing else has changed.
  const std::string before = generate::test::read(path("tiny.gguf")), after = in_run("model.gguf");
  const generate::Gguf was(std::as_bytes(std::span(before))), is(std::as_bytes(std::span(after)));
  for (const auto& tensor : was.tensors())
    EXPECT_EQ(tensor.name.find(".attn_") == std::string::npos || tensor.name.ends_with("attn_norm.weight"),
              std::ranges::equal(tensor.data, is.find_tensor(tensor.name)->data))
        << tensor.name;

  const std::string plot = in_run("perplexity.svg");
  EXPECT_NE(plot.find("this &lt;run>"), std::string::npos);
  EXPECT_NE(plot.find("before conversion"), std::string::npos);
  // The same command has nothing left to do.
  const auto again = run_tiny(tiny({"--reference", path("tiny.gguf"), "--name", "this <run>"}));
  EXPECT_EQ(again.code, 0) << again.err;
  for (const char* part : {"tiny: 2 KV heads; trains 24576 of ", "12 steps of 1 x 30 tokens",
                           "reference   perplexity ", "\n    12  "})
    EXPECT_NE(again.out.find(part), std::string::npos) << part << " in\n" << again.out;
}

TEST_F(Program, DrawsRunsBesideEachOther) {
  ASSERT_EQ(run_tiny(tiny({"--name", "one"})).code, 0);
  std::filesystem::rename(path("run/results.json"), path("one.json"));
  ASSERT_EQ(run_tiny(tiny({"--name", "two", "--beside", path("one.json")})).code, 0);
  const std::string plot = in_run("perplexity.svg");
  EXPECT_NE(plot.find(">one<"), std::string::npos);
  EXPECT_NE(plot.find(">two<"), std::string::npos);
  const Curve curve = read_curve(path("one.json"));
  EXPECT_EQ(curve.name, "one");
  EXPECT_EQ(curve.steps, (std::vector<Index>{0, 6, 12}));
}

TEST_F(Program, GoesOnAfterItWasInterrupted) {
  auto arguments = tiny({"--checkpoint-seconds", "0"}, "60");
  ASSERT_EQ(run_tiny(arguments).code, 0);
  const std::string whole = in_run("model.gguf");
  std::filesystem::remove_all(path("run"));
  arguments.insert(arguments.begin(), {"--model", path("tiny.gguf")});
  int stopped = 0, code = -1;
  for (double seconds = 0.05; code != 0 && seconds < 60; seconds *= 1.5) {
    const auto result = run(arguments, "timeout --preserve-status -s INT " + std::to_string(seconds));
    code = result.code;
    if (code == 130 && ++stopped > 0) {
      EXPECT_EQ(result.err, "uptrain_gguf: stopped; the same command goes on from here\n");
      EXPECT_FALSE(std::filesystem::exists(path("run/model.gguf")));
    }
  }
  RecordProperty("stopped", stopped);
  ASSERT_EQ(code, 0);
  EXPECT_TRUE(in_run("model.gguf") == whole);
}

TEST_F(Program, RefusesBadInputInOneLine) {
  const std::string first = text("text"), second = text("measured", 3);
  refused({"--text", first, "--perplexity", second}, "--out");
  refused({"--text", first, "--out", path("run")}, "--perplexity");
  refused(tiny({"--rate", "nan"}), "--rate");
  refused(tiny({"--sequences", "0"}), "--sequences");
  refused(tiny({"--bogus"}), "--bogus");
  const auto with = [&](const std::string& option, const std::string& value, const std::string& part) {
    auto arguments = tiny();
    *(std::ranges::find(arguments, option) + 1) = value;
    refused(arguments, part);
  };
  std::ofstream(path("short")) << "the";
  with("--text", path("short"), "--text: the text has 1 tokens, expected at least the 30 of a sequence");
  with("--text", path("absent"), "absent");
  with("--perplexity", path("short"), "--perplexity: the text has 1 tokens, expected at least 2");
  with("--context", "201", "--context is 201, expected at most the model's 200");
  with("--out", "/dev/null", "/dev/null");
  with("--out", "/proc/none", "/proc/none");
  refused(tiny({"--reference", path("absent")}), "absent");
  refused(tiny({"--beside", path("short")}), "no results of this program");
  refused(tiny({"--beside", path("text")}), "no results of this program");
  EXPECT_EQ(run({"--model", "-", "--text", "-", "--perplexity", second, "--out", path("run")}).code, 2);

  std::filesystem::create_directories(path("run"));
  std::filesystem::copy(path("tiny.gguf"), path("run/model.gguf"));
  auto arguments = tiny();
  arguments.insert(arguments.begin(), {"--model", path("run/model.gguf")});
  expect_refused(run(arguments), "--model is model.gguf in --out, which is written");
}

TEST_F(Program, SaysWhereItCannotPrint) {
  auto arguments = tiny();
  arguments.insert(arguments.begin(), {"--model", path("tiny.gguf")});
  const auto full = run(arguments, "", "</dev/null >/dev/full");
  EXPECT_EQ(full.code, 1);
  EXPECT_EQ(full.err, "uptrain_gguf: cannot write to standard output\n");
}

TEST_F(Program, RefusesACheckpointOfAnotherTraining) {
  ASSERT_EQ(run_tiny(tiny()).code, 0);
  auto arguments = tiny({"--seed", "2"});
  refused(arguments, "a checkpoint of other settings");
  std::ofstream(path("run/checkpoint"), std::ios::app) << "x";
  refused(tiny(), "the checkpoint is damaged");
}

TEST_F(Program, ADiskThatFillsLeavesWhatIsThere) {
  ASSERT_EQ(run_tiny(tiny()).code, 0);
  const std::string model = in_run("model.gguf"), results = in_run("results.json");
  auto arguments = tiny();
  arguments.insert(arguments.begin(), {"--model", path("tiny.gguf")});
  std::filesystem::remove(path("run/checkpoint"));
  const auto full = run(arguments, "ulimit -f 40;");  // blocks of 512 bytes: less than a checkpoint
  expect_refused(full, "run/checkpoint");
  EXPECT_NE(full.err.find("File too large"), std::string::npos) << full.err;
  EXPECT_TRUE(in_run("model.gguf") == model);
  EXPECT_EQ(in_run("results.json"), results);
  EXPECT_TRUE(clean());
  for (const auto& entry : std::filesystem::directory_iterator(path("run")))
    EXPECT_NE(entry.path().extension(), ".tmp");
}

}  // namespace
}  // namespace uptrain_gguf
