// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "model_file.hpp"

namespace cache_size {
namespace {

using gqa::format_error;

/// The keys of a file's architecture, by their names without its namespace.
class Keys {
 public:
  explicit Keys(const generate::Gguf& file) : file_(file), architecture_(file.text("general.architecture")) {}

  const std::string& architecture() const { return architecture_; }
  std::string full(std::string_view name) const { return architecture_ + "." + std::string(name); }
  bool has(std::string_view name) const { return file_.has(full(name)); }
  bool is_array(std::string_view name) const { return has(name) && file_.is_array(full(name)); }

  Index size(std::string_view name, Index least = 1) const {
    return checked(name, file_.integer(full(name)), least);
  }
  Index size_or(std::string_view name, Index otherwise, Index least = 0) const {
    return has(name) ? size(name, least) : otherwise;
  }
  /// A number for each layer, whether the file gives one for all of them or one for each.
  std::vector<Index> sizes(std::string_view name, Index layers) const {
    if (!is_array(name)) return std::vector<Index>(static_cast<std::size_t>(layers), size(name));
    std::vector<Index> all;
    for (const auto each : file_.integers(full(name))) all.push_back(checked(name, each, 0));
    GQA_CHECK(std::ssize(all) >= layers, format_error,
              "key " << full(name) << " holds " << all.size() << " numbers for " << layers << " layers");
    all.resize(static_cast<std::size_t>(layers));
    return all;
  }

 private:
  Index checked(std::string_view name, Index value, Index least) const {
    constexpr Index largest = std::numeric_limits<std::int32_t>::max();
    GQA_CHECK(value >= least && value <= largest, format_error,
              "key " << full(name) << " is " << value << ", expected " << least << " to " << largest);
    return value;
  }

