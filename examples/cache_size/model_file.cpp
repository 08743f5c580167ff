// SPDX-License-Identifier: Apache-2.0
#include "model_file.hpp"

#include <algorithm>
#include <sstream>
#include <string_view>

#include "mapped_file.hpp"
#include "utf8.hpp"

namespace cache_size {

std::string shared_layers_note(Index shared, Index layers) {
  std::ostringstream note;
  note << "The last " << shared << " of " << layers
       << " layers read the caches of layers before them and have none.";
  return note.str();
}

std::string states_note(Index states, Index layers) {
  std::ostringstream note;
  note << states << " of " << layers
       << " layers keep a state of a fixed size in place of keys and values; it is not counted.";
  return note.str();
}

std::string further_layers_note(Index extra) {
  std::ostringstream note;
  note << "Layers that guess further tokens, of which there are " << extra << ", are not counted.";
  return note.str();
}

namespace {

/// A name as a file gives it, fit to be printed: broken UTF-8 and control characters replaced.
std::string printable(const std::string& name) {
  std::string result = generate::valid_utf8(name);
  std::ranges::replace_if(
      result, [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7F'; }, '?');
  return result;
}

Case described(Case c) {
  c.name = printable(c.name);
  return c;
}

}  // namespace

Case read_model(const std::filesystem::path& path, std::optional<Index> local_layers) {
  const bool folder = std::filesystem::is_directory(path);
  const generate::MappedFile file(folder ? path / "config.json" : path);
  const auto bytes = file.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("GGUF"))
    return described(describe_gguf(generate::Gguf(bytes, nullptr, generate::Gguf::Types::any), local_layers));
  const auto first =
      std::ranges::find_if(text, [](char c) { return c != ' ' && c != '\n' && c != '\r' && c != '\t'; });
  GQA_CHECK(first != text.end() && *first == '{', gqa::format_error,
            "this is neither a GGUF file nor a config.json");
  nlohmann::json config;
  try {
    config = nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception&) {
    throw gqa::format_error("this is no config.json: it is not well-formed JSON");
  }
  return described(describe_config(config, local_layers));
}

}  // namespace cache_size
