// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "config_keys.hpp"
#include "model_file.hpp"
#include "parameters.hpp"

namespace cache_size {
namespace {

using gqa::format_error;

/// What a layer keeps of the tokens before it.
enum class Kept { all, window, nothing };

/// Layer types as transformers names them.
Kept kept_by(const std::string& type) {
  if (type == "full_attention" || type == "attention") return Kept::all;
  if (type == "sliding_attention" || type == "chunked_attention") return Kept::window;
  for (const char* state : {"linear_attention", "mamba", "mamba2", "recurrent", "conv"})
    if (type == state) return Kept::nothing;  // but a state of a fixed size
  throw format_error("layer_types has '" + type.substr(0, 40) + "', which is not known");
}

std::vector<Kept> every(Index layers, Kept kept) {
  return std::vector<Kept>(static_cast<std::size_t>(layers), kept);
}

/// All but every `period`-th layer keep `most`.
std::vector<Kept> all_but_every(Index period, Index layers, Kept most) {
  std::vector<Kept> kept = every(layers, most);
  for (Index i = period - 1; i < layers; i += period) kept[static_cast<std::size_t>(i)] = Kept::all;
  return kept;
}

/// So many layers have the window; it does not matter here which.
std::vector<Kept> so_many_windows(Index windows, Index layers) {
  GQA_CHECK(windows >= 0 && windows <= layers, std::invalid_argument,
            "local-layers is " << windows << ", expected 0 to layers = " << layers);
  std::vector<Kept> kept = every(layers, Kept::all);
  std::fill_n(kept.begin(), windows, Kept::window);
  return kept;
}

/// What each layer keeps, by what the file says or else by what its type of model is.
std::vector<Kept> layers_of(const ConfigKeys& keys, const std::string& model_type, Index layers, Index window,
                            const std::optional<Index>& local_layers) {
  if (local_layers) return so_many_windows(*local_layers, layers);
  if (const nlohmann::json* types = keys.find("layer_types")) {
    GQA_CHECK(types->is_array() && std::ssize(*types) == layers, format_error,
              "layer_types does not name the types of " << layers << " layers");
    std::vector<Kept> kept;
    for (const nlohmann::json& type : *types) {
      GQA_CHECK(type.is_string(), format_error, "layer_types has " << type.dump().substr(0, 40));
      kept.push_back(kept_by(type.get<std::string>()));
    }
    if (model_type.starts_with("gemma4")) kept.back() = Kept::all;  // transformers makes it so
    return kept;
  }
  if (const auto period = keys.size_if({"full_attention_interval"}))
    return all_but_every(*period, layers, Kept::nothing);
  if (const auto period = keys.size_if({"attn_layer_period"})) {  // Jamba: one attention layer a period
    std::vector<Kept> kept = every(layers, Kept::nothing);
    for (Index i = keys.size({"attn_layer_offset"}, 0); i < layers; i += *period)
      kept[static_cast<std::size_t>(i)] = Kept::all;
    return kept;
  }
  if (const nlohmann::json* rotated = keys.find("no_rope_layers"); rotated != nullptr && window > 0) {
    // Llama 4: layers without rotation see all, the others a chunk; by default every fourth is without.
    if (rotated->is_array() && rotated->empty()) return all_but_every(4, layers, Kept::window);
    GQA_CHECK(rotated->is_array() && std::ssize(*rotated) == layers, format_error,
              "no_rope_layers does not speak of " << layers << " layers");
    std::vector<Kept> kept;
    for (const nlohmann::json& each : *rotated) {
      GQA_CHECK(each == 0 || each == 1, format_error, "no_rope_layers has " << each.dump().substr(0, 40));
      kept.push_back(each == 0 ? Kept::all : Kept::window);
    }
    return kept;
  }
  if (window == 0) return every(layers, Kept::all);
  if (const auto period = keys.size_if({"sliding_window_pattern", "_sliding_window_pattern"}))
    return all_but_every(*period, layers, Kept::window);
  struct Pattern {
    std::string_view model_type;
    Index period;  // 0: all layers have the window
  };
  constexpr Pattern patterns[] = {{"mistral", 0}, {"mixtral", 0},     {"gemma2", 2},
                                  {"gemma3", 6},  {"gemma3_text", 6}, {"gemma3n_text", 5},
                                  {"gpt_oss", 2}, {"gemma4_text", 6}};
  const auto known = std::ranges::find(patterns, model_type, &Pattern::model_type);
  GQA_CHECK(
      known != std::end(patterns), format_error,
      "there is a window of " << window << " tokens, but nothing says of which layers: give --local-layers");
  return known->period == 0 ? every(layers, Kept::window)
                            : all_but_every(known->period, layers, Kept::window);
}

/// The window that some layers have; 0 where none has.
Index window_of(const ConfigKeys& keys) {
  if (!keys.flag("use_sliding_window", true)) return 0;
  return keys.size_or({"sliding_window", "attention_chunk_size"}, 0);
}

/// KV heads where a model has other names for them than Llama's.
Index kv_heads_of(const ConfigKeys& keys, Index heads) {
  if (const auto given = keys.size_if({"num_key_value_heads"})) return *given;
  const bool one = keys.flag("multi_query", false) && !keys.flag("new_decoder_architecture", false);
  if (one) return 1;
  if (keys.flag("multi_query_attention", false)) return keys.size({"multi_query_group_num"});
  return keys.size_or({"num_kv_heads", "n_head_kv"}, heads, 1);
}

Index head_dim_of(const ConfigKeys& keys, Index heads) {
  if (const auto given = keys.size_if({"head_dim", "kv_channels"})) return *given;
  const Index width = keys.size({"hidden_size", "n_embd", "d_model"});
  GQA_CHECK(width % heads == 0, format_error,
            "hidden_size is " << width << ", expected a multiple of the " << heads << " heads");
  return width / heads;
}

Shape shape_of(const ConfigKeys& keys, const std::string& model_type, Case& described,
               const std::optional<Index>& local_layers) {
  const Index layers = keys.size({"num_hidden_layers", "n_layer", "n_layers", "num_layers"});
  GQA_CHECK(layers <= most_layers, format_error,
            "num_hidden_layers is " << layers << ", expected at most " << most_layers);
  const Index heads = keys.size({"num_attention_heads", "n_head", "n_heads"});
  const Index window = window_of(keys);
  const std::vector<Kept> kept = layers_of(keys, model_type, layers, window, local_layers);

  // The last layers may read the caches of layers before them.
  const Index shared = keys.size_or({"num_kv_shared_layers"}, 0);
  GQA_CHECK(shared < layers, format_error,
            "num_kv_shared_layers is " << shared << ", expected fewer than the " << layers << " layers");
  const auto own = kept.begin() + (layers - shared);
  Shape s{.layers = own - kept.begin(), .q_heads = heads, .kv_heads = 1, .head_dim = 1};
  s.local_layers = std::count(kept.begin(), own, Kept::window);
  const Index states = std::count(kept.begin(), own, Kept::nothing);
  s.layers -= states;
  GQA_CHECK(s.layers > 0, format_error, "none of the layers keeps keys and values");
  GQA_CHECK(s.local_layers == 0 || window > 0, format_error,
            s.local_layers << " layers have a window, but sliding_window is missing");
  s.window = s.local_layers > 0 ? window : 0;
  if (shared > 0) described.notes.push_back(shared_layers_note(shared, layers));
  if (states > 0) described.notes.push_back(states_note(states, layers));

  if (keys.has("index_head_dim"))
    described.notes.push_back("The indexer's own keys, by which attention is made sparse, are not counted.");
  if (const auto rank = keys.size_if({"kv_lora_rank"})) {  // MLA
    s.latent_dim = *rank + keys.size({"qk_rope_head_dim"});
    s.kv_heads = heads;
    s.head_dim = keys.size({"qk_nope_head_dim"});
    s.value_dim = keys.size_or({"v_head_dim"}, s.head_dim, 1);
    return s;
  }
  s.kv_heads = kv_heads_of(keys, heads);
  s.head_dim = s.value_dim = head_dim_of(keys, heads);
  if (model_type.starts_with("gemma4") && s.local_layers > 0) {  // layers that see all have other heads
    s.local_kv_heads = s.kv_heads;
    s.local_head_dim = s.head_dim;
    s.head_dim = s.value_dim = keys.size_or({"global_head_dim"}, 512, 1);
    if (keys.flag("attention_k_eq_v", false))
      s.kv_heads = keys.size_or({"num_global_key_value_heads"}, s.kv_heads, 1);
  } else {
    s.value_dim = keys.size_or({"v_head_dim"}, s.head_dim, 1);
  }
  return s;
}

Weights weights_of(const nlohmann::json& root, const nlohmann::json& text, bool inner,
                   const std::string& model_type) {
  const ConfigKeys keys(text), outer(root);
  Weights weights;
  std::string dtype =
      keys.text("dtype", keys.text("torch_dtype", outer.text("dtype", outer.text("torch_dtype", ""))));
  weights.dtype = dtype == "float32" ? "f32" : dtype == "float16" ? "f16" : "bf16";
  if (!can_count(text, model_type)) {
    weights.how = "the parameters of a model of type " + model_type + " are not counted here";
    return weights;
  }
  nlohmann::json counted = text;  // a tie that is said outside holds inside
  if (!keys.has("tie_word_embeddings") && outer.has("tie_word_embeddings"))
    counted["tie_word_embeddings"] = root["tie_word_embeddings"];
  weights.parameters = count_parameters(counted, model_type);
  weights.how = "counted by the architecture " + model_type;
  if (inner) weights.how += ", of the text model alone";
  if (const nlohmann::json* quantised = outer.find("quantization_config")) {
    const std::string method = ConfigKeys(*quantised).text("quant_method", "a method it does not name");
    if (method == "fp8") {
      weights.dtype = "fp8";
    } else {
      weights.how += "; the file says they are quantised by " + method;
      if (method == "mxfp4") weights.dtype = "mxfp4";
    }
  }
  return weights;
}

/// What transformers takes for what Google's files leave out (configuration_gemma3.py).
nlohmann::json with_defaults(const nlohmann::json& text, const std::string& model_type) {
  if (model_type != "gemma3_text") return text;
  nlohmann::json whole = {{"vocab_size", 262208},      {"hidden_size", 2304},
                          {"intermediate_size", 9216}, {"num_hidden_layers", 26},
                          {"num_attention_heads", 8},  {"num_key_value_heads", 4},
                          {"head_dim", 256},           {"max_position_embeddings", 131072},
                          {"sliding_window", 4096}};
  whole.update(text);
  return whole;
}

}  // namespace

Case describe_config(const nlohmann::json& config, std::optional<Index> local_layers) {
  GQA_CHECK(config.is_object(), format_error, "this is no config.json: it holds no object");
  const nlohmann::json* text = &config;
  for (const char* name : {"text_config", "llm_config", "language_config"})
    if (const auto inner = config.find(name); inner != config.end() && inner->is_object()) text = &*inner;
  const ConfigKeys outer(config);
  const std::string model_type = ConfigKeys(*text).text("model_type", outer.text("model_type", "unknown"));
  const nlohmann::json whole = with_defaults(*text, model_type);
  const ConfigKeys keys(whole);
  Case described{.name = keys.text("_name_or_path", outer.text("_name_or_path", "")),
                 .source = {},
                 .shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 1},
                 .context = 0,
                 .dtype = "bf16"};
  if (described.name.empty()) described.name = "a model of type " + model_type;
  described.shape = shape_of(keys, model_type, described, local_layers);
  described.context = keys.size({"max_position_embeddings", "n_positions", "max_sequence_length",
                                 "max_seq_len", "seq_length", "model_max_length"});
  described.weights = weights_of(config, whole, text != &config, model_type);
  return described;
}

}  // namespace cache_size
