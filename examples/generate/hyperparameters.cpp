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

/// The keys of a file's architecture, by their names without its namespace.
class Keys {
 public:
  explicit Keys(const Gguf& file)
      : file_(file), architecture_(find_architecture(file.text("general.architecture"))) {}

  const Gguf& file() const { return file_; }
  const Architecture& architecture() const { return architecture_; }
  std::string full(std::string_view name) const {
    return std::string(architecture_.name) + "." + std::string(name);
  }
  bool has(std::string_view name) const { return file_.has(full(name)); }
  Index integer(std::string_view name) const { return file_.integer(full(name)); }
  Index integer(std::string_view name, Index fallback) const { return file_.integer(full(name), fallback); }
  double real(std::string_view name) const { return file_.real(full(name)); }
  double real(std::string_view name, double fallback) const { return file_.real(full(name), fallback); }
  std::string_view text(std::string_view name, std::string_view fallback) const {
    return file_.text(full(name), fallback);
  }

 private:
  const Gguf& file_;
  const Architecture& architecture_;
};

constexpr Index largest_size = 1 << 20;  // no product of two, nor a sum of some products, can overflow
constexpr Index largest_context = std::numeric_limits<std::int32_t>::max();

Index checked(const Keys& keys, std::string_view name, Index value, Index largest = largest_size) {
  GQA_CHECK(value >= 1 && value <= largest, format_error,
            "key " << keys.full(name) << " is " << value << ", expected 1 to " << largest);
  return value;
}

/// A number that a file may give once for each layer; here all layers have the same.
Index layer_integer(const Keys& keys, std::string_view name, Index num_layers) {
  const std::string key = keys.full(name);
  if (!keys.file().is_array(key)) return keys.file().integer(key);
  const std::vector<std::int32_t> values = keys.file().integers(key);
  GQA_CHECK(std::ssize(values) == num_layers, format_error,
            "key " << key << " holds " << values.size() << " numbers for " << num_layers << " layers");
  const auto other = std::ranges::find_if(values, [&](auto value) { return value != values.front(); });
  GQA_CHECK(other == values.end(), format_error,
            "key " << key << " is " << values.front() << " in layer 0 and " << *other << " in layer "
                   << other - values.begin() << ": layers that differ are not supported");
  return values.front();
}

double positive(const Keys& keys, std::string_view name, double fallback) {
  const double value = keys.real(name, fallback);
  GQA_CHECK(std::isfinite(value) && value > 0, format_error,
            "key " << keys.full(name) << " is " << value << ", expected a positive number");
  return value;
}

/// The factors by which Llama 3's files divide the frequencies.
std::vector<double> rope_factors(const GgufTensor& tensor) {
  std::vector<float> factors(static_cast<std::size_t>(tensor.columns() * tensor.rows()));
  dequantize(tensor.type, tensor.data, factors);
  return {factors.begin(), factors.end()};
}

gqa::RopeScaling read_yarn(const Keys& keys, double factor, double attention_factor, Index context_length) {
  gqa::YarnScaling yarn{
      .factor = factor,
      .original_context = keys.integer("rope.scaling.original_context_length", context_length)};
  yarn.beta_fast = keys.real("rope.scaling.yarn_beta_fast", yarn.beta_fast);
  yarn.beta_slow = keys.real("rope.scaling.yarn_beta_slow", yarn.beta_slow);
  yarn.attention_factor = attention_factor * gqa::yarn_mscale(factor);
  return gqa::RopeScaling::yarn(yarn);
}

