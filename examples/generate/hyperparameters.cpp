// SPDX-License-Identifier: Apache-2.0
#include "hyperparameters.hpp"

#include <algorithm>
#include <limits>
#include <string_view>
#include <vector>

#include "gqa/core/error.hpp"

namespace generate {
namespace {

using gqa::format_error;

constexpr std::string_view known_keys[] = {
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "tensor_data_layout",
    "vocab_size",
};

/// Keys that must be 0 or false if they are there.
constexpr std::string_view off_keys[] = {"expert_count", "expert_used_count", "use_parallel_residual"};

bool is_off(const Gguf& file, const std::string& key) {
  return file.is_boolean(key) ? !file.boolean(key, false) : file.integer(key) == 0;
}

void refuse_unknown_keys(const Gguf& file) {
  static constexpr std::string_view prefix = "llama.";
  for (const std::string_view key : file.keys()) {
    if (!key.starts_with(prefix)) continue;
    const std::string_view name = key.substr(prefix.size());
    if (std::ranges::find(known_keys, name) != std::end(known_keys)) continue;
    GQA_CHECK(std::ranges::find(off_keys, name) != std::end(off_keys), format_error,
              "the hyper-parameter " << key << " is not supported");
    GQA_CHECK(is_off(file, std::string(key)), format_error,
              "the hyper-parameter " << key << " is not supported but as 0");
  }
}

constexpr Index largest_size = 1 << 20;  // no product of two, nor a sum of some products, can overflow
constexpr Index largest_context = std::numeric_limits<std::int32_t>::max();

Index checked_size(std::string_view key, Index value, Index largest = largest_size) {
  GQA_CHECK(value >= 1 && value <= largest, format_error,
            "key " << key << " is " << value << ", expected 1 to " << largest);
  return value;
}
Index size(const Gguf& file, std::string_view key) { return checked_size(key, file.integer(key)); }

/// The factors by which Llama 3's files divide the frequencies.
std::vector<double> rope_factors(const GgufTensor& tensor) {
  std::vector<float> factors(static_cast<std::size_t>(tensor.columns() * tensor.rows()));
  dequantize(tensor.type, tensor.data, factors);
  return {factors.begin(), factors.end()};
}

gqa::RopeScaling read_rope_scaling(const Gguf& file) {
  const double legacy_factor = file.real("llama.rope.scale_linear", 1);
  const std::string_view type = file.text("llama.rope.scaling.type", legacy_factor == 1 ? "none" : "linear");
  const double factor = file.real("llama.rope.scaling.factor", legacy_factor);
  const GgufTensor* factors = file.find_tensor("rope_freqs.weight");
  GQA_CHECK(factors == nullptr || type == "none", format_error,
            "rope_freqs.weight together with the rope scaling " << type << " is not supported");
  if (factors != nullptr) return gqa::RopeScaling::factors(rope_factors(*factors));
  if (type == "none") return gqa::RopeScaling::none();
  if (type == "linear") return gqa::RopeScaling::linear(factor);
  GQA_CHECK(type == "yarn", format_error,
            "the rope scaling " << type << " is not supported (none, linear and yarn are)");
  gqa::YarnScaling yarn{.factor = factor,
                        .original_context = file.integer("llama.rope.scaling.original_context_length")};
  yarn.beta_fast = file.real("llama.rope.scaling.yarn_beta_fast", yarn.beta_fast);
  yarn.beta_slow = file.real("llama.rope.scaling.yarn_beta_slow", yarn.beta_slow);
  yarn.attention_factor = file.real("llama.rope.scaling.attn_factor", 1) * gqa::yarn_mscale(factor);
  return gqa::RopeScaling::yarn(yarn);
}

}  // namespace

Hyperparameters read_hyperparameters(const Gguf& file) {
  const std::string_view architecture = file.text("general.architecture");
  GQA_CHECK(architecture == "llama", format_error,
            "the architecture " << architecture << " is not supported (llama is)");
  refuse_unknown_keys(file);

  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  GQA_CHECK(embedding != nullptr, format_error, "tensor token_embd.weight is missing");
  const Index num_q_heads = size(file, "llama.attention.head_count");
  const Index model_dim = size(file, "llama.embedding_length");
  if (!file.has("llama.attention.key_length")) {
    GQA_CHECK(model_dim % num_q_heads == 0, format_error,
              "llama.embedding_length is " << model_dim << ", expected a multiple of the " << num_q_heads
                                           << " heads of llama.attention.head_count");
  }
  const auto optional_size = [&](std::string_view key, Index fallback, Index largest = largest_size) {
    return checked_size(key, file.integer(key, fallback), largest);
  };
  const Index head_dim = optional_size("llama.attention.key_length", model_dim / num_q_heads);
  const Index context_length =
      checked_size("llama.context_length", file.integer("llama.context_length"), largest_context);

  // The converter from Hugging Face's layout permutes the rows of the query and key projections so that the
  // two halves of a head interleave; all files of this architecture are interleaved.
  gqa::RopeConfig rope{.layout = gqa::RopeLayout::interleaved, .head_dim = head_dim};
  rope.rotary_dim = optional_size("llama.rope.dimension_count", head_dim);
  rope.theta = file.real("llama.rope.freq_base", 10000);
  try {
    rope.scaling = read_rope_scaling(file);
    (void)gqa::Rope(rope);
  } catch (const std::invalid_argument& error) {
    throw format_error(error.what());
  }

  Hyperparameters result{
      .name = std::string(file.text("general.name", "a llama model without a name")),
      .num_layers = size(file, "llama.block_count"),
      .context_length = context_length,
      .model_dim = model_dim,
      .ffn_dim = size(file, "llama.feed_forward_length"),
      .num_q_heads = num_q_heads,
      .num_kv_heads = optional_size("llama.attention.head_count_kv", num_q_heads),
      .head_dim = head_dim,
      .value_dim = optional_size("llama.attention.value_length", head_dim),
      .vocabulary_size = embedding->rows(),
      .sliding_window = optional_size("llama.attention.sliding_window", context_length, largest_context),
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
