// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gqa/convert/method.hpp"
#include "gqa/core/error.hpp"
#include "mapped_file.hpp"

namespace convert {

/// Learned factors of the KV heads of each layer, from a JSON file:
///
///     {"along": "heads", "layers": [{"keys": [0.5, 0.5], "values": [0.5, 0.5]}, ...]}
///
/// `along` is heads, rows or columns, see gqa::convert::HeadWeights. Throws std::system_error where the file
/// cannot be read, std::invalid_argument for another text or number of layers.
inline std::vector<gqa::convert::HeadWeights> read_factors(const std::filesystem::path& path,
                                                           gqa::Index num_layers) {
  const generate::MappedFile file(path);
  const auto* text = reinterpret_cast<const char*>(file.bytes().data());
  std::vector<gqa::convert::HeadWeights> layers;
  try {
    const auto json = nlohmann::json::parse(text, text + file.bytes().size());
    using Along = gqa::convert::HeadWeights::Along;
    const std::string along = json.at("along");
    GQA_CHECK(along == "heads" || along == "rows" || along == "columns", std::invalid_argument,
              "along is " << along << ", expected heads, rows or columns");
    for (const auto& layer : json.at("layers"))
      layers.push_back({along == "heads"  ? Along::heads
                        : along == "rows" ? Along::rows
                                          : Along::columns,
                        layer.at("keys").get<std::vector<double>>(),
                        layer.at("values").get<std::vector<double>>()});
  } catch (const nlohmann::json::exception& error) {
    throw std::invalid_argument("--factors: " + path.string() + ": " + error.what());
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument("--factors: " + path.string() + ": " + error.what());
  }
  GQA_CHECK(std::ssize(layers) == num_layers, std::invalid_argument,
            "--factors: " << path.string() << " has " << layers.size() << " layers, expected " << num_layers);
  return layers;
}

}  // namespace convert
