// SPDX-License-Identifier: Apache-2.0
#include "cache_size.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <string_view>

#include "models.hpp"

namespace cache_size {
namespace {

constexpr Index bf16 = 16;

double gigabytes(Index bytes) { return static_cast<double>(bytes) / 1e9; }

TEST(CacheSize, IsTwoTimesLayersHeadsDimTokensAndElement) {
  const Shape s{.layers = 3, .q_heads = 10, .kv_heads = 5, .head_dim = 7};
  EXPECT_EQ(elements_per_token_and_layer(s), 2 * 5 * 7);
  EXPECT_EQ(bytes_per_token(s, 32), 2 * 3 * 5 * 7 * 4);
  EXPECT_EQ(bytes_per_sequence(s, 32, 11), 2 * 3 * 5 * 7 * 4 * 11);
  EXPECT_EQ(bytes_per_sequence(s, 64, 11), 2 * 3 * 5 * 7 * 8 * 11);
  EXPECT_EQ(bytes_per_sequence(s, 8, 11), 2 * 3 * 5 * 7 * 11);
  EXPECT_EQ(bytes_per_sequence(s, 4, 11), 3 * 5 * 7 * 11);
}

TEST(CacheSize, ValuesMayHaveAnotherSize) {
  const Shape s{.layers = 3, .q_heads = 10, .kv_heads = 5, .head_dim = 7, .value_dim = 4};
  EXPECT_EQ(bytes_per_token(s, 16), 3 * 5 * (7 + 4) * 2);
}

TEST(CacheSize, LocalLayersKeepTheirWindowOnly) {
  const Shape s{.layers = 6, .q_heads = 4, .kv_heads = 2, .head_dim = 8, .local_layers = 5, .window = 100};
  const Index element = 2 * 2 * 8 * 2;
  EXPECT_EQ(bytes_per_token(s, 16), 6 * element);
  for (const Index tokens : {1, 99, 100}) EXPECT_EQ(bytes_per_sequence(s, 16, tokens), 6 * element * tokens);
  EXPECT_EQ(bytes_per_sequence(s, 16, 101), element * (101 + 5 * 100));
  EXPECT_EQ(bytes_per_sequence(s, 16, 5000), element * (5000 + 5 * 100));
}

TEST(CacheSize, BytesAreRoundedUp) {
  const Shape s{.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 1, .value_dim = 2};
  EXPECT_EQ(bytes_per_token(s, 4), 2);
  EXPECT_EQ(bytes_per_sequence(s, 4, 3), 5);
}

// The figures people quote.
TEST(CacheSize, GroupsDivideTheCache) {
  struct Figure {
    Index q_heads, kv_heads, ratio;
  };
  for (const Figure f : {Figure{32, 8, 4}, {64, 8, 8}, {128, 8, 16}, {71, 1, 71}, {9, 3, 3}}) {
    const Shape gqa{.layers = 80, .q_heads = f.q_heads, .kv_heads = f.kv_heads, .head_dim = 128};
    const Shape mha = with_kv_heads(gqa, f.q_heads);
    EXPECT_EQ(bytes_per_sequence(mha, bf16, 8192), f.ratio * bytes_per_sequence(gqa, bf16, 8192));
  }
}

TEST(CacheSize, FourHundredGigabytesBecomeThree) {
  const Shape mha{.layers = 61, .q_heads = 128, .kv_heads = 128, .head_dim = 128};
  EXPECT_EQ(bytes_per_sequence(mha, bf16, 100'000), 399'769'600'000);
  EXPECT_EQ(bytes_per_sequence(with_kv_heads(mha, 1), bf16, 100'000), 3'123'200'000);
  EXPECT_EQ(bytes_per_sequence(with_kv_heads(mha, 8), bf16, 100'000), 24'985'600'000);
}

TEST(CacheSize, SeventyBillionParametersAtLongContext) {
  const Model& model = find_model("llama-3.1-70b");
  const Index gqa = bytes_per_sequence(model.shape, bf16, 131072);
  const Index mha = bytes_per_sequence(with_kv_heads(model.shape, 64), bf16, 131072);
  EXPECT_EQ(mha - gqa, 300'647'710'720);
  EXPECT_NEAR(gigabytes(mha - gqa), 300.6, 0.05);
}

TEST(CacheSize, DeepSeekKeepsALatent) {
  const Shape& v3 = find_model("DeepSeek-V3").shape;
  EXPECT_EQ(bytes_per_token(v3, bf16), 70'272);
  EXPECT_EQ(bytes_per_token(find_model("DeepSeek-V2").shape, bf16), 69'120);
  EXPECT_EQ(bytes_per_token(with_kv_heads(v3, 128), bf16), 3'997'696);
  EXPECT_EQ(bytes_per_token(with_kv_heads(v3, 8), bf16), 249'856);
  EXPECT_EQ(bytes_per_token(with_kv_heads(v3, 1), bf16), 31'232);
  EXPECT_EQ(bytes_per_sequence(v3, bf16, 100'000), 7'027'200'000);
  // A latent is 2.25 times MQA: smaller than GQA with 8 heads, not smaller than MQA.
  EXPECT_EQ(4 * bytes_per_token(v3, bf16), 9 * bytes_per_token(with_kv_heads(v3, 1), bf16));
}

// Every row, worked out apart from this code: bytes a token with every layer keeping it, bytes of the longest
// sequence as the model caches it, and the same for MHA.
struct Row {
  std::string_view name;
  Index token, sequence, mha;
};
constexpr Row rows[] = {
    {"GPT-3-175B", 4'718'592, 9'663'676'416, 9'663'676'416},
    {"Llama-2-7B", 524'288, 2'147'483'648, 2'147'483'648},
    {"Llama-2-70B", 327'680, 1'342'177'280, 10'737'418'240},
    {"Llama-3-8B", 131'072, 1'073'741'824, 4'294'967'296},
    {"Llama-3.1-8B", 131'072, 17'179'869'184, 68'719'476'736},
    {"Llama-3-70B", 327'680, 2'684'354'560, 21'474'836'480},
    {"Llama-3.1-70B", 327'680, 42'949'672'960, 343'597'383'680},
    {"Llama-3.1-405B", 516'096, 67'645'734'912, 1'082'331'758'592},
    {"Mistral-7B-v0.1", 131'072, 536'870'912, 17'179'869'184},
    {"Mistral-7B-v0.3", 131'072, 4'294'967'296, 17'179'869'184},
    {"Gemma-1-2B", 18'432, 150'994'944, 1'207'959'552},
    {"Gemma-1-7B", 458'752, 3'758'096'384, 3'758'096'384},
    {"Gemma-2-2B", 106'496, 654'311'424, 1'744'830'464},
    {"Gemma-2-9B", 344'064, 2'113'929'216, 5'637'144'576},
    {"Gemma-2-27B", 376'832, 2'315'255'808, 6'174'015'488},
    {"Gemma-3-270M", 18'432, 108'527'616, 2'415'919'104},
    {"Gemma-3-1B", 26'624, 145'752'064, 3'489'660'928},
    {"Gemma-3-4B", 139'264, 2'805'989'376, 36'507'222'016},
    {"Gemma-3-12B", 393'216, 8'925'478'912, 103'079'215'104},
    {"Gemma-3-27B", 507'904, 11'173'625'856, 133'143'986'176},
    {"Gemma-3n-E2B", 40'960, 285'212'672, 5'368'709'120},
    {"Gemma-3n-E4B", 40'960, 285'212'672, 5'368'709'120},
    {"Gemma-4-E2B", 18'432, 811'597'824, 19'327'352'832},
    {"Gemma-4-E4B", 57'344, 2'168'455'168, 30'064'771'072},
    {"Gemma-4-26B-A4B", 225'280, 5'578'424'320, 150'323'855'360},
    {"Gemma-4-31B", 901'120, 22'313'697'280, 601'295'421'440},
    {"Qwen2.5-0.5B", 12'288, 402'653'184, 2'818'572'288},
    {"Qwen2.5-7B", 57'344, 7'516'192'768, 52'613'349'376},
    {"Qwen2.5-32B", 262'144, 34'359'738'368, 171'798'691'840},
    {"Qwen2.5-72B", 327'680, 42'949'672'960, 343'597'383'680},
    {"Qwen3-0.6B", 114'688, 4'697'620'480, 9'395'240'960},
    {"Qwen3-1.7B", 114'688, 4'697'620'480, 9'395'240'960},
    {"Qwen3-4B", 147'456, 6'039'797'760, 24'159'191'040},
    {"Qwen3-8B", 147'456, 6'039'797'760, 24'159'191'040},
    {"Qwen3-14B", 163'840, 6'710'886'400, 33'554'432'000},
    {"Qwen3-30B-A3B", 98'304, 4'026'531'840, 32'212'254'720},
    {"Qwen3-32B", 262'144, 10'737'418'240, 85'899'345'920},
    {"Qwen3-235B-A22B", 192'512, 7'885'291'520, 126'164'664'320},
    {"Falcon-7B", 8'192, 16'777'216, 1'191'182'336},
    {"Falcon-40B", 122'880, 251'658'240, 4'026'531'840},
    {"Falcon-180B", 163'840, 335'544'320, 9'730'785'280},
    {"SmolLM2-135M", 23'040, 188'743'680, 566'231'040},
    {"SmolLM2-360M", 40'960, 335'544'320, 1'006'632'960},
    {"SmolLM2-1.7B", 196'608, 1'610'612'736, 1'610'612'736},
    {"TinyLlama-1.1B", 22'528, 46'137'344, 369'098'752},
    {"gpt-oss-20b", 49'152, 3'224'371'200, 51'539'607'552},
    {"gpt-oss-120b", 73'728, 4'836'556'800, 77'309'411'328},
    {"DeepSeek-67B", 389'120, 1'593'835'520, 12'750'684'160},
    {"DeepSeek-V2", 69'120, 9'059'696'640, 515'396'075'520},
    {"DeepSeek-V3", 70'272, 9'210'691'584, 523'986'010'112},
    {"Kimi-K2-0905", 70'272, 18'421'383'168, 523'986'010'112},
};

TEST(CacheSize, EveryModelToTheByte) {
  ASSERT_EQ(models.size(), std::size(rows));
  for (std::size_t i = 0; i < models.size(); ++i) {
    const Model& model = models[i];
    EXPECT_EQ(model.name, rows[i].name);
    EXPECT_NO_THROW(check(model.shape)) << model.name;
    EXPECT_EQ(bytes_per_token(model.shape, bf16), rows[i].token) << model.name;
    EXPECT_EQ(bytes_per_sequence(model.shape, bf16, model.context), rows[i].sequence) << model.name;
    EXPECT_EQ(bytes_per_sequence(with_kv_heads(model.shape, model.shape.q_heads), bf16, model.context),
              rows[i].mha)
        << model.name;
    EXPECT_GT(std::string_view(model.source).size(), 10u) << model.name;
  }
}

TEST(CacheSize, Kinds) {
  EXPECT_STREQ(kind(find_model("GPT-3-175B").shape), "MHA");
  EXPECT_STREQ(kind(find_model("llama-3-8b").shape), "GQA");
  EXPECT_STREQ(kind(find_model("Gemma-3-1B").shape), "MQA");
  EXPECT_STREQ(kind(find_model("DeepSeek-V3").shape), "MLA");
  EXPECT_STREQ(kind({.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 1}), "MHA");
}

template <class Error, class F>
std::string message_of(F&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing thrown";
}

TEST(CacheSize, RefusesWhatCannotBe) {
  const Shape good{.layers = 2, .q_heads = 8, .kv_heads = 2, .head_dim = 64, .local_layers = 1, .window = 4};
  EXPECT_NO_THROW(check(good));
  const auto message = [&](auto change) {
    Shape s = good;
    change(s);
    return message_of<std::invalid_argument>([&] { check(s); });
  };
  EXPECT_EQ(message([](Shape& s) { s.layers = 0; }), "layers is 0, expected at least 1");
  EXPECT_EQ(message([](Shape& s) { s.q_heads = -8; }), "heads is -8, expected at least 1");
  EXPECT_EQ(message([](Shape& s) { s.kv_heads = 0; }), "kv-heads is 0, expected at least 1");
  EXPECT_EQ(message([](Shape& s) { s.kv_heads = 3; }), "heads is 8, expected a multiple of kv-heads = 3");
  EXPECT_EQ(message([](Shape& s) { s.kv_heads = 16; }), "heads is 8, expected a multiple of kv-heads = 16");
  EXPECT_EQ(message([](Shape& s) { s.head_dim = 0; }), "head-dim is 0, expected at least 1");
  EXPECT_EQ(message([](Shape& s) { s.value_dim = -1; }), "value-dim is -1, expected at least 1");
  EXPECT_EQ(message([](Shape& s) { s.latent_dim = -1; }), "latent-dim is -1, expected at least 0");
  EXPECT_EQ(message([](Shape& s) { s.local_layers = 3; }), "local-layers is 3, expected 0 to layers = 2");
  EXPECT_EQ(message([](Shape& s) { s.local_layers = -1; }), "local-layers is -1, expected 0 to layers = 2");
  EXPECT_EQ(message([](Shape& s) { s.window = 0; }), "window is 0, expected at least 1");
  EXPECT_EQ(message_of<std::invalid_argument>([] { bits_of("f8"); }),
            "dtype is 'f8', expected f64, f32, f16, bf16, fp8, int8 or int4");
  EXPECT_EQ(message_of<std::invalid_argument>([] { find_model("llama"); }),
            "model is 'llama', expected one of those that --list shows");
  EXPECT_THROW(find_model(""), std::invalid_argument);
}

TEST(CacheSize, BitsOfEachType) {
  EXPECT_EQ(bits_of("f64"), 64);
  EXPECT_EQ(bits_of("f32"), 32);
  EXPECT_EQ(bits_of("f16"), 16);
  EXPECT_EQ(bits_of("bf16"), 16);
  EXPECT_EQ(bits_of("fp8"), 8);
  EXPECT_EQ(bits_of("int8"), 8);
  EXPECT_EQ(bits_of("int4"), 4);
}

TEST(CacheSize, OverflowIsAnErrorAndNotANumber) {
  const Index huge = std::numeric_limits<Index>::max();
  const Shape good{.layers = 2, .q_heads = 8, .kv_heads = 2, .head_dim = 64};
  EXPECT_THROW(bytes_per_sequence(good, 16, huge), std::length_error);
  EXPECT_THROW(bytes_per_sequence(good, 16, huge / 500), std::length_error);
  for (const auto member :
       {&Shape::layers, &Shape::kv_heads, &Shape::head_dim, &Shape::value_dim, &Shape::latent_dim}) {
    Shape s = good;
    s.*member = huge;
    EXPECT_THROW(bytes_per_token(s, 16), std::length_error);
    EXPECT_THROW(bytes_per_sequence(s, 16, 2), std::length_error);
  }
}

}  // namespace
}  // namespace cache_size
