// SPDX-License-Identifier: Apache-2.0
#include "parameters.hpp"

#include <algorithm>
#include <string_view>

#include "config_keys.hpp"

namespace cache_size {
namespace {

/// How the model types differ in what they have, as Hugging Face's transformers builds them.
struct Family {
  std::string_view name;
  bool tied = false;        ///< whether the output is the embedding where the file does not say
  bool qkv_bias = false;    ///< biases of q, k and v alone, whatever attention_bias says
  bool qk_norm = false;     ///< a norm of queries and one of keys, over a head
  bool post_norms = false;  ///< norms after attention and feed-forward too
  bool sinks = false;       ///< a learned logit a query head
};
constexpr Family families[] = {
    {.name = "llama"},
    {.name = "mistral"},
    {.name = "mixtral"},
    {.name = "qwen2", .qkv_bias = true},
    {.name = "qwen3", .qk_norm = true},
    {.name = "qwen3_moe", .qk_norm = true},
    {.name = "gemma", .tied = true},
    {.name = "gemma2", .tied = true, .post_norms = true},
    {.name = "gemma3", .tied = true, .qk_norm = true, .post_norms = true},
    {.name = "gemma3_text", .tied = true, .qk_norm = true, .post_norms = true},
    {.name = "gpt_oss", .sinks = true},
    {.name = "deepseek_v2"},
    {.name = "deepseek_v3"},
    {.name = "kimi_k2"},
};

const Family* find_family(const std::string& model_type) {
  const auto found = std::ranges::find(families, model_type, &Family::name);
  return found == std::end(families) ? nullptr : &*found;
}

Index times(Index a, Index b) { return checked_mul(a, b, "parameters"); }
template <class... Terms>
Index sum(Terms... terms) {
  Index total = 0;
  ((total = checked_add(total, terms, "parameters")), ...);
  return total;
}

/// Attention of a layer, with q, k, v and o of their own.
Index attention(const ConfigKeys& keys, const Family& family, Index width) {
  const Index heads = keys.size({"num_attention_heads"});
  const Index kv_heads = keys.size_or({"num_key_value_heads"}, heads, 1);
  const Index dim = keys.size_or({"head_dim"}, width / heads, 1);
  const Index q = times(heads, dim), kv = times(kv_heads, dim);
  Index count = times(width, sum(q, kv, kv, q));
  if (keys.flag("attention_bias", family.sinks)) count = sum(count, q, kv, kv, width);
  if (family.qkv_bias) count = sum(count, q, kv, kv);
  if (family.qk_norm) count = sum(count, dim, dim);
  return family.sinks ? sum(count, heads) : count;
}

/// DeepSeek's attention of a layer: queries and a latent projected down, normalised and up again.
Index latent_attention(const ConfigKeys& keys, Index width) {
  const Index heads = keys.size({"num_attention_heads"});
  const Index nope = keys.size({"qk_nope_head_dim"}), rope = keys.size({"qk_rope_head_dim"});
  const Index value = keys.size({"v_head_dim"}), rank = keys.size({"kv_lora_rank"});
  const Index q = times(heads, sum(nope, rope)), q_rank = keys.size_or({"q_lora_rank"}, 0);
  return sum(q_rank > 0 ? sum(times(width, q_rank), q_rank, times(q_rank, q)) : times(width, q),
             times(width, sum(rank, rope)), rank, times(rank, times(heads, sum(nope, value))),
             times(times(heads, value), width));
}

/// Gate, up and down.
Index feed_forward(Index width, Index hidden) { return times(3, times(width, hidden)); }

/// A layer's router and experts, those that all tokens share included.
Index experts(const ConfigKeys& keys, const Family& family, Index width) {
  const Index count = keys.size({"num_local_experts", "num_experts", "n_routed_experts"});
  const Index hidden = keys.size({"moe_intermediate_size", "intermediate_size"});
  Index each = feed_forward(width, hidden), router = times(count, width);
  if (family.sinks) {  // gpt-oss, all of whose layers have biases
    each = sum(each, times(2, hidden), width);
    router = sum(router, count);
  }
  if (keys.text("topk_method", "") == "noaux_tc") router = sum(router, count);  // one correction an expert
  return sum(router, times(count, each),
             times(keys.size_or({"n_shared_experts"}, 0), feed_forward(width, hidden)));
}

}  // namespace

bool can_count(const nlohmann::json& text_config, const std::string& model_type) {
  const ConfigKeys keys(text_config);
  const nlohmann::json* dense = keys.find("mlp_only_layers");
  return find_family(model_type) != nullptr && keys.size_or({"decoder_sparse_step"}, 1) == 1 &&
         keys.size_or({"moe_layer_freq"}, 1) == 1 && (dense == nullptr || dense->empty());
}

Index count_parameters(const nlohmann::json& text_config, const std::string& model_type) {
  const Family& family = *find_family(model_type);
  const ConfigKeys keys(text_config);
  const Index width = keys.size({"hidden_size"}), layers = keys.size({"num_hidden_layers"});
  const Index embedding = times(keys.size({"vocab_size"}), width);
  const bool latent = keys.has("kv_lora_rank");
  const bool mixed = keys.has("n_routed_experts") || keys.has("num_experts") || keys.has("num_local_experts");
  const Index dense = mixed ? std::min(layers, keys.size_or({"first_k_dense_replace"}, 0)) : layers;
  const Index common = sum(latent ? latent_attention(keys, width) : attention(keys, family, width),
                           times(family.post_norms ? 4 : 2, width));
  Index count = sum(embedding, keys.flag("tie_word_embeddings", family.tied) ? 0 : embedding,
                    times(layers, common), width);
  if (dense > 0) {
    Index each = feed_forward(width, keys.size({"intermediate_size"}));
    if (keys.flag("mlp_bias", false)) each = sum(each, times(2, keys.size({"intermediate_size"})), width);
    count = sum(count, times(dense, each));
  }
  return mixed ? sum(count, times(layers - dense, experts(keys, family, width))) : count;
}

}  // namespace cache_size
