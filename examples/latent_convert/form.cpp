// SPDX-License-Identifier: Apache-2.0
#include "form.hpp"

#include <array>
#include <charconv>
#include <utility>

#include "gqa/core/error.hpp"

namespace latent_convert {
namespace {

using gqa::convert::KeptPairs;

constexpr std::array kept_names = {
    std::pair{KeptPairs::by_norm, "by_norm"}, std::pair{KeptPairs::by_turn, "by_turn"},
    std::pair{KeptPairs::high_frequency, "high_frequency"}, std::pair{KeptPairs::uniform, "uniform"}};

const char* name_of(KeptPairs kept) {
  for (const auto& [value, name] : kept_names)
    if (value == kept) return name;
  return "";
}

Index number(std::string_view form, std::string_view key, std::string_view value) {
  Index n = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), n);
  GQA_CHECK(error == std::errc() && end == value.data() + value.size() && n >= 0, std::invalid_argument,
            "--form " << form << ": " << key << " is " << value << ", expected a number");
  return n;
}

}  // namespace

std::string Form::text() const {
  const auto with = [](const char* key, Index value) { return key + ("=" + std::to_string(value)); };
  switch (kind) {
    case Kind::kv_heads:
      return with("kv_heads", kv_heads);
    case Kind::values:
      return with("value_rank", value_rank);
    case Kind::low_rank:
      return (latents > 1 ? with("latents", latents) + "," : "") + with("key_rank", key_rank) +
             (value_rank > 0 ? "," + with("value_rank", value_rank) : "");
    case Kind::latent:
      return with("latent_rank", latent_rank) + "," + with("rope_dim", rope_dim) +
             (kept == KeptPairs::by_norm ? "" : std::string(",kept=") + name_of(kept)) +
             (mix_heads ? "" : ",mix_heads=no");
    case Kind::source:
      break;
  }
  return "source";
}

Form read_form(std::string_view text) {
  Form form;
  if (text == "source") return form;
  std::vector<std::string_view> keys;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view part = text.substr(begin, end - begin);
    begin = end + 1;
    const std::size_t equals = part.find('=');
    const std::string_view key = part.substr(0, equals),
                           value = equals == std::string_view::npos ? "" : part.substr(equals + 1);
    keys.push_back(key);
    if (key == "kept") {
      const auto found =
          std::ranges::find_if(kept_names, [&](const auto& each) { return value == each.second; });
      GQA_CHECK(found != kept_names.end(), std::invalid_argument,
                "--form " << text << ": kept is " << value
                          << ", expected by_norm, by_turn, high_frequency or uniform");
      form.kept = found->first;
    } else if (key == "mix_heads") {
      GQA_CHECK(value == "yes" || value == "no", std::invalid_argument,
                "--form " << text << ": mix_heads is " << value << ", expected yes or no");
      form.mix_heads = value == "yes";
    } else {
      Index* const size = key == "kv_heads"      ? &form.kv_heads
                          : key == "latents"     ? &form.latents
                          : key == "key_rank"    ? &form.key_rank
                          : key == "value_rank"  ? &form.value_rank
                          : key == "latent_rank" ? &form.latent_rank
                          : key == "rope_dim"    ? &form.rope_dim
                                                 : nullptr;
      GQA_CHECK(size != nullptr, std::invalid_argument,
                "--form " << text << ": " << key << " is not known; source, kv_heads, value_rank, latents, "
                          << "key_rank, latent_rank, rope_dim, kept and mix_heads are");
      *size = number(text, key, value);
    }
  }
  const auto given = [&](std::string_view key) { return std::ranges::find(keys, key) != keys.end(); };
  form.kind = given("kv_heads")      ? Kind::kv_heads
              : given("latent_rank") ? Kind::latent
              : given("key_rank")    ? Kind::low_rank
                                     : Kind::values;
  const auto belongs = [&](std::string_view key) {
    switch (form.kind) {
      case Kind::kv_heads:
        return key == "kv_heads";
      case Kind::values:
        return key == "value_rank";
      case Kind::low_rank:
        return key == "latents" || key == "key_rank" || key == "value_rank";
      case Kind::latent:
        return key == "latent_rank" || key == "rope_dim" || key == "kept" || key == "mix_heads";
      case Kind::source:
        break;
    }
    return false;
  };
  for (const std::string_view key : keys)
    GQA_CHECK(belongs(key), std::invalid_argument,
              "--form " << text << ": " << key << " does not go with " << keys.front());
  return form;
}

std::string family(const Form& form) {
  switch (form.kind) {
    case Kind::kv_heads:
      return "fewer KV heads, aligned mean";
    case Kind::values:
      return "values of low rank";
    case Kind::low_rank:
      return form.value_rank == 0
                 ? "one latent, keys made of it"
                 : "latents of keys and of values" +
                       (form.latents > 1 ? ", " + std::to_string(form.latents) + " groups" : "");
    case Kind::latent:
      return std::string("latent and rotated keys, ") + name_of(form.kept) +
             (form.mix_heads ? "" : ", heads apart");
    case Kind::source:
      break;
  }
  return "as it is";
}

std::vector<Form> default_forms(Index num_kv_heads, Index head_dim, Index value_dim) {
  std::vector<Form> forms{Form()};
  const Index G = num_kv_heads, each = head_dim + value_dim, all = G * each;
  for (Index heads = G - 1; heads >= 1; --heads) forms.push_back({.kind = Kind::kv_heads, .kv_heads = heads});
  // Of all elements: sixths, which are whole KV heads where there are 3 of them.
  for (const Index sixths : {5, 4, 3, 2, 1}) {
    const Index budget = all * sixths / 6;
    if (const Index rank = (budget - G * head_dim) / G; rank >= 1)
      forms.push_back({.kind = Kind::values, .value_rank = rank});
    if (const Index half = budget / 2; half >= 1) {
      forms.push_back({.kind = Kind::low_rank,
                       .key_rank = std::min(half, G * head_dim),
                       .value_rank = std::min(half, G * value_dim)});
      forms.push_back({.kind = Kind::low_rank, .key_rank = budget});
      const Index rope = half / 2 * 2;
      forms.push_back({.kind = Kind::latent, .latent_rank = budget - rope, .rope_dim = rope});
    }
  }
  return forms;
}

}  // namespace latent_convert
