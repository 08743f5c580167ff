// SPDX-License-Identifier: Apache-2.0
// What models in files keep, against figures worked out by hand and parameters that were published.
#include "model_file.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "capacity.hpp"
#include "gguf_writer.hpp"
#include "models.hpp"
#include "parameters.hpp"

namespace cache_size {
namespace {

using generate::test::GgufWriter;
using nlohmann::json;

constexpr Index bf16 = 16;

json llama() {
  return json::parse(R"({"model_type": "llama", "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256,
    "max_position_embeddings": 131072, "torch_dtype": "bfloat16", "tie_word_embeddings": false})");
}
json with(json config, const json& changes) {
  config.update(changes);
  return config;
}
Index token(const Case& c) { return bytes_per_token(c.shape, bf16); }
Index sequence(const Case& c, Index tokens) { return bytes_per_sequence(c.shape, bf16, tokens); }
Index token(const json& config) { return token(describe_config(config)); }

TEST(Config, HasTheSizesOfTheModelThatIsPublished) {
  const Case c = describe_config(llama());
  EXPECT_EQ(
      token(c),
      token(
          {.name = {}, .source = {}, .shape = find_model("Llama-3.1-8B").shape, .context = 1, .dtype = {}}));
  EXPECT_EQ(c.context, 131072);
  EXPECT_STREQ(kind(c.shape), "GQA");
  EXPECT_EQ(c.weights.parameters, 8'030'261'248);
  EXPECT_EQ(weight_bytes(c.weights, {}), 2 * 8'030'261'248);
}

TEST(Config, WithoutKvHeadsIsMha) {
  json config = llama();
  config.erase("num_key_value_heads");
  EXPECT_EQ(token(config), 2 * 32 * 32 * 128 * 2);
  EXPECT_EQ(token(with(llama(), {{"num_key_value_heads", nullptr}})), 2 * 32 * 32 * 128 * 2);
}

TEST(Config, ItsHeadDimIsNotWhatTheWidthMakesOfIt) {  // as in Mistral Small and gpt-oss
  EXPECT_EQ(token(with(llama(), {{"head_dim", 64}})), 2 * 32 * 8 * 64 * 2);
  EXPECT_EQ(token(with(llama(), {{"head_dim", nullptr}})), 2 * 32 * 8 * 128 * 2);
}

TEST(Config, OlderModelsSpellSizesOtherwise) {
  // GPT-2; GPT-BigCode's one KV head; Falcon 7B's and 40B's; ChatGLM's groups.
  EXPECT_EQ(
      token(json::parse(
          R"({"model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024})")),
      2 * 12 * 768 * 2);
  EXPECT_EQ(token(json::parse(R"({"model_type": "gpt_bigcode", "n_layer": 24, "n_head": 16, "n_embd": 2048,
      "n_positions": 2048, "multi_query": true})")),
            2 * 24 * 128 * 2);
  json falcon = json::parse(R"({"model_type": "falcon", "num_hidden_layers": 60, "num_attention_heads": 128,
      "hidden_size": 8192, "num_kv_heads": 8, "multi_query": true, "new_decoder_architecture": true,
      "max_position_embeddings": 2048})");
  EXPECT_EQ(token(falcon), 2 * 60 * 8 * 64 * 2);
  EXPECT_EQ(token(with(falcon, {{"new_decoder_architecture", false}})), 2 * 60 * 64 * 2);
  EXPECT_EQ(token(json::parse(
                R"({"model_type": "chatglm", "num_layers": 40, "num_attention_heads": 32, "kv_channels": 128,
      "hidden_size": 4096, "multi_query_attention": true, "multi_query_group_num": 2, "seq_length": 131072})")),
            2 * 40 * 2 * 128 * 2);
}

TEST(Config, WindowsAreThoseThatActs) {
  const json mistral = with(llama(), {{"model_type", "mistral"}, {"sliding_window", 4096}});
  EXPECT_EQ(describe_config(mistral).shape.local_layers, 32);
  EXPECT_EQ(sequence(describe_config(mistral), 32768), 131072 * 4096);
  for (const json& none :
       {with(mistral, {{"sliding_window", nullptr}}), with(mistral, {{"use_sliding_window", false}})})
    EXPECT_EQ(sequence(describe_config(none), 32768), 131072 * 32768ll);
  // A pattern that the file names, or its layers one by one.
  const json patterned = with(mistral, {{"model_type", "cohere2"}, {"sliding_window_pattern", 4}});
  EXPECT_EQ(describe_config(patterned).shape.local_layers, 24);
  EXPECT_EQ(describe_config(with(patterned, {{"num_hidden_layers", 30}})).shape.local_layers, 23);
  json types = json::array();
  for (int i = 0; i < 32; ++i) types.push_back(i % 2 == 0 ? "sliding_attention" : "full_attention");
  const Case half = describe_config(with(mistral, {{"model_type", "new"}, {"layer_types", types}}));
  EXPECT_EQ(half.shape.local_layers, 16);
  EXPECT_EQ(sequence(half, 32768), 16 * 4096 * (4096 + 32768ll));
  // Whoever knows it may say it.
  EXPECT_EQ(describe_config(with(mistral, {{"model_type", "new"}}), 7).shape.local_layers, 7);
}

TEST(Config, ReadsTheTextModelOfAMultimodalOne) {
  // What Google's file of Gemma 3 4B says; all else is what transformers takes for it.
  const json gemma =
      json::parse(R"({"model_type": "gemma3", "text_config": {"hidden_size": 2560, "intermediate_size": 10240,
      "model_type": "gemma3_text", "num_hidden_layers": 34, "sliding_window": 1024},
      "vision_config": {"num_hidden_layers": 27, "num_attention_heads": 16, "hidden_size": 1152}, "torch_dtype": "bfloat16"})");
  const Case c = describe_config(gemma);
  const Model& published = find_model("Gemma-3-4B");
  EXPECT_EQ(c.shape.local_layers, published.shape.local_layers);
  EXPECT_EQ(sequence(c, 131072), bytes_per_sequence(published.shape, bf16, 131072));
  EXPECT_NE(c.weights.how.find("text model alone"), std::string::npos);
}

