// SPDX-License-Identifier: Apache-2.0
// The program as it is run: forms that lose nothing measure what the model does, and what is wrong is said.
#include <cmath>

#include "converted_model.hpp"
#include "form.hpp"

namespace latent_convert {
namespace {

class Program : public convert::test::Converter {
 protected:
  std::vector<std::string> tiny(const std::vector<std::string>& forms,
                                std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments{"--calibration",     text("seen"), "--perplexity",
                                       text("measured", 4), "--context",  "60"};
    for (const std::string& form : forms) arguments.insert(arguments.end(), {"--form", form});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  void refused(const std::vector<std::string>& arguments, const std::string& part) const {
    SCOPED_TRACE(testing::PrintToString(arguments));
    expect_refused(run_tiny(arguments), part);
  }
};

// Two KV heads of 16: 64 elements, of 64 inputs.
TEST_F(Program, MeasuresTheModelWhereNothingIsLost) {
  const std::vector<std::string> whole{"source",
                                       "kv_heads=2",
                                       "value_rank=16",
                                       "key_rank=32,value_rank=32",
                                       "latents=2,key_rank=16,value_rank=16",
                                       "key_rank=64",
                                       "latent_rank=32,rope_dim=32",
                                       "latent_rank=32,rope_dim=32,mix_heads=no"};
  const auto object = json(tiny(whole, {"--out", path("run"), "--decode", "9"}));
  const auto forms = object["forms"];
  ASSERT_EQ(forms.size(), whole.size());
  for (std::size_t i = 0; i < whole.size(); ++i) {
    SCOPED_TRACE(whole[i]);
    EXPECT_EQ(forms[i]["form"], whole[i]);
    EXPECT_EQ(forms[i]["elements"], 64);
    EXPECT_EQ(forms[i]["bytes_per_token"], 2 * 2 * 64);
    EXPECT_GT(forms[i]["decode_ms"], 0);
    // What is cached is rounded to 2^-11.
    EXPECT_LE(forms[i]["output_error"], 1e-5);
    EXPECT_NEAR(forms[i]["perplexity"].get<double>() / forms[0]["perplexity"].get<double>(), 1, 2e-3);
  }
  EXPECT_EQ(object, nlohmann::json::parse(generate::test::read(folder_ / "run" / "results.json")));
  const std::string plot = generate::test::read(folder_ / "run" / "perplexity.svg");
  for (const char* part : {"one latent, keys made of it", "as it is", "bytes of cache a token"})
    EXPECT_NE(plot.find(part), std::string::npos) << part;
  EXPECT_TRUE(clean());

  // Another program measures the same model by the code that generates text.
  const std::string command = std::string(CONVERT_PROGRAM) + " --model " + path("tiny.gguf") + " --out " +
                              path("two.gguf") + " --kv-heads 2 --context 60 --json --perplexity " +
                              path("measured") + " >" + path("report");
  ASSERT_EQ(std::system(command.c_str()), 0);
  const auto report = nlohmann::json::parse(generate::test::read(path("report")));
  EXPECT_NEAR(forms[0]["perplexity"].get<double>() / report["perplexity"]["before"].get<double>(), 1, 2e-3);
}

TEST_F(Program, LosesMoreWithLess) {
  const auto forms = json(
      tiny({"source", "kv_heads=1", "value_rank=5", "key_rank=9,value_rank=8", "key_rank=24", "key_rank=6",
            "latent_rank=20,rope_dim=12", "latent_rank=6,rope_dim=4,kept=uniform"}))["forms"];
  const int elements[] = {64, 32, 2 * (16 + 5), 17, 24, 6, 32, 10};
  for (std::size_t i = 0; i < forms.size(); ++i) {
    EXPECT_EQ(forms[i]["elements"], elements[i]) << i;
    EXPECT_TRUE(std::isfinite(forms[i]["perplexity"].get<double>()));
    if (i > 0) EXPECT_GT(forms[i]["output_error"], 1e-4) << i;
  }
  EXPECT_GT(forms[5]["output_error"], forms[4]["output_error"]);
  EXPECT_GT(forms[7]["output_error"], forms[6]["output_error"]);
}

TEST_F(Program, HasFormsOfItsOwn) {
  const auto forms = default_forms(3, 64, 64);
  EXPECT_EQ(forms.size(), 1U + 2 + 4 * 3 + 2 + 3);
  for (const Form& form : forms) EXPECT_EQ(read_form(form.text()).text(), form.text());
  const auto object = json(tiny({}));
  EXPECT_EQ(object["forms"].size(), default_forms(2, 16, 16).size());
  EXPECT_EQ(object["forms"][0]["form"], "source");
}

TEST_F(Program, SaysWhatIsWrong) {
  refused(tiny({"kv_heads"}), "--form kv_heads: kv_heads is , expected a number");
  refused(tiny({"rank=3"}), "--form rank=3: rank is not known; source,");
  refused(tiny({"key_rank=3,rope_dim=2"}),
          "--form key_rank=3,rope_dim=2: rope_dim does not go with key_rank");
  refused(tiny({"latent_rank=3,kept=all"}),
          "kept is all, expected by_norm, by_turn, high_frequency or uniform");
  refused(tiny({"latent_rank=3,rope_dim=2,mix_heads=1"}), "mix_heads is 1, expected yes or no");
  refused(tiny({"latent_rank=0,rope_dim=2"}), "layer 0: rank is 0, expected 1 to 64");
  refused(tiny({"latent_rank=4,rope_dim=3"}),
          "layer 0: rope_dim is 3, expected an even number from 0 to the 32");
  refused(tiny({"latent_rank=4,rope_dim=34"}),
          "layer 0: rope_dim is 34, expected an even number from 0 to the 32");
  refused(tiny({"value_rank=17"}), "layer 0: rank is 17, expected 1 to 16");
  refused(tiny({"latents=2,key_rank=4"}), "layer 0: value_rank is 0, expected at least 1");
  refused(tiny({"kv_heads=3"}), "layer 0: ");
  refused(tiny({}, {"--decode", "100000"}), "--decode is 100000, expected less than the model's");
  refused(tiny({}, {"--noise", "0", "--tokens", "9"}),
          "--calibration: the text has 9 tokens, expected at least 64");
}

}  // namespace
}  // namespace latent_convert
