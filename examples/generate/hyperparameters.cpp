// SPDX-License-Identifier: Apache-2.0
#include "hyperparameters.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "gqa/core/error.hpp"
#include "known_keys.hpp"
#include "utf8.hpp"

namespace generate {
namespace {

using gqa::format_error;
using enum KnownKey::Use;

constexpr std::string_view prefix = "llama.";

/// The keys of a llama model that llama.cpp writes or reads and this program can honour.
constexpr KnownKey known_keys[] = {
    // clang-format off
    {"attention.causal",                      only, 1},
    {"attention.head_count",                  acts},
    {"attention.head_count_kv",               acts},
    {"attention.key_length",                  acts},
    {"attention.layer_norm_rms_epsilon",      acts},
    {"attention.max_alibi_bias",              only, 0},
    {"attention.scale",                       only, 0},  // 0: one over the root of key_length
    {"attention.sliding_window",              acts},
    {"attention.value_length",                acts},
    {"attn_logit_softcapping",                only, 0},
    {"block_count",                           acts},
    {"context_length",                        acts},
    {"embedding_length",                      acts},
    {"embedding_scale",                       only, 1},
    {"expert_count",                          only, 0},
    {"expert_shared_count",                   only, 0},
    {"expert_used_count",                     only, 0},
    {"feed_forward_length",                   acts},
    {"final_logit_softcapping",               only, 0},
    {"logit_scale",                           only, 1},
    {"nextn_predict_layers",                  only, 0},
    {"pooling_type",                          only, 0},
    {"residual_scale",                        only, 1},
    {"rope.dimension_count",                  acts},
    {"rope.freq_base",                        acts},
    {"rope.scale_linear",                     acts},  // what rope.scaling.factor was called before
    {"rope.scaling.alpha",                    only, 0},
    {"rope.scaling.attn_factor",              acts},
    {"rope.scaling.factor",                   acts},
    {"rope.scaling.finetuned",                describes},
    {"rope.scaling.original_context_length",  acts},  // in YaRN; otherwise it describes
    {"rope.scaling.type",                     acts},
    {"rope.scaling.yarn_beta_fast",           acts},
    {"rope.scaling.yarn_beta_slow",           acts},
    {"rope.scaling.yarn_ext_factor",          only, 1},
    {"rope.scaling.yarn_log_multiplier",      only, 0},
    {"tensor_data_layout",                    acts},
    {"use_parallel_residual",                 only, 0},
    {"vocab_size",                            acts},
    // clang-format on
};

constexpr Index largest_size = 1 << 20;  // no product of two, nor a sum of some products, can overflow
constexpr Index largest_context = std::numeric_limits<std::int32_t>::max();

Index checked_size(std::string_view key, Index value, Index largest = largest_size) {
  GQA_CHECK(value >= 1 && value <= largest, format_error,
            "key " << key << " is " << value << ", expected 1 to " << largest);
  return value;
}

/// A number that a file may give once for each layer; here all layers have the same.
Index layer_integer(const Gguf& file, std::string_view key, Index num_layers) {
  if (!file.is_array(key)) return file.integer(key);
  const std::vector<std::int32_t> values = file.integers(key);
  GQA_CHECK(std::ssize(values) == num_layers, format_error,
            "key " << key << " holds " << values.size() << " numbers for " << num_layers << " layers");
  const auto other = std::ranges::find_if(values, [&](auto value) { return value != values.front(); });
  GQA_CHECK(other == values.end(), format_error,
            "key " << key << " is " << values.front() << " in layer 0 and " << *other << " in layer "
                   << other - values.begin() << ": layers that differ are not supported");
  return values.front();
}

double positive(const Gguf& file, std::string_view key, double fallback) {
  const double value = file.real(key, fallback);
  GQA_CHECK(std::isfinite(value) && value > 0, format_error,
            "key " << key << " is " << value << ", expected a positive number");
  return value;
}

/// The factors by which Llama 3's files divide the frequencies.
std::vector<double> rope_factors(const GgufTensor& tensor) {
  std::vector<float> factors(static_cast<std::size_t>(tensor.columns() * tensor.rows()));
  dequantize(tensor.type, tensor.data, factors);
  return {factors.begin(), factors.end()};
}

gqa::RopeScaling read_yarn(const Gguf& file, double factor, double attention_factor, Index context_length) {
  gqa::YarnScaling yarn{
      .factor = factor,
      .original_context = file.integer("llama.rope.scaling.original_context_length", context_length)};
  yarn.beta_fast = file.real("llama.rope.scaling.yarn_beta_fast", yarn.beta_fast);
  yarn.beta_slow = file.real("llama.rope.scaling.yarn_beta_slow", yarn.beta_slow);
  yarn.attention_factor = attention_factor * gqa::yarn_mscale(factor);
  return gqa::RopeScaling::yarn(yarn);
}

/// Without a type the scaling is linear, as in llama.cpp; linear by 1 is none.
gqa::RopeScaling read_rope_scaling(const Gguf& file, Index rotary_dim, Index context_length) {
  const std::string_view type = file.text("llama.rope.scaling.type", "linear");
  GQA_CHECK(type == "none" || type == "linear" || type == "yarn", format_error,
            "the rope scaling " << type << " is not supported (none, linear and yarn are)");
  const double old_factor = positive(file, "llama.rope.scale_linear", 1);
  const double factor = positive(file, "llama.rope.scaling.factor", old_factor);
  GQA_CHECK(!file.has("llama.rope.scale_linear") || old_factor == factor, format_error,
            "llama.rope.scale_linear is " << old_factor << ", but llama.rope.scaling.factor " << factor);
  GQA_CHECK(type != "none" || factor == 1, format_error,
            "llama.rope.scaling.factor is " << factor << " beside the rope scaling none");
  const double attention_factor = positive(file, "llama.rope.scaling.attn_factor", 1);
  const GgufTensor* tensor = file.find_tensor("rope_freqs.weight");

  if (type == "yarn") {
    GQA_CHECK(file.has("llama.rope.scaling.factor") || file.has("llama.rope.scale_linear"), format_error,
              "key llama.rope.scaling.factor is missing, which the rope scaling yarn needs");
    GQA_CHECK(tensor == nullptr, format_error,
              "rope_freqs.weight together with the rope scaling yarn is not supported");
    return read_yarn(file, factor, attention_factor, context_length);
  }
  for (const char* key : {"yarn_beta_fast", "yarn_beta_slow", "yarn_ext_factor"}) {
    const std::string name = std::string("llama.rope.scaling.") + key;
    GQA_CHECK(!file.has(name), format_error, "key " << name << " beside the rope scaling " << type);
  }
  std::vector<double> factors = tensor != nullptr
                                    ? rope_factors(*tensor)
                                    : std::vector<double>(static_cast<std::size_t>(rotary_dim / 2), 1.0);
  for (double& each : factors) each *= factor;
  return gqa::RopeScaling::factors(std::move(factors), attention_factor);
}

}  // namespace

void check_metadata(const Gguf& file) {
  const std::string_view architecture = file.text("general.architecture");
  GQA_CHECK(architecture == "llama", format_error,
            "the architecture " << architecture << " is not supported (llama is)");
  check_keys(file, prefix, "hyper-parameter", known_keys);
  // "reference" is what a file without the key is; rows for interleaved rotation are what this name means
  // too.
  const std::string_view layout = file.text("llama.tensor_data_layout", "reference");
  GQA_CHECK(layout == "reference" || layout == "Meta AI original pth", format_error,
            "llama.tensor_data_layout is " << layout << ", expected reference or Meta AI original pth");
  const Index parts = file.integer("split.count", 1);
  GQA_CHECK(parts <= 1, format_error,
            "split.count is " << parts << ": the model is split over several files, which is not supported");
}

Hyperparameters read_hyperparameters(const Gguf& file) {
  check_metadata(file);
  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  GQA_CHECK(embedding != nullptr, format_error, "tensor token_embd.weight is missing");
  const Index num_layers = checked_size("llama.block_count", file.integer("llama.block_count"));
  const auto size = [&](std::string_view key) {
    return checked_size(key, layer_integer(file, key, num_layers));
  };
  const auto optional_size = [&](std::string_view key, Index fallback) {
    return file.has(key) ? size(key) : fallback;
  };
  const Index num_q_heads = size("llama.attention.head_count");
  const Index model_dim = checked_size("llama.embedding_length", file.integer("llama.embedding_length"));
  if (!file.has("llama.attention.key_length") || !file.has("llama.attention.value_length")) {
    GQA_CHECK(model_dim % num_q_heads == 0, format_error,
              "llama.embedding_length is " << model_dim << ", expected a multiple of the " << num_q_heads
                                           << " heads of llama.attention.head_count");
  }
  const Index head_dim = optional_size("llama.attention.key_length", model_dim / num_q_heads);
  const Index context_length =
      checked_size("llama.context_length", file.integer("llama.context_length"), largest_context);
  Index sliding_window = file.has("llama.attention.sliding_window")
                             ? layer_integer(file, "llama.attention.sliding_window", num_layers)
                             : 0;
  if (sliding_window == 0) sliding_window = context_length;  // none
  GQA_CHECK(!file.has("llama.vocab_size") || file.integer("llama.vocab_size") == embedding->rows(),
            format_error,
            "llama.vocab_size is " << file.integer("llama.vocab_size") << ", but token_embd.weight has "
                                   << embedding->rows() << " rows");

  // The converter from Hugging Face's layout permutes the rows of the query and key projections so that the
  // two halves of a head interleave; all files of this architecture are interleaved.
  gqa::RopeConfig rope{.layout = gqa::RopeLayout::interleaved, .head_dim = head_dim};
  rope.rotary_dim = optional_size("llama.rope.dimension_count", head_dim);
  rope.theta = file.real("llama.rope.freq_base", 10000);
  try {
    rope.scaling = read_rope_scaling(file, rope.rotary_dim, context_length);
    (void)gqa::Rope(rope);
  } catch (const std::invalid_argument& error) {
    throw format_error(error.what());
  }

  Hyperparameters result{
      .name = valid_utf8(file.text("general.name", "a llama model without a name")),
      .num_layers = num_layers,
      .context_length = context_length,
      .model_dim = model_dim,
      .ffn_dim = size("llama.feed_forward_length"),
      .num_q_heads = num_q_heads,
      .num_kv_heads = optional_size("llama.attention.head_count_kv", num_q_heads),
      .head_dim = head_dim,
      .value_dim = optional_size("llama.attention.value_length", model_dim / num_q_heads),
      .vocabulary_size = embedding->rows(),
      .sliding_window = checked_size("llama.attention.sliding_window", sliding_window, largest_context),
      .rms_epsilon = file.real("llama.attention.layer_norm_rms_epsilon"),
      .rope = rope,
  };
  GQA_CHECK(num_q_heads % result.num_kv_heads == 0, format_error,
            "llama.attention.head_count is " << num_q_heads << ", expected a multiple of the "
                                             << result.num_kv_heads
                                             << " heads of llama.attention.head_count_kv");
  GQA_CHECK(result.rms_epsilon >= 0 && result.rms_epsilon < 1, format_error,
            "llama.attention.layer_norm_rms_epsilon is " << result.rms_epsilon);
  return result;
}

}  // namespace generate
