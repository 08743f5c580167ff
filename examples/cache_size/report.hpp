// SPDX-License-Identifier: Apache-2.0
// Cache sizes as text for people and as JSON for programs. Built whole before any of it is printed, so that
// an error prints one line and nothing else.
#pragma once

#include <algorithm>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "cache_size.hpp"
#include "weights.hpp"

namespace cache_size {

/// One model at one context in one dtype.
struct Case {
  std::string name;
  std::string source;
  Shape shape;
  Index context;
  std::string dtype;
  Weights weights = {};
  std::vector<std::string> notes = {};  ///< what a reader of the figures should know

  Index token(const Shape& s) const { return bytes_per_token(s, bits_of(dtype)); }
  Index sequence(const Shape& s) const { return bytes_per_sequence(s, bits_of(dtype), context); }
  Shape mha() const { return with_kv_heads(shape, shape.q_heads); }
  Shape mqa() const { return with_kv_heads(shape, 1); }
  /// How many times smaller than MHA.
  double ratio(const Shape& s) const {
    return static_cast<double>(sequence(mha())) / static_cast<double>(sequence(s));
  }
};

inline std::string grouped(Index n) {
  std::string digits = std::to_string(n);
  for (std::size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

inline std::string fixed(double value, int decimals) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(decimals) << value;
  return text.str();
}

/// In kB, MB or GB of 10^3, 10^6 and 10^9 bytes.
inline std::string scaled(Index bytes) {
  const double value = static_cast<double>(bytes);
  if (bytes < 1'000'000) return fixed(value / 1e3, 3) + " kB";
  if (bytes < 1'000'000'000) return fixed(value / 1e6, 2) + " MB";
  return fixed(value / 1e9, 3) + " GB";
}

inline std::string kv_heads_text(Index n) { return grouped(n) + (n == 1 ? " KV head" : " KV heads"); }

inline std::string row_text(const Case& c, const std::string& label, const Shape& s) {
  std::ostringstream row;
  row << std::left << std::setw(30) << label << std::right << std::setw(14) << grouped(c.token(s))
      << std::setw(22) << grouped(c.sequence(s)) << std::setw(14) << scaled(c.sequence(s)) << std::setw(10)
      << fixed(c.ratio(s), 2) << "x\n";
  return row.str();
}

inline std::string text_of(const Case& c) {
  const Shape& s = c.shape;
  std::ostringstream text;
  text << c.name << ": " << grouped(s.layers) << " layers, " << grouped(s.q_heads)
       << " query heads, head_dim " << grouped(s.head_dim);
  if (s.value_dim != s.head_dim) text << ", value_dim " << grouped(s.value_dim);
  if (s.layers_differ())
    text << " (local layers: " << kv_heads_text(s.kv_heads_of_local()) << " of "
         << grouped(s.local_head_dim > 0 ? s.local_head_dim : s.head_dim) << ")";
  text << "; " << grouped(c.context) << " tokens in " << c.dtype << "\n";
  if (!c.source.empty()) text << "source: " << c.source << "\n";
  if (c.weights.parameters) {
    text << "weights: " << grouped(*c.weights.parameters) << " parameters";
    if (c.weights.bytes) text << " in " << scaled(*c.weights.bytes);
    text << ", " << c.weights.how << "\n";
  }
  text << "\n" << std::string(30, ' ') << " bytes a token      bytes a sequence   GB = 10^9 B   below MHA\n";
  text << row_text(c, "MHA, " + kv_heads_text(s.q_heads), c.mha());
  if (s.latent_dim > 0) {
    if (s.q_heads % 8 == 0) text << row_text(c, "GQA, " + kv_heads_text(8), with_kv_heads(s, 8));
    text << row_text(c, "this: MLA, " + grouped(s.latent_dim) + " elements", s);
  } else {
    if (s.local_layers > 0) text << row_text(c, "without the window", without_window(s));
    text << row_text(c, std::string("this: ") + kind(s) + ", " + kv_heads_text(s.kv_heads), s);
  }
  text << row_text(c, "MQA, " + kv_heads_text(1), c.mqa());
  if (s.local_layers > 0)
    text << "\nHere " << grouped(s.local_layers) << " of " << grouped(s.layers) << " layers keep the last "
         << grouped(s.window) << " tokens only; in the other rows every layer keeps all.\n";
  for (const std::string& note : c.notes) text << "\n" << note << "\n";
  const Index saved = c.sequence(c.mha()) - c.sequence(s);
  text << "\nsaved against MHA: " << (saved < 0 ? "-" : "") << scaled(saved < 0 ? -saved : saved)
       << " a sequence\n";
  return text.str();
}

inline std::string list_text(const std::vector<Case>& cases) {
  std::vector<std::string> sources;
  std::ostringstream text;
  text << "model                 layers heads  kv  dim   tokens bytes a token    a sequence  MHA would be    "
          " ratio\n";
  for (const Case& c : cases) {
    const Shape& s = c.shape;
    const auto known = std::find(sources.begin(), sources.end(), c.source);
    const auto number = known - sources.begin() + 1;
    if (known == sources.end()) sources.push_back(c.source);
    text << std::left << std::setw(17) << c.name << std::setw(5) << kind(s) << std::right << std::setw(6)
         << s.layers << std::setw(6) << s.q_heads << std::setw(4)
         << (s.latent_dim > 0 ? "-" : std::to_string(s.kv_heads)) << std::setw(5) << s.head_dim
         << std::setw(9) << grouped(c.context) << std::setw(14) << grouped(c.token(s)) << std::setw(14)
         << scaled(c.sequence(s)) << std::setw(14) << scaled(c.sequence(c.mha())) << std::setw(9)
         << fixed(c.ratio(s), 2) << "x [" << number << "]\n";
  }
  text << "\nIn " << cases.front().dtype << "; GB are 10^9 bytes"
       << ". Bytes a token while every layer keeps it; a sequence as the model caches it (windows, "
          "latents).\n";
  for (std::size_t i = 0; i < sources.size(); ++i) text << "[" << i + 1 << "] " << sources[i] << "\n";
  return text.str();
}

inline nlohmann::ordered_json json_of(const Case& c) {
  const Shape& s = c.shape;
  const auto sizes = [&](const Shape& shape) {
    return nlohmann::ordered_json{{"bytes_per_token", c.token(shape)},
                                  {"bytes_per_sequence", c.sequence(shape)}};
  };
  nlohmann::ordered_json object = {{"name", c.name},
                                   {"kind", kind(s)},
                                   {"layers", s.layers},
                                   {"heads", s.q_heads},
                                   {"kv_heads", s.kv_heads},
                                   {"head_dim", s.head_dim},
                                   {"value_dim", s.value_dim},
                                   {"latent_dim", s.latent_dim},
                                   {"local_layers", s.local_layers},
                                   {"window", s.window},
                                   {"context", c.context},
                                   {"dtype", c.dtype},
                                   {"bytes_per_token", c.token(s)},
                                   {"bytes_per_sequence", c.sequence(s)},
                                   {"mha", sizes(c.mha())},
                                   {"mqa", sizes(c.mqa())},
                                   {"ratio", c.ratio(s)}};
  if (s.layers_differ()) {
    object["local_kv_heads"] = s.kv_heads_of_local();
    object["local_head_dim"] = s.local_head_dim > 0 ? s.local_head_dim : s.head_dim;
  }
  if (c.weights.parameters) object["parameters"] = *c.weights.parameters;
  if (c.weights.bytes) object["weight_bytes"] = *c.weights.bytes;
  if (!c.source.empty()) object["source"] = c.source;
  if (!c.notes.empty()) object["notes"] = c.notes;
  return object;
}

}  // namespace cache_size