TEST(Config, GemmasLaterLayersHaveNoCacheOfTheirOwn) {
  json types = json::array();
  for (int i = 0; i < 35; ++i) types.push_back(i % 5 == 4 ? "full_attention" : "sliding_attention");
  const json text = {{"model_type", "gemma4_text"},
                     {"num_hidden_layers", 35},
                     {"num_attention_heads", 8},
                     {"num_key_value_heads", 1},
                     {"head_dim", 256},
                     {"global_head_dim", 512},
                     {"hidden_size", 1536},
                     {"num_kv_shared_layers", 20},
                     {"sliding_window", 512},
                     {"layer_types", types},
                     {"max_position_embeddings", 131072}};
  const Case c = describe_config({{"model_type", "gemma4"}, {"text_config", text}});
  EXPECT_EQ(sequence(c, 131072), bytes_per_sequence(find_model("Gemma-4-E2B").shape, bf16, 131072));
  EXPECT_NE(c.notes.at(0).find("last 20 of 35"), std::string::npos);

  // The 31B: other KV heads too, where keys are values.
  json more = text;
  more.update({{"num_hidden_layers", 60},
               {"num_attention_heads", 32},
               {"num_key_value_heads", 16},
               {"num_global_key_value_heads", 4},
               {"attention_k_eq_v", true},
               {"num_kv_shared_layers", 0},
               {"sliding_window", 1024}});
  more.erase("layer_types");
  const Case large = describe_config({{"model_type", "gemma4"}, {"text_config", more}});
  EXPECT_EQ(sequence(large, 262144), bytes_per_sequence(find_model("Gemma-4-31B").shape, bf16, 262144));
  EXPECT_FALSE(large.weights.parameters);  // nobody has counted them here
  more["layer_types"] = std::vector<std::string>(60, "sliding_attention");
  EXPECT_EQ(describe_config({{"model_type", "gemma4"}, {"text_config", more}}).shape.local_layers, 59);
}

