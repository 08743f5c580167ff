// SPDX-License-Identifier: Apache-2.0
#include "page.hpp"

#include <cmath>
#include <string_view>

#include "gqa/mask/window.hpp"
#include "page_parts.hpp"
#include "report.hpp"

namespace look {
namespace {

using nlohmann::ordered_json;

/// Probabilities as bytes, 255 sqrt(p): small ones keep their order.
std::string base64_of_bytes(const std::vector<HeatMap>& maps) {
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  std::uint32_t bits = 0;
  int count = 0;
  const auto put = [&](int present) {
    for (int i = 0; i < 4; ++i) out += i <= present ? digits[bits >> (18 - 6 * i) & 63] : '=';
    bits = 0;
    count = 0;
  };
  for (const HeatMap& map : maps)
    for (const float p : map) {
      const auto byte = static_cast<std::uint32_t>(std::lround(255 * std::sqrt(std::clamp(p, 0.0F, 1.0F))));
      bits |= byte << (16 - 8 * count);
      if (++count == 3) put(3);
    }
  if (count != 0) put(count);
  return out;
}

ordered_json caches(const generate::Hyperparameters& sizes, Index num_tokens) {
  using generate::CacheKind;
  using generate::CacheType;
  ordered_json out = ordered_json::array();
  for (const auto kind : {CacheKind::contiguous, CacheKind::ring})
    for (const auto type : {CacheType::f32, CacheType::f16}) {
      if (kind == CacheKind::ring && !sizes.has_windows()) continue;
      for (const Index tokens : {num_tokens, sizes.context_length}) {
        const auto c = generate::cache_sizes(sizes, tokens, generate::cache_bytes(sizes, type, kind, tokens));
        out.push_back({{"kind", generate::kind_name(kind)},
                       {"dtype", type == CacheType::f32 ? "f32" : "f16 or bf16"},
                       {"tokens", tokens},
                       {"bytes", c.gqa},
                       {"mha_bytes", c.mha},
                       {"mqa_bytes", c.mqa}});
      }
    }
  return out;
}

/// `html` with what stands at {{name}} replaced.
void fill(std::string& html, std::string_view name, std::string_view with) {
  const std::string place = "{{" + std::string(name) + "}}";
  html.replace(html.find(place), place.size(), with);
}

}  // namespace

ordered_json to_json(const Look& look, const generate::Hyperparameters& sizes,
                     const generate::Tokenizer& tokenizer) {
  ordered_json object{{"model", sizes.name},
                      {"num_layers", sizes.num_layers},
                      {"num_q_heads", sizes.num_q_heads},
                      {"num_kv_heads", sizes.num_kv_heads},
                      {"head_dim", sizes.head_dim},
                      {"context_length", sizes.context_length},
                      {"token_ids", look.tokens},
                      {"divergence_within_groups", look.within()},
                      {"divergence_between_groups", look.between()}};
  for (const TokenId id : look.tokens) object["tokens"].push_back(tokenizer.bytes(id));
  object["caches"] = caches(sizes, std::ssize(look.tokens));
  if (look.importance) object["loss"] = look.importance->loss;
  for (Index l = 0; l < sizes.num_layers; ++l) {
    const LayerLook& layer = look.layers[static_cast<std::size_t>(l)];
    ordered_json heads = ordered_json::array();
    for (Index h = 0; h < sizes.num_q_heads; ++h) {
      const gqa::HeadMeasure& m = layer.heads[static_cast<std::size_t>(h)];
      ordered_json head{
          {"group", h / (sizes.num_q_heads / sizes.num_kv_heads)},
          {"entropy", m.entropy},
          {"distance", m.distance},
          {"sinks", m.sinks},
          {"window", m.window},
          {"diagonal", m.diagonal},
          {"previous", m.previous},
          {"induction", m.num_induction_rows == 0 ? ordered_json() : ordered_json(m.induction)}};
      if (look.importance) head["importance"] = (*look.importance)(l, h);
      heads.push_back(std::move(head));
    }
    object["layers"].push_back(
        {{"window", sizes.windows.is_local(l) ? ordered_json(sizes.sliding_window) : ordered_json()},
         {"divergence_within_groups", layer.within},
         {"divergence_between_groups", layer.between},
         {"divergence", layer.divergence},
         {"rollout_of_last_token", layer.last_token},
         {"heads", std::move(heads)}});
  }
  return object;
}

gqa::Explanation explain_mask(const generate::Hyperparameters& sizes, Index layer, Index num_tokens) {
  return gqa::explain(gqa::sliding_window(sizes.window(layer)), num_tokens, num_tokens);
}

std::string page(const Look& look, const generate::Hyperparameters& sizes,
                 const generate::Tokenizer& tokenizer) {
  ordered_json data = to_json(look, sizes, tokenizer);
  data["cell"] = look.cell;
  data["num_cells"] = look.num_cells;
  for (Index l = 0; l < sizes.num_layers; ++l) {
    auto& layer = data["layers"][static_cast<std::size_t>(l)];
    layer.erase("divergence");
    layer["maps"] = base64_of_bytes(look.layers[static_cast<std::size_t>(l)].maps);
  }
  const Index n = std::ssize(look.tokens);
  for (Index l = 0; l < sizes.num_layers; ++l) {
    const char* kind = sizes.windows.is_local(l) ? "local" : "global";
    if (!data["masks"].contains(kind)) data["masks"][kind] = explain_mask(sizes, l, n).svg();
  }
  std::string json = data.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  // Nothing in it may end the element it stands in.
  for (std::size_t at = 0; (at = json.find('<', at)) != std::string::npos;) json.replace(at, 1, "\\u003c");
  std::string html(page_html);
  fill(html, "css", page_css);
  fill(html, "js", page_js);
  fill(html, "data", json);
  return html;
}

}  // namespace look