  const generate::Gguf& file_;
  std::string architecture_;
};

/// Which layers have the window, by the file or else by its architecture as llama.cpp knows it.
std::vector<bool> windows_of(const Keys& keys, Index layers, Index window,
                             const std::optional<Index>& local_layers) {
  std::vector<bool> local(static_cast<std::size_t>(layers), false);
  if (local_layers) {
    GQA_CHECK(*local_layers >= 0 && *local_layers <= layers, std::invalid_argument,
              "local-layers is " << *local_layers << ", expected 0 to layers = " << layers);
    std::fill_n(local.begin(), *local_layers, true);
    return local;
  }
  if (window == 0) return local;
  constexpr std::string_view pattern = "attention.sliding_window_pattern";
  if (keys.is_array(pattern)) {
    const std::vector<Index> given = keys.sizes(pattern, layers);
    for (std::size_t i = 0; i < local.size(); ++i) local[i] = given[i] != 0;
    return local;
  }
  struct Period {
    std::string_view architecture;
    Index layers;  // all but the last of so many
  };
  constexpr Period periods[] = {{"gemma2", 2}, {"gemma3", 6},  {"gemma3n", 5},
                                {"gemma4", 6}, {"gpt-oss", 2}, {"llama4", 4}};
  const auto known = std::ranges::find(periods, keys.architecture(), &Period::architecture);
  const Index period = keys.size_or(pattern, known == std::end(periods) ? 0 : known->layers, 1);
  GQA_CHECK(period > 0, format_error,
            "key " << keys.full("attention.sliding_window") << " is " << window
                   << ", but nothing says of which layers: give --local-layers");
  for (Index i = 0; i < layers; ++i) local[static_cast<std::size_t>(i)] = i % period < period - 1;
  return local;
}

/// The one size that layers of a kind have; those that have none do not count.
Index common_size(const Keys& keys, std::string_view name, const std::vector<Index>& sizes,
                  const std::vector<bool>& local, bool of_local) {
  Index common = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (local[i] != of_local || sizes[i] == 0) continue;
    GQA_CHECK(common == 0 || common == sizes[i], format_error,
              "key " << keys.full(name) << " has " << common << " and " << sizes[i]
                     << ": layers that differ in more than their window are not supported");
    common = sizes[i];
  }
  return common;
}

Shape shape_of(const Keys& keys, Case& described, const std::optional<Index>& local_layers) {
  const Index extra = keys.size_or("nextn_predict_layers", 0);  // layers that guess further tokens
  const Index layers = keys.size("block_count") - extra;
  const Index shared = keys.size_or("attention.shared_kv_layers", 0);
  GQA_CHECK(layers <= most_layers, format_error,
            "key " << keys.full("block_count") << " is " << layers << ", expected at most " << most_layers);
  GQA_CHECK(layers > 0 && shared < layers, format_error,
            "key " << keys.full("block_count") << " leaves no layer that keeps keys and values");
  const Index own = layers - shared;

  Index window = keys.size_or("attention.sliding_window", keys.architecture() == "llama4" ? 1 : 0);
  if (keys.architecture() == "llama4" && window > 0) window = 8192;  // of a chunk, whatever the file says
  std::vector<bool> local = windows_of(keys, layers, window, local_layers);
  local.resize(static_cast<std::size_t>(own));
  std::vector<Index> q_heads = keys.sizes("attention.head_count", layers);
  std::vector<Index> kv_heads =
      keys.has("attention.head_count_kv") ? keys.sizes("attention.head_count_kv", layers) : q_heads;
  kv_heads.resize(static_cast<std::size_t>(own));
  if (const Index period = keys.size_or("full_attention_interval", 0); period > 0)
    for (Index i = 0; i < own; ++i)  // the others keep a state
      if ((i + 1) % period != 0) kv_heads[static_cast<std::size_t>(i)] = 0;
  const Index states = std::ranges::count(kv_heads, 0);
  Index counted_local = 0;
  for (std::size_t i = 0; i < local.size(); ++i) counted_local += local[i] && kv_heads[i] > 0;

  Shape s{
      .layers = own - states, .q_heads = *std::ranges::max_element(q_heads), .kv_heads = 1, .head_dim = 1};
  GQA_CHECK(s.layers > 0 && s.q_heads > 0, format_error,
            "key " << keys.full("attention.head_count_kv") << ": none of the layers keeps keys and values");
  s.local_layers = counted_local;
  s.window = s.local_layers > 0 ? window : 0;
  GQA_CHECK(s.local_layers == 0 || window > 0, format_error,
            "key " << keys.full("attention.sliding_window") << " is missing");
  if (shared > 0) described.notes.push_back(shared_layers_note(shared, layers));
  if (states > 0) described.notes.push_back(states_note(states, layers));
  if (extra > 0) described.notes.push_back(further_layers_note(extra));

  const auto share = [&] {
    const Index width = keys.size("embedding_length");
    GQA_CHECK(width % s.q_heads == 0, format_error,
              "key " << keys.full("embedding_length") << " is " << width << ", expected a multiple of the "
                     << s.q_heads << " heads");
    return width / s.q_heads;
  };
  s.head_dim = keys.has("attention.key_length") ? keys.size("attention.key_length") : share();
  s.value_dim = keys.has("attention.value_length") ? keys.size("attention.value_length")
                : keys.has("attention.key_length") ? s.head_dim
                                                   : share();
  if (keys.has("attention.kv_lora_rank")) {  // MLA
    const Index rope = keys.size("rope.dimension_count");
    s.latent_dim = keys.size("attention.kv_lora_rank") + rope;
    s.kv_heads = s.q_heads;
    s.head_dim = keys.size_or("attention.key_length_mla", s.head_dim, 1) - rope;  // without the shared part
    s.value_dim = keys.size_or("attention.value_length_mla", s.value_dim, 1);
    GQA_CHECK(s.head_dim > 0, format_error,
              "key " << keys.full("rope.dimension_count") << " is " << rope << ", no less than a key");
    return s;
  }
  const Index of_all = common_size(keys, "attention.head_count_kv", kv_heads, local, false);
  const Index of_local = common_size(keys, "attention.head_count_kv", kv_heads, local, true);
  s.kv_heads = of_all > 0 ? of_all : of_local;
  if (of_all > 0 && of_local > 0 && of_local != of_all) s.local_kv_heads = of_local;
  if (s.local_layers > 0 && keys.has("attention.key_length_swa")) {
    s.local_head_dim = keys.size("attention.key_length_swa");
    GQA_CHECK(keys.size_or("attention.value_length_swa", s.local_head_dim) == s.local_head_dim, format_error,
              "key " << keys.full("attention.value_length_swa") << " is another than that of keys");
  }
  return s;
}

}  // namespace

Case describe_gguf(const generate::Gguf& file, std::optional<Index> local_layers) {
  const Keys keys(file);
  Case described{.name = std::string(file.text("general.name", keys.architecture())),
                 .source = {},
                 .shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 1},
                 .context = keys.size("context_length"),
                 .dtype = "bf16"};
  described.shape = shape_of(keys, described, local_layers);
  const Index parts = file.integer("split.count", 1);
  if (parts > 1 || file.tensors().empty()) {
    described.weights.how = parts > 1 ? "the file is one of several parts" : "the file holds no tensors";
    return described;
  }
  Index bytes = 0, parameters = 0;
  for (const generate::GgufTensor& tensor : file.tensors()) {
    bytes = checked_add(bytes, std::ssize(tensor.data), "bytes of the weights");
    parameters =
        checked_add(parameters, checked_mul(tensor.columns(), tensor.rows(), "parameters"), "parameters");
  }
  described.weights = {.bytes = bytes, .parameters = parameters, .how = "as the file holds them"};
  return described;
}

}  // namespace cache_size