TEST(Config, LayersThatKeepAStateKeepNoTokens) {
  const json next = with(llama(), {{"model_type", "qwen3_next"}, {"full_attention_interval", 4}});
  EXPECT_EQ(token(next), 2 * 8 * 8 * 128 * 2);
  json types = json::array();
  for (int i = 0; i < 32; ++i) types.push_back(i % 4 == 3 ? "full_attention" : "linear_attention");
  const Case c = describe_config(with(llama(), {{"model_type", "qwen3_next"}, {"layer_types", types}}));
  EXPECT_EQ(token(c), 2 * 8 * 8 * 128 * 2);
  EXPECT_NE(c.notes.at(0).find("24 of 32"), std::string::npos);
  EXPECT_EQ(
      token(with(llama(), {{"model_type", "jamba"}, {"attn_layer_period", 8}, {"attn_layer_offset", 4}})),
      2 * 4 * 8 * 128 * 2);
}

TEST(Config, ChunksAreWindows) {  // Llama 4: every fourth layer sees all
  const json llama4 = with(
      llama(),
      {{"model_type", "llama4_text"}, {"attention_chunk_size", 8192}, {"no_rope_layers", json::array()}});
  EXPECT_EQ(describe_config(llama4).shape.local_layers, 24);
  EXPECT_EQ(describe_config(llama4).shape.window, 8192);
  const json all(std::vector<int>(32, 0));
  EXPECT_EQ(describe_config(with(llama4, {{"no_rope_layers", all}})).shape.local_layers, 0);
}

json deepseek() {
  return json::parse(R"({"model_type": "deepseek_v3", "num_hidden_layers": 61, "num_attention_heads": 128,
    "num_key_value_heads": 128, "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "n_routed_experts": 256, "n_shared_experts": 1, "first_k_dense_replace": 3, "moe_layer_freq": 1, "q_lora_rank": 1536,
    "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "vocab_size": 129280,
    "max_position_embeddings": 163840, "topk_method": "noaux_tc", "num_nextn_predict_layers": 1,
    "quantization_config": {"quant_method": "fp8"}})");
}

