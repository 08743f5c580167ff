// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "naive_llama.hpp"
#include "program.hpp"

namespace convert::test {

/// The program on tiny models, and what an independent reading makes of the files it writes.
class Converter : public generate::test::Program {
 protected:
  using Scores = std::vector<double>;

  /// After some tokens of the tiny models' vocabulary.
  Scores scores(const std::string& name) const {
    const std::string bytes = generate::test::read(path(name));
    const generate::Gguf file(std::as_bytes(std::span(bytes)));
    return generate::test::NaiveLlama(file).scores({70, 12, 200, 33, 4, 90, 12, 150, 7, 8, 9});
  }
  static double distance(const Scores& a, const Scores& b) {
    double difference = 0, norm = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      difference += (a[i] - b[i]) * (a[i] - b[i]);
      norm += a[i] * a[i];
    }
    return std::sqrt(difference / norm);
  }

  std::string text(const std::string& name, int repeats = 12) const {
    std::ofstream out(path(name));
    for (int i = 0; i < repeats; ++i) out << "the quick brown fox " << i << " jumps over the lazy dog; ";
    return path(name);
  }
  nlohmann::json converted(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {"--out", path("out.gguf")});
    return json(arguments);
  }
  Result convert(std::vector<std::string> arguments, const std::string& model = "tiny.gguf") const {
    arguments.insert(arguments.begin(), {"--model", path(model), "--out", path("out.gguf")});
    return run(arguments);
  }
  /// What examples/generate writes with the file.
  nlohmann::json generated(const std::string& name) const {
    const std::string command = std::string(CONVERT_GENERATE) + " --model " + path(name) +
                                " --prompt 'the quick brown' --max-tokens 20 --json >" + path("generated");
    EXPECT_EQ(std::system(command.c_str()), 0);
    return nlohmann::json::parse(generate::test::read(path("generated")));
  }
  bool clean() const {  ///< nothing half written is left
    for (const auto& entry : std::filesystem::directory_iterator(folder_))
      if (entry.path().extension() == ".tmp") return false;
    return true;
  }
};

/// A model of F32 matrices whose second KV head is the first in another basis, in each layer: its keys are
/// turned within each pair of neighbours, its values by any rotation.
inline generate::test::GgufWriter turned_model() {
  auto writer = generate::test::tiny_model(4);
  std::mt19937 random(8);
  std::normal_distribution<float> normal(0, 0.15F);
  constexpr std::size_t dim = 16, inputs = 64;
  for (const std::string block : {"blk.0.", "blk.1."}) {
    for (const char* part : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
      auto& tensor = writer.find(block + part + ".weight");
      std::vector<float> w(tensor.sizes[0] * tensor.sizes[1]);
      for (float& x : w) x = normal(random);
      const auto turn = [&](std::size_t a, std::size_t b, double angle) {
        for (std::size_t c = 0; c < inputs; ++c) {
          float &x = w[(dim + a) * inputs + c], &y = w[(dim + b) * inputs + c];
          const double turned = x * std::cos(angle) - y * std::sin(angle);
          y = static_cast<float>(x * std::sin(angle) + y * std::cos(angle));
          x = static_cast<float>(turned);
        }
      };
      if (tensor.sizes[1] == 2 * dim) {
        std::copy_n(w.begin(), dim * inputs, w.begin() + dim * inputs);
        for (std::size_t i = 0; i < dim; i += 2) turn(i, i + 1, 1.0 + static_cast<double>(i));
        if (std::string(part) == "attn_v")
          for (std::size_t i = 0; i + 3 < dim; ++i) turn(i, i + 3, 2.0 + static_cast<double>(i));
      }
      tensor.type = 0;
      const auto bytes = std::as_bytes(std::span(w));
      tensor.data.assign(bytes.begin(), bytes.end());
    }
  }
  std::uint64_t offset = 0;
  for (auto& tensor : writer.tensors) {
    tensor.offset = offset;
    offset = (offset + tensor.data.size() + 31) / 32 * 32;
  }
  return writer;
}

}  // namespace convert::test
