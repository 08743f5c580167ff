// SPDX-License-Identifier: Apache-2.0
#include "program.hpp"

#include <chrono>
#include <iostream>
#include <utility>

#include "attention_tensors.hpp"
#include "checkpoint.hpp"
#include "interrupt.hpp"
#include "loaded_model.hpp"
#include "model_output.hpp"
#include "progress.hpp"
#include "results.hpp"

namespace uptrain_gguf {
namespace {

namespace fs = std::filesystem;
using generate::ModelFile;

std::vector<TokenId> tokens_of(std::string_view text, const ModelFile& file, Index max_tokens = 0) {
  auto tokens = file.tokenizer.encode(text);
  if (max_tokens > 0 && std::ssize(tokens) > max_tokens) tokens.resize(static_cast<std::size_t>(max_tokens));
  return tokens;
}

std::string read(const fs::path& path) {
  const generate::MappedFile file(path);
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

/// All that decides which bits a training has.
std::string identity(const Options& options, const ModelFile& file, const std::string& text,
                     const std::string& measured) {
  const auto bytes = file.bytes.bytes();
  const Recipe& r = options.recipe;
  return nlohmann::ordered_json{
      {"model", uptrain::digest({reinterpret_cast<const char*>(bytes.data()), bytes.size()})},
      {"text", uptrain::digest(text)},
      {"measured", uptrain::digest(measured)},
      {"tokens", options.max_tokens},
      {"steps", r.steps},
      {"warm_up", r.warm_up},
      {"sequences", r.sequences},
      {"context", r.context},
      {"every", r.every},
      {"rate", r.rate},
      {"seed", r.seed}}
      .dump();
}

/// Of a model in a file, which is measured and forgotten.
double reference_loss(const fs::path& path, const std::string& measured, const Options& options) {
  const ModelFile file(path);
  common::ProgressLine line;
  const generate::LoadedModel loaded(file, options.num_threads, generate::WeightType::f32,
                                     [&](double done) { line.show("loading the reference", done); });
  Trainee trainee(loaded.model, loaded.executor);
  return measure(trainee, trainee.parameters(), tokens_of(measured, file, options.max_tokens),
                 std::min(options.recipe.context, file.sizes.context_length));
}

/// The attention of a model as it is after training.
std::vector<convert::OutputTensor> trained_tensors(const ModelFile& file, const AttentionPlaces& places,
                                                   const std::vector<float>& parameters) {
  std::vector<convert::OutputTensor> tensors;
  for (Index l = 0; l < file.sizes.num_layers; ++l) {
    const auto source = convert::read_attention(file.gguf, file.sizes, l);
    auto now = source;
    const AttentionPlaces::Layer& at = places.layers[static_cast<std::size_t>(l)];
    for (const auto& [matrix, place] : {std::pair{&now.wq, at.q}, std::pair{&now.wk, at.k},
                                        std::pair{&now.wv, at.v}, std::pair{&now.wo, at.output}})
      *matrix = gqa::convert::Matrix(parameters.data() + place, matrix->rows(), matrix->cols());
    for (auto& tensor : convert::attention_tensors(file.gguf, l, source, now, std::nullopt))
      tensors.push_back(std::move(tensor));
  }
  return tensors;
}

/// Throws std::invalid_argument where an output is one of the files that are read: it would be there no more.
void check_outputs(const Options& options) {
  const auto check = [&](const char* option, const fs::path& path) {
    for (const char* name : {"model.gguf", "results.json", "perplexity.svg", "checkpoint"}) {
      std::error_code none;
      GQA_CHECK(!fs::equivalent(path, options.out / name, none), std::invalid_argument,
                option << " is " << name << " in --out, which is written");
    }
  };
  check("--model", options.model);
  check("--text", options.text);
  check("--perplexity", options.perplexity);
  if (options.reference) check("--reference", *options.reference);
  for (const fs::path& path : options.beside) check("--beside", path);
}

int train_file(const Options& options) {
  check_outputs(options);
  const ModelFile file(options.model);
  const std::string text = read(options.text), measured = read(options.perplexity);
  std::vector<Curve> others;
  for (const fs::path& path : options.beside) others.push_back(read_curve(path));
  const auto text_tokens = tokens_of(text, file);
  const auto measured_on = tokens_of(measured, file, options.max_tokens);
  const Recipe& recipe = options.recipe;
  GQA_CHECK(
      recipe.context <= file.sizes.context_length, std::invalid_argument,
      "--context is " << recipe.context << ", expected at most the model's " << file.sizes.context_length);
  GQA_CHECK(std::ssize(text_tokens) >= recipe.context, std::invalid_argument,
            "--text: the text has " << text_tokens.size() << " tokens, expected at least the "
                                    << recipe.context << " of a sequence");
  GQA_CHECK(measured_on.size() >= 2, std::invalid_argument,
            "--perplexity: the text has " << measured_on.size() << " tokens, expected at least 2");
  fs::create_directories(options.out);
  gqa::detail::Replacement target(options.out /
                                  "model.gguf");  // where it cannot be written, nothing is computed

  Results results;
  results.recipe = recipe;
  results.name = options.name;
  results.model = file.sizes.name;
  results.num_kv_heads = file.sizes.num_kv_heads;
  results.text_tokens = std::ssize(text_tokens);
  // Of each piece the first is not counted.
  results.measured_tokens = std::ssize(measured_on) - gqa::ceil_div(std::ssize(measured_on), recipe.context);
  if (options.reference) results.reference = reference_loss(*options.reference, measured, options);

  common::ProgressLine line;
  const generate::LoadedModel loaded(file, options.num_threads, generate::WeightType::f32,
                                     [&](double done) { line.show("loading weights", done); });
  Trainee trainee(loaded.model, loaded.executor);
  results.num_parameters = static_cast<Index>(loaded.model.num_weights);
  results.num_trained = trainee.places().size;
  const fs::path checkpoint = options.out / "checkpoint";
  const std::string of = identity(options, file, text, measured);
  uptrain::Training training;
  if (auto kept = uptrain::load_checkpoint(checkpoint, of)) training = std::move(*kept);
  if (training.parameters.empty()) training.parameters = trainee.parameters();

  const Index first = training.step;
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  auto saved = begin;
  const auto since = [](Clock::time_point then) {
    return std::chrono::duration<double>(Clock::now() - then).count();
  };
  train(trainee, text_tokens, measured_on, recipe, training, [&] {
    line.show("training", static_cast<double>(training.step) / static_cast<double>(recipe.steps));
    if (since(saved) >= options.checkpoint_seconds) {
      uptrain::save_checkpoint(checkpoint, of, training);
      saved = Clock::now();
    }
    return !generate::interrupted();
  });
  line.clear();
  uptrain::save_checkpoint(checkpoint, of, training);
  if (training.step < recipe.steps) {
    std::cerr << "uptrain_gguf: stopped; the same command goes on from here\n";
    return generate::interrupt_exit_code;
  }
  if (first == 0) results.seconds = since(begin);
  results.losses = training.losses;

  const auto output = convert::model_output(file.gguf, std::nullopt,
                                            trained_tensors(file, trainee.places(), training.parameters));
  convert::write_model(output, target, [&](double done) { line.show("writing", done); });
  target.commit();
  line.clear();
  uptrain::write_file(options.out / "results.json", results.json().dump(1) + "\n");
  uptrain::write_file(options.out / "perplexity.svg", results.svg(others));
  if (options.json)
    std::cout << results.json().dump() << "\n";
  else
    std::cout << results.text();
  return 0;
}

}  // namespace

int run(const Options& options) {
  generate::catch_interrupt();
  return train_file(options);
}

}  // namespace uptrain_gguf