TEST(Config, LatentsAreWhatIsKeptOfMla) {
  const Case c = describe_config(deepseek());
  EXPECT_EQ(token(c), 70'272);
  EXPECT_EQ(bytes_per_token(c.mha(), bf16), 3'997'696);
  EXPECT_EQ(weight_bytes(c.weights, {}), 671'026'419'200);  // a byte each
  EXPECT_EQ(describe_config(with(deepseek(), {{"index_head_dim", 128}})).notes.size(), 1u);
}

TEST(Published, ParametersAreKnownOfThoseThatAreCounted) {
  EXPECT_EQ(find_model("Llama-3.1-8B").parameters, describe_config(llama()).weights.parameters);
  EXPECT_EQ(find_model("DeepSeek-V3").parameters, describe_config(deepseek()).weights.parameters);
}

// Totals that Hugging Face shows for the models' files.
TEST(Config, ParametersAreThosePublished) {
  const auto parameters = [](const char* text) {
    const json config = json::parse(text);
    return describe_config(config).weights.parameters;
  };
  EXPECT_EQ(describe_config(deepseek()).weights.parameters, 671'026'419'200);
  EXPECT_EQ(parameters(R"({"model_type": "llama", "num_hidden_layers": 80, "num_attention_heads": 64,
      "num_key_value_heads": 8, "hidden_size": 8192, "intermediate_size": 28672, "vocab_size": 128256,
      "max_position_embeddings": 131072})"),
            70'553'706'496);
  EXPECT_EQ(parameters(R"({"model_type": "llama", "num_hidden_layers": 30, "num_attention_heads": 9,
      "num_key_value_heads": 3, "hidden_size": 576, "intermediate_size": 1536, "vocab_size": 49152,
      "tie_word_embeddings": true, "max_position_embeddings": 8192})"),
            134'515'008);
  EXPECT_EQ(parameters(R"({"model_type": "qwen3", "num_hidden_layers": 36, "num_attention_heads": 32,
      "num_key_value_heads": 8, "head_dim": 128, "hidden_size": 4096, "intermediate_size": 12288, "vocab_size": 151936,
      "max_position_embeddings": 40960, "tie_word_embeddings": false})"),
            8'190'735'360);
  EXPECT_EQ(parameters(R"({"model_type": "gemma3_text", "num_hidden_layers": 26, "num_attention_heads": 4,
      "num_key_value_heads": 1, "head_dim": 256, "hidden_size": 1152, "intermediate_size": 6912, "vocab_size": 262144,
      "max_position_embeddings": 32768, "sliding_window": 512})"),
            999'885'952);
  EXPECT_EQ(parameters(R"({"model_type": "gemma2", "num_hidden_layers": 26, "num_attention_heads": 8,
      "num_key_value_heads": 4, "head_dim": 256, "hidden_size": 2304, "intermediate_size": 9216, "vocab_size": 256000,
      "max_position_embeddings": 8192, "sliding_window": 4096})"),
            2'614'341'888);
  EXPECT_EQ(parameters(R"({"model_type": "mixtral", "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": 8, "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 32000,
      "num_local_experts": 8, "max_position_embeddings": 32768})"),
            46'702'792'704);
  const json oss =
      json::parse(R"({"model_type": "gpt_oss", "num_hidden_layers": 24, "num_attention_heads": 64,
      "num_key_value_heads": 8, "head_dim": 64, "hidden_size": 2880, "intermediate_size": 2880, "vocab_size": 201088,
      "num_local_experts": 32, "attention_bias": true, "sliding_window": 128, "max_position_embeddings": 131072})");
  EXPECT_EQ(describe_config(oss).weights.parameters, 20'914'757'184);
  EXPECT_EQ(
      describe_config(with(oss, {{"num_hidden_layers", 36}, {"num_local_experts", 128}})).weights.parameters,
      116'829'156'672);
  EXPECT_EQ(describe_config(oss).shape.local_layers, 12);
  // Experts in some layers only are not counted.
  EXPECT_FALSE(describe_config(with(oss, {{"decoder_sparse_step", 2}})).weights.parameters);
}

TEST(Weights, TakeWhatTheirTypeSays) {
  const Weights w{.bytes = 99, .parameters = 1000, .dtype = "bf16", .how = {}};
  EXPECT_EQ(weight_bytes(w, {}), 99);
  for (const auto& [dtype, bytes] : {std::pair("f64", 8000),
                                     {"f32", 4000},
                                     {"bf16", 2000},
                                     {"fp8", 1000},
                                     {"int4", 500},
                                     {"q8_0", 32 * 34},
                                     {"q4_0", 32 * 18},
                                     {"q4_k", 4 * 144},
                                     {"Q6_K", 4 * 210},
                                     {"mxfp4", 32 * 17},
                                     {"iq4_xs", 4 * 136}})
    EXPECT_EQ(weight_bytes(w, dtype), bytes) << dtype;  // in whole blocks
  EXPECT_THROW(weight_bytes(w, "q9"), std::invalid_argument);
  EXPECT_FALSE(weight_bytes(Weights{.bytes = {}, .parameters = {}, .dtype = {}, .how = {}}, "bf16"));
}

template <class F>
std::string message_of(F&& call) {
  try {
    call();
  } catch (const gqa::format_error& error) {
    return error.what();
  } catch (const std::invalid_argument& error) {
    return std::string("argument: ") + error.what();
  }
  return "nothing thrown";
}

TEST(Config, RefusesWhatCannotBe) {
  const auto message = [](const json& changes) {
    return message_of([&] { check(describe_config(with(llama(), changes)).shape); });
  };
  EXPECT_EQ(message({{"num_hidden_layers", nullptr}}), "num_hidden_layers is missing");
  EXPECT_EQ(message({{"num_hidden_layers", 0}}),
            "num_hidden_layers is 0, expected an integer of 1 to 2147483647");
  EXPECT_EQ(message({{"num_hidden_layers", -3}}),
            "num_hidden_layers is -3, expected an integer of 1 to 2147483647");
  EXPECT_EQ(message({{"num_attention_heads", "many"}}),
            "num_attention_heads is \"many\", expected an integer of 1 to 2147483647");
  EXPECT_EQ(message({{"num_attention_heads", 1.5}}),
            "num_attention_heads is 1.5, expected an integer of 1 to 2147483647");
  EXPECT_NE(message({{"hidden_size", 18446744073709551615u}}).find("expected an integer"), std::string::npos);
  EXPECT_EQ(message({{"hidden_size", 4097}}), "hidden_size is 4097, expected a multiple of the 32 heads");
  EXPECT_EQ(message({{"num_key_value_heads", 5}}),
            "argument: heads is 32, expected a multiple of kv-heads = 5");
  EXPECT_EQ(message({{"use_sliding_window", 1}}), "use_sliding_window is 1, expected true or false");
  EXPECT_EQ(message({{"sliding_window", 4096}}),
            "there is a window of 4096 tokens, but nothing says of which layers: give --local-layers");
  EXPECT_EQ(message({{"layer_types", {"full_attention"}}}),
            "layer_types does not name the types of 32 layers");
  EXPECT_EQ(message({{"layer_types", std::vector<std::string>(32, "telepathy")}}),
            "layer_types has 'telepathy', which is not known");
  EXPECT_EQ(message({{"layer_types", std::vector<std::string>(32, "sliding_attention")}}),
            "32 layers have a window, but sliding_window is missing");
  EXPECT_EQ(message({{"layer_types", std::vector<std::string>(32, "mamba")}}),
            "none of the layers keeps keys and values");
  EXPECT_EQ(message({{"num_kv_shared_layers", 32}}),
            "num_kv_shared_layers is 32, expected fewer than the 32 layers");
  EXPECT_EQ(message({{"kv_lora_rank", 512}}), "qk_rope_head_dim is missing");
  EXPECT_EQ(message({{"max_position_embeddings", nullptr}}), "max_position_embeddings is missing");
  EXPECT_EQ(message({{"vocab_size", nullptr}}), "vocab_size is missing");
  EXPECT_EQ(message_of([] { describe_config(json::array()); }), "this is no config.json: it holds no object");
  EXPECT_EQ(message_of([] { describe_config(llama(), 33); }),
            "argument: local-layers is 33, expected 0 to layers = 32");
}

/// The metadata of Llama 3 8B and a tensor of each of two types, 64 x 2 values.
GgufWriter gguf(const std::string& architecture = "llama") {
  GgufWriter writer;
  const auto name = [&](const char* key) { return architecture + "." + key; };
  writer.text("general.architecture", architecture);
  writer.text("general.name", "Small");
  writer.integer(name("block_count"), 12);
  writer.integer(name("context_length"), 8192);
  writer.integer(name("embedding_length"), 1024);
  writer.integer(name("attention.head_count"), 16);
  writer.integer(name("attention.head_count_kv"), 4);
  writer.tensor("a", {64, 2}, generate::TensorType::f32, std::vector<std::byte>(512));
  writer.tensor("b", {64, 2}, static_cast<generate::TensorType>(39),
                std::vector<std::byte>(4 * 17));  // MXFP4
  return writer;
}
Case describe(const GgufWriter& writer, std::optional<Index> local_layers = {}) {
  const auto bytes = writer.file();
  return describe_gguf(generate::Gguf(bytes, nullptr, generate::Gguf::Types::any), local_layers);
}

TEST(GgufModel, WeightsAreThoseOfItsTensors) {
  const Case c = describe(gguf());
  EXPECT_EQ(c.name, "Small");
  EXPECT_EQ(c.context, 8192);
  EXPECT_EQ(token(c), 2 * 12 * 4 * 64 * 2);
  EXPECT_EQ(c.weights.bytes, 512 + 68);
  EXPECT_EQ(c.weights.parameters, 256);
  GgufWriter part = gguf();
  part.key("split.count", 2, generate::test::Bytes().number(std::uint16_t{3}));
  EXPECT_FALSE(describe(part).weights.bytes);
  // Who computes with tensors refuses that type as before.
  const auto bytes = gguf().file();
  EXPECT_EQ(message_of([&] { generate::Gguf file(bytes); }).substr(0, 24), "tensor b is of type MXFP");
}

TEST(GgufModel, HeadsHaveTheirOwnSize) {
  GgufWriter writer = gguf();
  writer.integer("llama.attention.key_length", 96);
  EXPECT_EQ(token(describe(writer)), 12 * 4 * (96 + 96) * 2);
  writer.integer("llama.attention.value_length", 32);
  EXPECT_EQ(token(describe(writer)), 12 * 4 * (96 + 32) * 2);
  writer.remove_key("llama.attention.head_count_kv");
  EXPECT_EQ(token(describe(writer)), 12 * 16 * (96 + 32) * 2);
}

TEST(GgufModel, LayersMayHaveNoKvHeads) {  // LFM2, whose first layer has none; Qwen 3.5, by an interval
  GgufWriter writer = gguf("lfm2");
  writer.numbers("lfm2.attention.head_count_kv", 5,
                 std::vector<std::int32_t>{0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0});
  const Case c = describe(writer);
  EXPECT_EQ(token(c), 2 * 4 * 8 * 64 * 2);
  EXPECT_NE(c.notes.at(0).find("8 of 12"), std::string::npos);
  GgufWriter interval = gguf("qwen35");
  interval.integer("qwen35.full_attention_interval", 4);
  interval.integer("qwen35.block_count", 13);  // the fourth, the eighth, the twelfth
  EXPECT_EQ(token(describe(interval)), 2 * 3 * 4 * 64 * 2);
}

TEST(GgufModel, WindowsAreTheArchitecturesOrTheFiles) {
  const auto local = [](const std::string& architecture) {
    GgufWriter writer = gguf(architecture);
    writer.integer(architecture + ".attention.sliding_window", 128);
    return describe(writer).shape.local_layers;
  };
  EXPECT_EQ(local("gemma2"), 6);
  EXPECT_EQ(local("gemma3"), 10);
  EXPECT_EQ(local("gpt-oss"), 6);
  GgufWriter writer = gguf("other");
  writer.integer("other.attention.sliding_window", 128);
  EXPECT_EQ(
      message_of([&] { describe(writer); }),
      "key other.attention.sliding_window is 128, but nothing says of which layers: give --local-layers");
  EXPECT_EQ(describe(writer, 5).shape.local_layers, 5);
  writer.integer("other.attention.sliding_window_pattern", 4);
  EXPECT_EQ(describe(writer).shape.local_layers, 9);
  writer.numbers("other.attention.sliding_window_pattern", 7,
                 std::vector<std::uint8_t>{1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0});
  const Case c = describe(writer);
  EXPECT_EQ(c.shape.local_layers, 4);
  EXPECT_EQ(sequence(c, 1000), 2 * 4 * 64 * 2 * (8 * 1000 + 4 * 128));
  // Gemma 4: heads of another size and number behind windows, and layers without caches.
  writer.integer("other.attention.key_length", 512);
  writer.integer("other.attention.value_length", 512);
  writer.integer("other.attention.key_length_swa", 256);
  writer.integer("other.attention.value_length_swa", 256);
  writer.numbers("other.attention.head_count_kv", 5,
                 std::vector<std::int32_t>{8, 8, 2, 8, 8, 2, 2, 2, 2, 2, 2, 2});
  writer.integer("other.attention.shared_kv_layers", 3);
  EXPECT_EQ(sequence(describe(writer), 1000), 2 * 2 * (5 * 2 * 512 * 1000 + 4 * 8 * 256 * 128));
}

TEST(GgufModel, LatentsAreWhatIsKeptOfMla) {
  GgufWriter writer = gguf("deepseek2");
  writer.integer("deepseek2.attention.kv_lora_rank", 512);
  writer.integer("deepseek2.rope.dimension_count", 64);
  writer.integer("deepseek2.attention.key_length", 576);
  writer.integer("deepseek2.attention.value_length", 512);
  writer.integer("deepseek2.attention.key_length_mla", 192);
  writer.integer("deepseek2.attention.value_length_mla", 128);
  writer.integer("deepseek2.attention.head_count_kv", 1);
  const Case c = describe(writer);
  EXPECT_EQ(token(c), 12 * 576 * 2);
  EXPECT_EQ(bytes_per_token(c.mha(), bf16), 12 * 16 * (128 + 128) * 2);
}

TEST(GgufModel, RefusesWhatCannotBe) {
  const auto message = [](const std::function<void(GgufWriter&)>& change) {
    GgufWriter writer = gguf();
    change(writer);
    return message_of([&] { describe(writer); });
  };
  EXPECT_EQ(message([](auto& w) { w.remove_key("general.architecture"); }),
            "key general.architecture is missing");
  EXPECT_EQ(message([](auto& w) { w.remove_key("llama.block_count"); }), "key llama.block_count is missing");
  EXPECT_EQ(message([](auto& w) { w.integer("llama.block_count", 0); }),
            "key llama.block_count is 0, expected 1 to 2147483647");
  EXPECT_EQ(message([](auto& w) { w.text("llama.context_length", "long"); }),
            "key llama.context_length is not an integer");
  EXPECT_EQ(message([](auto& w) { w.integer("llama.embedding_length", 1000); }),
            "key llama.embedding_length is 1000, expected a multiple of the 16 heads");
  EXPECT_EQ(message([](auto& w) {
              w.numbers("llama.attention.head_count_kv", 5, std::vector<std::int32_t>{4, 4});
            }),
            "key llama.attention.head_count_kv holds 2 numbers for 12 layers");
  EXPECT_EQ(
      message([](auto& w) {
        w.numbers("llama.attention.head_count_kv", 5,
                  std::vector<std::int32_t>{4, 4, 4, 4, 4, 2, 4, 4, 4, 4, 4, 4});
      }),
      "key llama.attention.head_count_kv has 4 and 2: layers that differ in more than their window are not "
      "supported");
  EXPECT_EQ(message([](auto& w) {
              w.numbers("llama.attention.head_count_kv", 5, std::vector<std::int32_t>(12, 0));
            }),
            "key llama.attention.head_count_kv: none of the layers keeps keys and values");
  EXPECT_EQ(message([](auto& w) { w.integer("llama.attention.shared_kv_layers", 12); }),
            "key llama.block_count leaves no layer that keeps keys and values");
  EXPECT_EQ(message([](auto& w) { w.find("b").type = 77; }).substr(0, 36),
            "tensor b is of type unknown type 77,");
}

TEST(ModelFile, IsWhatItsFirstBytesSay) {
  std::string folder = testing::TempDir() + "model_file-XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  GgufWriter writer = gguf();
  writer.text("general.name", "a\x1b[31m\xff<b>");
  const auto bytes = writer.file();
  std::ofstream(folder + "/a").write(reinterpret_cast<const char*>(bytes.data()), std::ssize(bytes));
  std::ofstream(folder + "/config.json") << "\n  " << with(llama(), {{"sliding_window", 9}});
  EXPECT_EQ(read_model(folder + "/a").name, "a?[31m\xEF\xBF\xBD<b>");
  EXPECT_EQ(read_model(folder, 0).context, 131072);
  EXPECT_EQ(read_model(folder + "/config.json", 3).shape.local_layers, 3);
  std::filesystem::remove(folder + "/config.json");
  EXPECT_THROW(read_model(folder), std::system_error);
  std::filesystem::remove_all(folder);
}

TEST(Plan, IsTheArithmeticOfLayersThatDiffer) {
  // Where nothing is rounded up: whole rings of 64 and slabs of 512.
  const Shape s = find_model("Gemma-4-31B").shape;
  Budget budget;
  budget.max_span = 1;
  const Index tokens = 1024;  // all within the window
  EXPECT_EQ(plan_of(s, budget).elements_per_token() * 2, bytes_per_token(s, bf16));
  EXPECT_GE(plan_of(s, budget).bytes<gqa::bfloat16>(tokens), bytes_per_sequence(s, bf16, tokens));
  budget.placement = "paged";
  EXPECT_EQ(message_of([&] { plan_of(s, budget); }),
            "argument: the layers keep different heads, which --placement hybrid is for");
}

}  // namespace
}  // namespace cache_size