/// Without a type the scaling is linear, as in llama.cpp; linear by 1 is none.
gqa::RopeScaling read_rope_scaling(const Keys& keys, Index rotary_dim, Index context_length) {
  const std::string_view type = keys.text("rope.scaling.type", "linear");
  GQA_CHECK(type == "none" || type == "linear" || type == "yarn", format_error,
            "the rope scaling " << type << " is not supported (none, linear and yarn are)");
  const double old_factor = positive(keys, "rope.scale_linear", 1);
  const double factor = positive(keys, "rope.scaling.factor", old_factor);
  GQA_CHECK(!keys.has("rope.scale_linear") || old_factor == factor, format_error,
            keys.full("rope.scale_linear")
                << " is " << old_factor << ", but " << keys.full("rope.scaling.factor") << " " << factor);
  GQA_CHECK(type != "none" || factor == 1, format_error,
            keys.full("rope.scaling.factor") << " is " << factor << " beside the rope scaling none");
  const double attention_factor = positive(keys, "rope.scaling.attn_factor", 1);
  const GgufTensor* tensor = keys.file().find_tensor("rope_freqs.weight");

  if (type == "yarn") {
    GQA_CHECK(keys.has("rope.scaling.factor") || keys.has("rope.scale_linear"), format_error,
              "key " << keys.full("rope.scaling.factor") << " is missing, which the rope scaling yarn needs");
    GQA_CHECK(tensor == nullptr, format_error,
              "rope_freqs.weight together with the rope scaling yarn is not supported");
    return read_yarn(keys, factor, attention_factor, context_length);
  }
  for (const char* name :
       {"rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "rope.scaling.yarn_ext_factor"})
    GQA_CHECK(!keys.has(name), format_error,
              "key " << keys.full(name) << " beside the rope scaling " << type);
  std::vector<double> factors = tensor != nullptr
                                    ? rope_factors(*tensor)
                                    : std::vector<double>(static_cast<std::size_t>(rotary_dim / 2), 1.0);
  for (double& each : factors) each *= factor;
  return gqa::RopeScaling::factors(std::move(factors), attention_factor);
}

void read_rotation(const Keys& keys, Hyperparameters& result, Index rotary_dim) {
  const double local_theta = keys.architecture().local_theta;
  result.rope.rotary_dim = rotary_dim;
  result.rope.theta = keys.real("rope.freq_base", 10000);
  try {
    result.rope.scaling = read_rope_scaling(keys, rotary_dim, result.context_length);
    result.local_rope = result.rope;
    if (local_theta != 0) {
      result.local_rope.theta = keys.real("rope.freq_base_swa", local_theta);
      result.local_rope.scaling = gqa::RopeScaling::none();
    }
    (void)gqa::Rope(result.rope);
    (void)gqa::Rope(result.local_rope);
  } catch (const std::invalid_argument& error) {
    throw format_error(error.what());
  }
}

/// Which layers a window is for: those of the architecture, or all but the last of so many as the file says.
gqa::LayerPattern read_windows(const Keys& keys) {
  constexpr std::string_view name = "attention.sliding_window_pattern";
  if (!keys.has(name)) return keys.architecture().windows;
  return {checked(keys, name, keys.integer(name)) - 1, 1};
}

}  // namespace

void check_metadata(const Gguf& file) {
  const Keys keys(file);
  const Architecture& architecture = keys.architecture();
  std::vector<KnownKey> known(common_keys().begin(), common_keys().end());
  known.insert(known.end(), architecture.more_keys.begin(), architecture.more_keys.end());
  check_keys(file, keys.full(""), "hyper-parameter", known);
  // "reference" is what a file without the key is; rows for interleaved rotation are what the other name
  // means too.
  const std::string_view layout = keys.text("tensor_data_layout", "reference");
  const bool interleaved = architecture.rope_layout == gqa::RopeLayout::interleaved;
  GQA_CHECK(layout == "reference" || (interleaved && layout == "Meta AI original pth"), format_error,
            keys.full("tensor_data_layout") << " is " << layout << ", expected reference"
                                            << (interleaved ? " or Meta AI original pth" : ""));
  const Index parts = file.integer("split.count", 1);
  GQA_CHECK(parts <= 1, format_error,
            "split.count is " << parts << ": the model is split over several files, which is not supported");
}

Hyperparameters read_hyperparameters(const Gguf& file) {
  check_metadata(file);
  const Keys keys(file);
  const Architecture& architecture = keys.architecture();
  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  GQA_CHECK(embedding != nullptr, format_error, "tensor token_embd.weight is missing");
  const Index num_layers = checked(keys, "block_count", keys.integer("block_count"));
  const auto size = [&](std::string_view name) {
    return checked(keys, name, layer_integer(keys, name, num_layers));
  };
  const auto optional_size = [&](std::string_view name, Index fallback) {
    return keys.has(name) ? size(name) : fallback;
  };
  const Index num_q_heads = size("attention.head_count");
  const Index model_dim = checked(keys, "embedding_length", keys.integer("embedding_length"));
  if (!keys.has("attention.key_length") || !keys.has("attention.value_length")) {
    GQA_CHECK(model_dim % num_q_heads == 0, format_error,
              keys.full("embedding_length")
                  << " is " << model_dim << ", expected a multiple of the " << num_q_heads << " heads of "
                  << keys.full("attention.head_count"));
  }
  const Index head_dim = optional_size("attention.key_length", model_dim / num_q_heads);
  const Index context_length =
      checked(keys, "context_length", keys.integer("context_length"), largest_context);
  const Index window = keys.has("attention.sliding_window")
                           ? layer_integer(keys, "attention.sliding_window", num_layers)
                           : 0;  // none
  GQA_CHECK(!keys.has("vocab_size") || keys.integer("vocab_size") == embedding->rows(), format_error,
            keys.full("vocab_size") << " is " << keys.integer("vocab_size") << ", but token_embd.weight has "
                                    << embedding->rows() << " rows");
  const bool share_scaled = num_layers == architecture.share_scaled_layers;

  Hyperparameters result{
      .architecture = &architecture,
      .name = valid_utf8(
          file.text("general.name", "a " + std::string(architecture.name) + " model without a name")),
      .num_layers = num_layers,
      .context_length = context_length,
      .model_dim = model_dim,
      .ffn_dim = size("feed_forward_length"),
      .num_q_heads = num_q_heads,
      .num_kv_heads = optional_size("attention.head_count_kv", num_q_heads),
      .head_dim = head_dim,
      .value_dim = optional_size("attention.value_length", model_dim / num_q_heads),
      .vocabulary_size = embedding->rows(),
      .sliding_window =
          window == 0 ? context_length : checked(keys, "attention.sliding_window", window, largest_context),
      .windows = window == 0 ? gqa::LayerPattern(0, 1) : read_windows(keys),
      .rms_epsilon = keys.real("attention.layer_norm_rms_epsilon"),
      .attention_scale =
          1 / std::sqrt(static_cast<double>(share_scaled ? model_dim / num_q_heads : head_dim)),
      .embedding_scale = architecture.scaled_embedding ? std::sqrt(static_cast<float>(model_dim)) : 1.0F,
      .rope = {.layout = architecture.rope_layout, .head_dim = head_dim},
      .local_rope = {.layout = architecture.rope_layout, .head_dim = head_dim},
  };
  read_rotation(keys, result, optional_size("rope.dimension_count", head_dim));
  GQA_CHECK(num_q_heads % result.num_kv_heads == 0, format_error,
            keys.full("attention.head_count")
                << " is " << num_q_heads << ", expected a multiple of the " << result.num_kv_heads
                << " heads of " << keys.full("attention.head_count_kv"));
  const double least_epsilon = architecture.qk_norm ? std::numeric_limits<double>::min() : 0;
  GQA_CHECK(result.rms_epsilon >= least_epsilon && result.rms_epsilon < 1, format_error,
            keys.full("attention.layer_norm_rms_epsilon") << " is " << result.rms_epsilon);
  return result;
}

}  // namespace generate
