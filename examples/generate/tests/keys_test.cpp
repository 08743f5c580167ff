// SPDX-License-Identifier: Apache-2.0
// What a file's keys say is done or refused by name: nothing is dropped in silence.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "gqa/core/error.hpp"
#include "hyperparameters.hpp"
#include "tiny_model.hpp"
#include "tokenizer.hpp"

namespace generate {
namespace {

using test::GgufWriter;
using Change = std::function<void(GgufWriter&)>;

/// What the tiny model's header says after a change.
Hyperparameters read(const Change& change) {
  auto writer = test::tiny_model();
  change(writer);
  const auto bytes = writer.file();
  const Gguf file(bytes);
  const Tokenizer tokenizer(file);
  return read_hyperparameters(file);
}

std::string error_of(const Change& change) {
  try {
    (void)read(change);
  } catch (const gqa::format_error& error) {
    return error.what();
  }
  return "no error";
}

void expect_refused(const Change& change, const std::string& part) {
  const std::string error = error_of(change);
  EXPECT_NE(error.find(part), std::string::npos) << error << "\nexpected: " << part;
}

/// The angle per position of each pair, and what multiplies cos and sin.
struct Rotation {
  std::vector<double> frequencies;
  double attention_factor;
  bool operator==(const Rotation&) const = default;
};

Rotation rotation(const Change& change) {
  const auto rope = read(change).rope;
  return {rope.scaling.inverse_frequencies(rope.rotary_dim, rope.theta), rope.scaling.attention_factor()};
}

void factors(GgufWriter& w, float factor) {
  test::Bytes bytes;
  for (int i = 0; i < 8; ++i) bytes.number(factor);
  w.tensor("rope_freqs.weight", {8}, TensorType::f32, bytes.get());
}

void yarn(GgufWriter& w) {
  w.text("llama.rope.scaling.type", "yarn");
  w.real("llama.rope.scaling.factor", 4);
}

Rotation divided(double factor, double attention_factor = 1) {
  Rotation plain = rotation([](auto&) {});
  for (double& frequency : plain.frequencies) frequency /= factor;
  plain.attention_factor = attention_factor;
  return plain;
}

TEST(RopeKeys, AFactorWithoutATypeIsLinear) {
  EXPECT_EQ(rotation([](auto& w) { w.real("llama.rope.scaling.factor", 4); }), divided(4));
  EXPECT_EQ(rotation([](auto& w) { w.real("llama.rope.scale_linear", 4); }), divided(4));
  EXPECT_EQ(rotation([](auto& w) {
              w.text("llama.rope.scaling.type", "linear");
              w.real("llama.rope.scaling.factor", 4);
            }),
            divided(4));
  EXPECT_EQ(rotation([](auto& w) { w.text("llama.rope.scaling.type", "linear"); }), divided(1));
  EXPECT_EQ(rotation([](auto& w) {
              factors(w, 2);
              w.real("llama.rope.scaling.factor", 4);
            }),
            divided(8));
}

TEST(RopeKeys, TheAttentionFactorCountsWhateverTheType) {
  const auto with = [](const Change& change) {
    return rotation([&](auto& w) {
      w.real("llama.rope.scaling.attn_factor", 1.5F);
      change(w);
    });
  };
  EXPECT_EQ(with([](auto&) {}), divided(1, 1.5));
  EXPECT_EQ(with([](auto& w) { w.text("llama.rope.scaling.type", "none"); }), divided(1, 1.5));
  EXPECT_EQ(with([](auto& w) { w.real("llama.rope.scaling.factor", 4); }), divided(4, 1.5));
  EXPECT_EQ(with([](auto& w) { w.real("llama.rope.scale_linear", 4); }), divided(4, 1.5));
  EXPECT_EQ(with([](auto& w) { factors(w, 2); }), divided(2, 1.5));
  EXPECT_EQ(with(yarn).attention_factor, 1.5 * gqa::yarn_mscale(4));
}

TEST(RopeKeys, YarnTakesTheContextLengthForTheOriginalOne) {
  const auto original = [](std::uint32_t length) {
    return rotation([&](auto& w) {
      yarn(w);
      w.integer("llama.rope.scaling.original_context_length", length);
    });
  };
  EXPECT_EQ(rotation(yarn), original(200));
  EXPECT_NE(rotation(yarn), original(50));
}

TEST(RopeKeys, RefusesWhatContradictsOrWouldNotCount) {
  expect_refused(
      [](auto& w) {
        w.text("llama.rope.scaling.type", "none");
        w.real("llama.rope.scaling.factor", 4);
      },
      "llama.rope.scaling.factor is 4 beside the rope scaling none");
  expect_refused(
      [](auto& w) {
        w.real("llama.rope.scale_linear", 2);
        w.real("llama.rope.scaling.factor", 4);
      },
      "llama.rope.scale_linear is 2, but llama.rope.scaling.factor 4");
  expect_refused([](auto& w) { w.text("llama.rope.scaling.type", "yarn"); },
                 "llama.rope.scaling.factor is missing");
  for (const float factor : {0.0F, -1.0F, std::nanf(""), HUGE_VALF}) {
    expect_refused([&](auto& w) { w.real("llama.rope.scaling.factor", factor); },
                   "llama.rope.scaling.factor");
    expect_refused([&](auto& w) { w.real("llama.rope.scale_linear", factor); }, "llama.rope.scale_linear");
    expect_refused([&](auto& w) { w.real("llama.rope.scaling.attn_factor", factor); },
                   "llama.rope.scaling.attn_factor");
  }
  expect_refused(
      [](auto& w) {
        factors(w, 2);
        yarn(w);
      },
      "rope_freqs.weight together with the rope scaling yarn");
  for (const char* key : {"llama.rope.scaling.yarn_beta_fast", "llama.rope.scaling.yarn_beta_slow",
                          "llama.rope.scaling.yarn_ext_factor"}) {
    expect_refused([&](auto& w) { w.real(key, 1); }, key);
  }
}

TEST(LayerKeys, AnArrayOfEqualNumbersIsThatNumber) {
  const auto sizes = read([](auto& w) {
    w.template numbers<std::uint32_t>("llama.attention.head_count", 4, {4, 4});
    w.template numbers<std::int32_t>("llama.attention.head_count_kv", 5, {2, 2});
    w.template numbers<std::int32_t>("llama.feed_forward_length", 5, {256, 256});
    w.template numbers<std::int32_t>("llama.attention.key_length", 5, {16, 16});
    w.template numbers<std::int32_t>("llama.attention.value_length", 5, {16, 16});
    w.template numbers<std::uint64_t>("llama.attention.sliding_window", 10, {20, 20});
    w.template numbers<std::uint16_t>("llama.rope.dimension_count", 2, {8, 8});
  });
  EXPECT_EQ(sizes.num_q_heads, 4);
  EXPECT_EQ(sizes.num_kv_heads, 2);
  EXPECT_EQ(sizes.ffn_dim, 256);
  EXPECT_EQ(sizes.head_dim, 16);
  EXPECT_EQ(sizes.value_dim, 16);
  EXPECT_EQ(sizes.sliding_window, 20);
  EXPECT_EQ(sizes.rope.rotary_dim, 8);
}

TEST(LayerKeys, OtherArraysAreRefusedByName) {
  for (const std::string key :
       {"llama.attention.head_count", "llama.attention.head_count_kv", "llama.feed_forward_length",
        "llama.attention.key_length", "llama.attention.value_length", "llama.attention.sliding_window",
        "llama.rope.dimension_count"}) {
    const auto with = [&](const std::vector<std::int32_t>& values) {
      return error_of([&](auto& w) { w.template numbers<std::int32_t>(key, 5, values); });
    };
    EXPECT_EQ(with({2, 1}),
              "key " + key + " is 2 in layer 0 and 1 in layer 1: layers that differ are not supported");
    EXPECT_EQ(with({2, 2, 2}), "key " + key + " holds 3 numbers for 2 layers");
    EXPECT_EQ(with({}), "key " + key + " holds 0 numbers for 2 layers");
    expect_refused([&](auto& w) { w.texts(key, {"2", "2"}); }, key);
  }
  expect_refused(
      [](auto& w) {
        w.template numbers<std::int32_t>("llama.block_count", 5, {2, 2});
      },
      "llama.block_count");
}

TEST(Keys, ALengthNotGivenIsThatOfAnEqualShare) {
  const auto keys = read([](auto& w) { w.integer("llama.attention.key_length", 24); });
  EXPECT_EQ(keys.head_dim, 24);
  EXPECT_EQ(keys.value_dim, 64 / 4);
  const auto values = read([](auto& w) { w.integer("llama.attention.value_length", 24); });
  EXPECT_EQ(values.head_dim, 64 / 4);
  EXPECT_EQ(values.value_dim, 24);
}

TEST(Keys, AWindowOfZeroIsNone) {
  EXPECT_EQ(read([](auto& w) { w.integer("llama.attention.sliding_window", 0); }).sliding_window, 200);
}

TEST(Keys, ThoseThatChangeNothingAsTheyAreMaySayNothingElse) {
  struct Key {
    const char* name;
    float off;
  };
  for (const Key& key :
       {Key{"llama.expert_count", 0}, Key{"llama.expert_used_count", 0}, Key{"llama.expert_shared_count", 0},
        Key{"llama.attention.max_alibi_bias", 0}, Key{"llama.attention.scale", 0},
        Key{"llama.attn_logit_softcapping", 0}, Key{"llama.final_logit_softcapping", 0},
        Key{"llama.logit_scale", 1}, Key{"llama.residual_scale", 1}, Key{"llama.embedding_scale", 1},
        Key{"llama.nextn_predict_layers", 0}, Key{"llama.pooling_type", 0},
        Key{"llama.rope.scaling.alpha", 0}, Key{"llama.rope.scaling.yarn_log_multiplier", 0}}) {
    EXPECT_EQ(error_of([&](auto& w) { w.real(key.name, key.off); }), "no error") << key.name;
    expect_refused([&](auto& w) { w.real(key.name, 7); }, std::string(key.name) + " is not supported but as");
    expect_refused([&](auto& w) { w.text(key.name, "7"); }, key.name);
  }
  const auto extrapolated = [](float factor) {
    return error_of([&](auto& w) {
      yarn(w);
      w.real("llama.rope.scaling.yarn_ext_factor", factor);
    });
  };
  EXPECT_EQ(extrapolated(1), "no error");
  EXPECT_EQ(extrapolated(7),
            "the hyper-parameter llama.rope.scaling.yarn_ext_factor is not supported but as 1");
  for (const auto& key :
       {std::pair("llama.use_parallel_residual", false), std::pair("llama.attention.causal", true),
        std::pair("tokenizer.ggml.add_eos_token", false), std::pair("tokenizer.ggml.add_sep_token", false),
        std::pair("tokenizer.ggml.remove_extra_whitespaces", false)}) {
    EXPECT_EQ(error_of([&](auto& w) { w.boolean(key.first, key.second); }), "no error") << key.first;
    expect_refused([&](auto& w) { w.boolean(key.first, !key.second); },
                   std::string(key.first) + " is not supported but as " + (key.second ? "true" : "false"));
  }
}

TEST(Keys, WhatGgufKnowsAndThisProgramDoesNotIsRefusedByName) {
  for (const char* name : {"attention.clamp_kqv",
                           "attention.layer_norm_epsilon",
                           "attention.group_norm_epsilon",
                           "attention.q_lora_rank",
                           "attention.kv_lora_rank",
                           "attention.relative_buckets_count",
                           "attention.output_scale",
                           "attention.temperature_length",
                           "attention.temperature_scale",
                           "attention.key_length_mla",
                           "attention.value_length_mla",
                           "attention.key_length_swa",
                           "attention.shared_kv_layers",
                           "attention.sliding_window_pattern",
                           "attention.indexer.top_k",
                           "rope.dimension_count_swa",
                           "rope.dimension_sections",
                           "rope.freq_base_swa",
                           "rope.scaling.yarn_attn_factor",
                           "leading_dense_block_count",
                           "expert_feed_forward_length",
                           "expert_weights_scale",
                           "expert_gating_func",
                           "interleave_moe_layer_step",
                           "router_logit_softcapping",
                           "swin_norm",
                           "decoder_block_count",
                           "embedding_length_out",
                           "full_attention_interval",
                           "swiglu_clamp_exp",
                           "ssm.conv_kernel",
                           "a_key_of_tomorrow"}) {
    const std::string key = "llama." + std::string(name);
    EXPECT_EQ(error_of([&](auto& w) { w.integer(key, 1); }),
              "the hyper-parameter " + key + " is not supported");
  }
  for (const char* name : {"precompiled_charsmap", "token_type_count", "a_key_of_tomorrow"}) {
    const std::string key = "tokenizer.ggml." + std::string(name);
    EXPECT_EQ(error_of([&](auto& w) { w.integer(key, 1); }),
              "the tokeniser's key " + key + " is not supported");
  }
}

TEST(Keys, WhatOnlyDescribesAndWhatOthersWroteIsPassedOver) {
  const auto sizes = read([](auto& w) {
    w.boolean("llama.rope.scaling.finetuned", true);
    w.integer("llama.rope.scaling.original_context_length", 50);
    w.text("llama.tensor_data_layout", "Meta AI original pth");
    w.integer("llama.vocab_size", 272);
    for (const char* token : {"unknown", "padding", "seperator", "mask", "cls", "fim_pre", "fim_suf",
                              "fim_mid", "prefix", "suffix", "middle"})
      w.integer("tokenizer.ggml." + std::string(token) + "_token_id", 0);
    w.template numbers<float>("tokenizer.ggml.scores", 6, {0});
    w.text("tokenizer.huggingface.json", "{}");
    w.text("tokenizer.chat_template.tool_use", "{}");
    w.integer("general.quantization_version", 2);
    w.integer("general.sampling.top_k", 3);
    w.integer("quantize.imatrix.entries_count", 3);
    w.text("mradermacher.quantized_by", "x");
    w.integer("split.count", 1);
  });
  EXPECT_EQ(sizes.num_layers, 2);
}

TEST(Keys, WhatTheFileCannotMeanIsRefused) {
  expect_refused([](auto& w) { w.integer("llama.vocab_size", 271); }, "llama.vocab_size is 271");
  expect_refused([](auto& w) { w.text("llama.tensor_data_layout", "blocked"); },
                 "llama.tensor_data_layout is blocked");
  expect_refused([](auto& w) { w.integer("split.count", 3); }, "split.count is 3");
}

TEST(TokenizerKeys, EveryTokenThatEndsATextDoes) {
  for (const char* key : {"eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"}) {
    auto writer = test::tiny_model();
    writer.integer("tokenizer.ggml." + std::string(key) + "_token_id", 77);
    const auto bytes = writer.file();
    const Gguf file(bytes);
    EXPECT_TRUE(Tokenizer(file).ends_text(77)) << key;
    expect_refused([&](auto& w) { w.integer("tokenizer.ggml." + std::string(key) + "_token_id", 272); },
                   std::string(key) + "_token_id is 272");
  }
}

TEST(TokenizerKeys, RefusesWhatWouldNotCount) {
  expect_refused([](auto& w) { w.boolean("tokenizer.ggml.add_space_prefix", true); },
                 "tokenizer.ggml.add_space_prefix");
  EXPECT_EQ(error_of([](auto& w) { w.boolean("tokenizer.ggml.add_space_prefix", false); }), "no error");
  const auto without_bos = [](GgufWriter& w) {
    w.remove_key("tokenizer.ggml.bos_token_id");
    w.boolean("tokenizer.ggml.add_bos_token", true);
  };
  expect_refused(without_bos, "tokenizer.ggml.bos_token_id is missing");
}

}  // namespace
}  // namespace generate
