// SPDX-License-Identifier: Apache-2.0
// The program as a person runs it. UPTRAIN_PROGRAM is its path, UPTRAIN_TEXT that of a text.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace {

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Arguments that make it as short as it can be, and more of them.
std::string tiny(const std::string& more, const std::string& steps = "50", const std::string& batch = "2") {
  return " --text " UPTRAIN_TEXT
         " --quick --layers 1 --width 16 --context 8 --seeds 1 --methods mean,low-rank"
         " --steps " +
         steps + " --batch " + batch + " " + more;
}

class UptrainProgram : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "uptrain-XXXXXX";
    folder_ = ::mkdtemp(name.data());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  struct Result {
    int code;
    std::string out, err;
  };
  /// `before`: the shell's words in front of the command.
  Result run(const std::string& arguments, const std::string& before = "") const {
    const std::string command = before + " " UPTRAIN_PROGRAM " " + arguments + " >" + path("stdout") + " 2>" +
                                path("stderr") + " </dev/null";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read(path("stdout")), read(path("stderr"))};
  }
  void expect_refused(const std::string& arguments, const std::string& part) const {
    const Result r = run(arguments);
    EXPECT_EQ(r.code, 2) << arguments << "\n" << r.err;
    EXPECT_EQ(r.out, "") << arguments;
    EXPECT_EQ(std::ranges::count(r.err, '\n'), 1) << arguments << "\n" << r.err;
    EXPECT_EQ(r.err.find("uptrain: "), 0U) << r.err;
    EXPECT_NE(r.err.find(part), std::string::npos) << arguments << "\n" << r.err << "expected: " << part;
  }
  /// Without what differs from run to run.
  nlohmann::json results(const std::string& folder) const {
    auto json = nlohmann::json::parse(read(folder_ / folder / "results.json"));
    json.erase("seconds");
    json.erase("threads");
    return json;
  }

  std::filesystem::path folder_;
};

/// What `--quick` shows on any text. That the mean is better than the first before uptraining is not among
/// it.
TEST_F(UptrainProgram, QuickExperiment) {
  const Result r = run("--quick --text " UPTRAIN_TEXT " --json --out " + path("out") + UPTRAIN_LESS);
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.err, "");
  const auto json = nlohmann::json::parse(r.out);
  EXPECT_EQ(json, nlohmann::json::parse(read(folder_ / "out" / "results.json")));
  for (const auto& loss : json.at("mha").at("losses")) EXPECT_LT(loss.get<double>(), 3.2);
  std::map<std::pair<std::string, int>, std::vector<double>> means;
  for (const auto& row : json.at("summary"))
    for (const auto& loss : row.at("losses"))
      means[{row.at("method"), row.at("kv_heads")}].push_back(loss.at("mean"));
  EXPECT_EQ(means.size(), 8U * 3 - 1);
  const double mha = nlohmann::json(json.at("mha").at("losses")).get<std::vector<double>>()[0];
  for (const auto& [what, losses] : means) {
    const std::string name = what.first + ", G = " + std::to_string(what.second);
    for (const double loss : losses) EXPECT_TRUE(std::isfinite(loss)) << name;
    if (what.first == "low-rank") {
      EXPECT_EQ(losses.size(), 1U);
      EXPECT_LT(losses[0] - mha, 0.2) << name;
      EXPECT_LT(losses[0], means.at({"mean", what.second}).back()) << name;
    } else {
      EXPECT_EQ(losses.size(), 4U);
      EXPECT_LT(losses.back(), losses.front()) << name;
    }
  }
  for (const char* plot : {"loss_by_share_g4.svg", "loss_by_share_g2.svg", "loss_by_share_g1.svg",
                           "loss_by_group.svg", "loss_by_cache.svg"})
    EXPECT_NE(read(folder_ / "out" / plot).find("</svg>"), std::string::npos) << plot;
}

TEST_F(UptrainProgram, KilledAgainAndAgainItEndsWithTheSameBits) {
  ASSERT_EQ(run(tiny("--out " + path("whole"))).code, 0);
  int killed = 0, code = -1;
  double seconds = 0.2;  // longer each time, for a slow machine needs some to begin
  for (; code != 0 && seconds < 100; seconds *= 1.25, killed += code == 0 ? 0 : 1)
    code = run(tiny("--checkpoint-seconds 0 --out " + path("parts")),
               "timeout -s KILL " + std::to_string(seconds))
               .code;
  ASSERT_EQ(code, 0);
  RecordProperty("killed", killed);
  EXPECT_EQ(results("parts"), results("whole"));
  // A table from checkpoints alone is the same.
  const Result again = run(tiny("--out " + path("parts")));
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(again.out, run(tiny("--out " + path("whole"))).out);
}

