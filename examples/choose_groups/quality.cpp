// SPDX-License-Identifier: Apache-2.0
#include "quality.hpp"

#include <charconv>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

namespace choose_groups {

namespace {

/// README.md, "From MHA to GQA": aligned mean after 5 %, at 4, 2 and 1 KV heads of 8, over 1.253.
constexpr double added_by_doublings[] = {0, 1.352 - 1.253, 1.396 - 1.253, 1.442 - 1.253};
constexpr int last_doubling = 3;

double added_loss(double group_size) {
  const double doublings = std::log2(group_size);
  const int below = std::min(static_cast<int>(doublings), last_doubling - 1);
  const double a = added_by_doublings[below], b = added_by_doublings[below + 1];
  return a + (b - a) * (doublings - below);
}

}  // namespace

Quality stand_in() {
  return {.source =
              "a stand-in: nats above multi-head attention in examples/uptrain's models (1.1 M parameters, "
              "aligned mean, 5 % of the training); its order holds for other models, its size need not"};
}

Quality read_quality(const std::string& file) {
  std::ifstream in(file);
  GQA_CHECK(in.is_open(), std::invalid_argument, "--quality: cannot read " << file);
  const auto json = nlohmann::json::parse(in, nullptr, false);
  GQA_CHECK(json.is_object() && !json.empty(), std::invalid_argument,
            "--quality: " << file << " is not a JSON object of loss by KV heads, {\"8\": 2.31}");
  Quality quality{.source = file};
  for (const auto& [key, value] : json.items()) {
    Index kv_heads = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), kv_heads);
    GQA_CHECK(error == std::errc() && end == key.data() + key.size() && kv_heads >= 1, std::invalid_argument,
              "--quality: '" << key << "' is no number of KV heads");
    GQA_CHECK(value.is_number() && std::isfinite(value.get<double>()), std::invalid_argument,
              "--quality: the loss of " << key << " KV heads is " << value.dump() << ", expected a number");
    quality.by_kv_heads[kv_heads] = value.get<double>();
  }
  return quality;
}

void set_losses(std::vector<Choice>& choices, const Use& use, const Quality& quality) {
  for (const auto& [kv_heads, loss] : quality.by_kv_heads)
    GQA_CHECK(use.heads % kv_heads == 0, std::invalid_argument,
              "--quality: " << kv_heads << " KV heads do not divide heads = " << use.heads);
  for (Choice& c : choices) {
    if (quality.by_kv_heads.empty()) {
      const Index group_size = use.heads / c.kv_heads;
      c.loss = added_loss(static_cast<double>(group_size));
      c.guessed = group_size > 1 << last_doubling;
    } else if (const auto found = quality.by_kv_heads.find(c.kv_heads); found != quality.by_kv_heads.end()) {
      c.loss = found->second;
    }
  }
}

}  // namespace choose_groups