TEST_F(UptrainProgram, InterruptedItSaysSoAndKeepsWhatIsDone) {
  const auto checkpoint = folder_ / "out" / "checkpoints" / "seed-1-scratch.checkpoint";
  const std::string command = "exec " UPTRAIN_PROGRAM +
                              tiny("--checkpoint-seconds 0 --out " + path("out"), "1000000") + " >" +
                              path("stdout") + " 2>" + path("stderr") + " </dev/null";
  const ::pid_t child = ::fork();
  if (child == 0) {
    ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    ::_exit(127);
  }
  for (int i = 0; i < 2000 && !std::filesystem::exists(checkpoint); ++i) ::usleep(50'000);
  ::kill(child, SIGINT);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130);
  EXPECT_EQ(read(folder_ / "stderr"), "uptrain: stopped; the same command goes on from here\n");
  EXPECT_EQ(read(folder_ / "stdout"), "");
  EXPECT_GT(std::filesystem::file_size(checkpoint), 0U);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out" / "results.json"));
}

TEST_F(UptrainProgram, AFullDiskLeavesWhatIsThere) {
  const std::string arguments = tiny("--out " + path("out"));
  ASSERT_EQ(run(arguments).code, 0);
  const std::string before = read(folder_ / "out" / "results.json");
  // Files of at most 512 bytes: writing more fails as on a full disk.
  const Result full = run(arguments, "trap '' XFSZ; ulimit -f 1;");
  EXPECT_EQ(full.code, 2) << full.err;
  EXPECT_NE(full.err.find("results.json"), std::string::npos) << full.err;
  EXPECT_EQ(read(folder_ / "out" / "results.json"), before);
  const Result fresh = run(tiny("--checkpoint-seconds 0 --out " + path("new")), "trap '' XFSZ; ulimit -f 1;");
  EXPECT_EQ(fresh.code, 2) << fresh.err;
  EXPECT_NE(fresh.err.find(".checkpoint"), std::string::npos) << fresh.err;
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / "new" / "checkpoints"));
}

TEST_F(UptrainProgram, SaysWhereItCannotPrint) {
  const std::string command = UPTRAIN_PROGRAM + tiny("") + " >/dev/full 2>" + path("stderr") + " </dev/null";
  const int status = std::system(command.c_str());
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1);
  EXPECT_EQ(read(folder_ / "stderr"), "uptrain: cannot write to standard output\n");
}

TEST_F(UptrainProgram, BadInputIsOneLineAndExitCodeTwo) {
  std::ofstream(path("short.txt")) << "In the beginning";
  std::ofstream(path("same.txt")) << std::string(100000, 'a');
  expect_refused("--text " + path("short.txt"), "short.txt: size is 16 bytes, expected at least 750");
  expect_refused("--text " + path("same.txt"), "same.txt: all bytes are the same");
  expect_refused("--text " + path("none.txt"), "none.txt");
  expect_refused("--text " + folder_.string(), folder_.string());
  expect_refused("--text -", "standard input: size is 0 bytes");
  const std::string text = "--text " UPTRAIN_TEXT " ";
  expect_refused(text + "--steps 49", "--steps");
  expect_refused(text + "--steps many", "many");
  expect_refused(text + "--seeds 0", "--seeds");
  expect_refused(text + "--width 24", "--width is 24");
  expect_refused(text + "--methods median", "median");
  expect_refused(text + "--rate nan", "--rate");
  expect_refused(text + "--rate -1", "--rate");
  expect_refused(text + "--nonsense", "--nonsense");
  expect_refused(text + "--context 60000", "size is");
  expect_refused(text + "--out /dev/null", "/dev/null");
  expect_refused(text + "--out /dev/null/x", "/dev/null/x");
  ASSERT_EQ(run(tiny("--out " + path("out"))).code, 0);
  expect_refused(tiny("--out " + path("out"), "50", "3"), "other settings");
  const std::string checkpoint = path("out/checkpoints/seed-1-mean-g2.checkpoint");
  std::ofstream(checkpoint, std::ios::app) << "x";
  expect_refused(tiny("--out " + path("out")), checkpoint + ": the checkpoint is damaged");
}

TEST_F(UptrainProgram, ALossThatIsNoNumberEndsIt) {
  const Result r = run(tiny("--rate 1e6 --uptraining-rate 1e6"));
  if (r.code == 0) GTEST_SKIP() << "it did not diverge";
  EXPECT_EQ(r.code, 1) << r.err;
  EXPECT_NE(r.err.find("nan"), std::string::npos) << r.err;
  EXPECT_EQ(r.out, "");
}

TEST_F(UptrainProgram, HelpNamesEveryOption) {
  const Result r = run("--help");
  EXPECT_EQ(r.code, 0);
  for (const char* option :
       {"--text", "--out", "--quick", "--steps", "--seeds", "--layers", "--width", "--context", "--batch",
        "--rate", "--uptraining-rate", "--methods", "--threads", "--checkpoint-seconds", "--json"})
    EXPECT_NE(r.out.find(option), std::string::npos) << option;
}

}  // namespace
