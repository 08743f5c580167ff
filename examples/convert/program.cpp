// SPDX-License-Identifier: Apache-2.0
#include "program.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <iostream>
#include <mutex>
#include <sstream>
#include <unsupported/Eigen/CXX11/ThreadPool>
#include <utility>

#include "attention_tensors.hpp"
#include "calibrate.hpp"
#include "factors.hpp"
#include "interrupt.hpp"
#include "loaded_model.hpp"
#include "model_output.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "session.hpp"

namespace convert {
namespace {

namespace fs = std::filesystem;
using generate::ModelFile;

/// Thrown where Ctrl-C asked for a stop: everything is cleaned up on the way.
struct Interrupted {};

void stop_if_interrupted() {
  if (generate::interrupted()) throw Interrupted();
}

/// The tokens of a text, at most as many as are asked for.
std::vector<TokenId> read_text(const fs::path& path, const ModelFile& file, Index max_tokens) {
  const generate::MappedFile text(path);
  auto tokens =
      file.tokenizer.encode({reinterpret_cast<const char*>(text.bytes().data()), text.bytes().size()});
  if (max_tokens > 0 && std::ssize(tokens) > max_tokens) tokens.resize(static_cast<std::size_t>(max_tokens));
  return tokens;
}

void replace_file(const fs::path& path, std::string_view text) {
  gqa::detail::Replacement file(path);
  file.file().write(std::as_bytes(std::span(text)));
  file.commit();
}

/// Throws std::invalid_argument where the output is one of the files that are read: it would be there no
/// more.
void check_output(const Options& options) {
  const auto check = [&](const char* option, const fs::path& path) {
    std::error_code none;
    GQA_CHECK(!fs::equivalent(path, options.out, none), std::invalid_argument,
              "--out and " << option << " are the same file");
  };
  check("--model", options.model);
  if (options.factors) check("--factors", *options.factors);
  if (options.calibration) check("--calibration", *options.calibration);
  if (options.perplexity) check("--perplexity", *options.perplexity);
}

/// The model whole: what measures it and what it is calibrated with. Its weights are f32, exactly what the
/// file's types define, so that what two files compute differs by their values alone.
class Loaded {
 public:
  Loaded(const ModelFile& file, gqa::PoolExecutor executor, Index context)
      : executor_(executor),
        model_(file.gguf, executor,
               {.weights = generate::WeightType::f32,  // what is compared are the files' own values
                .progress = [&](double done) { line_.show("loading weights", done); },
                .done_with = [&](std::span<const std::byte> piece) { file.bytes.forget(piece); }}),
        context_(std::min(context, file.sizes.context_length)) {
    line_.clear();
    stop_if_interrupted();
  }

  generate::Likelihood measure(std::span<const TokenId> tokens) {
    const auto session = generate::make_session(model_, generate::CacheType::f32, executor_);
    const auto likelihood = generate::measure(
        *session, tokens, context_, [&](double done) { line_.show("measuring the perplexity", done); },
        generate::interrupted);
    line_.clear();
    stop_if_interrupted();
    return likelihood;
  }

  std::vector<gqa::convert::Calibration> calibrate(std::span<const TokenId> tokens, double noise) {
    auto layers = convert::calibrate(
        model_, executor_, tokens, context_, [&](double done) { line_.show("calibrating", done); },
        generate::interrupted);
    line_.clear();
    stop_if_interrupted();
    if (noise > 0)
      for (auto& layer : layers) layer.add_noise(noise);
    return layers;
  }

 private:
  common::ProgressLine line_;
  gqa::PoolExecutor executor_;
  generate::Model model_;
  Index context_;
};

/// Calls f(layer, weights, calibration) for all layers at once, as far as there are threads.
void for_layers(
    const char* what, const ModelFile& file, gqa::PoolExecutor executor,
    const std::vector<gqa::convert::Calibration>& calibration,
    const std::function<void(Index, const gqa::convert::Weights&, const gqa::convert::Calibration*)>& f) {
  common::ProgressLine line;
  std::mutex mutex;
  Index done = 0;
  const Index num_layers = file.sizes.num_layers;
  executor.parallel_for(num_layers, [&](Index i) {
    stop_if_interrupted();
    const auto source = read_attention(file.gguf, file.sizes, i);
    try {
      f(i, source, calibration.empty() ? nullptr : &calibration[static_cast<std::size_t>(i)]);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("layer " + std::to_string(i) + ": " + error.what());
    }
    const std::lock_guard lock(mutex);
    line.show(what, static_cast<double>(++done) / static_cast<double>(num_layers));
  });
}

/// Groups of free sizes, for all layers.
std::vector<gqa::HeadGrouping> plan_groups(const ModelFile& file, const Settings& settings,
                                           gqa::PoolExecutor executor,
                                           const std::vector<gqa::convert::Calibration>& calibration) {
  std::vector<Choices> layers(static_cast<std::size_t>(file.sizes.num_layers));
  for_layers("grouping", file, executor, calibration, [&](Index i, const auto& source, const auto* seen) {
    layers[static_cast<std::size_t>(i)] = group_choices(source, settings, i, seen);
  });
  return choose_groups(layers, settings);
}

std::vector<OutputTensor> convert_layers(const ModelFile& file, const Options& options,
                                         const Settings& settings, gqa::PoolExecutor executor,
                                         const std::vector<gqa::convert::Calibration>& calibration,
                                         Report& report) {
  report.layers.resize(static_cast<std::size_t>(file.sizes.num_layers));
  std::vector<std::vector<OutputTensor>> of_layer(report.layers.size());
  for_layers("converting", file, executor, calibration, [&](Index i, const auto& source, const auto* seen) {
    const auto at = static_cast<std::size_t>(i);
    auto converted = convert_layer(source, settings, i, seen);
    of_layer[at] = attention_tensors(file.gguf, i, source, converted.weights, options.type);
    report.layers[at] = {std::move(converted.report), std::move(converted.groups)};
  });
  std::vector<OutputTensor> tensors;
  for (auto& layer : of_layer)
    for (OutputTensor& tensor : layer) tensors.push_back(std::move(tensor));
  return tensors;
}

/// A picture of each layer's groups, and a table of all.
void write_groups(const ModelFile& file, const fs::path& folder, const Settings& settings,
                  gqa::PoolExecutor executor, const std::vector<gqa::convert::Calibration>& calibration,
                  const Report& report) {
  std::vector<std::string> tables(report.layers.size());
  for_layers("drawing", file, executor, calibration, [&](Index i, const auto& source, const auto* seen) {
    const auto at = static_cast<std::size_t>(i);
    const auto& map = report.layers[at].groups;
    const auto groups = gqa::convert::grouping_report(
        source, gqa::HeadGrouping(map, *std::ranges::max_element(map) + 1), settings.basis, seen);
    std::ostringstream table, picture;
    gqa::convert::write_table(table, groups);
    gqa::convert::write_svg(picture, groups);
    tables[at] = "layer " + std::to_string(i) + "\n" + table.str() + "\n";
    replace_file(folder / ("layer-" + std::to_string(i) + ".svg"), picture.str());
  });
  std::string all;
  for (const std::string& table : tables) all += table;
  replace_file(folder / "groups.txt", all);
}

int convert_file(const Options& options) {
  check_output(options);
  const ModelFile file(options.model);
  const std::string_view architecture = file.gguf.text("general.architecture");
  GQA_CHECK(architecture == "llama", gqa::format_error,
            "the architecture " << architecture << " is not supported (llama is)");
  Settings settings = options.settings;
  settings.basis = gqa::convert::KeyBasis::rope(file.sizes.rope);
  settings.distance =
      options.distance.value_or(settings.method == Method::aligned_mean ? gqa::convert::HeadDistance::aligned
                                                                        : gqa::convert::HeadDistance::plain);
  Report report{.sizes = file.sizes, .settings = settings, .path = options.out.string()};
  report.num_kv_heads = resulting_kv_heads(settings, file.sizes.num_q_heads, file.sizes.num_kv_heads);
  GQA_CHECK(!report.expands() || !options.joining, std::invalid_argument,
            *options.joining << " says nothing of copies: " << settings.num_kv_heads
                             << " KV heads are more than the " << file.sizes.num_kv_heads << " there are");
  if (options.factors) settings.factors = read_factors(*options.factors, file.sizes.num_layers);
  std::vector<TokenId> measured, calibrated;
  if (options.perplexity) {
    measured = read_text(*options.perplexity, file, options.max_tokens);
    GQA_CHECK(measured.size() >= 2, std::invalid_argument,
              "--perplexity: the text has " << measured.size() << " tokens, expected at least 2");
  }
  if (options.calibration) {
    calibrated = read_text(*options.calibration, file, options.max_tokens);
    const Index least = options.noise > 0 ? 1 : file.sizes.model_dim;
    GQA_CHECK(std::ssize(calibrated) >= least, std::invalid_argument,
              "--calibration: the text has " << calibrated.size() << " tokens, expected at least " << least
                                             << ", the width of what they are to span (or some --noise)");
    report.calibration_tokens = std::ssize(calibrated);
  }
  if (options.groups) fs::create_directories(*options.groups);
  gqa::detail::Replacement target(options.out);  // where it cannot be written, nothing is computed

  Eigen::ThreadPool pool(static_cast<int>(options.num_threads));
  const gqa::PoolExecutor executor(pool);
  std::vector<gqa::convert::Calibration> calibration;
  if (options.perplexity || options.calibration) {
    Loaded loaded(file, executor, options.context);
    if (options.perplexity) report.before = loaded.measure(measured);
    if (options.calibration) calibration = loaded.calibrate(calibrated, options.noise);
  }
  const auto start = std::chrono::steady_clock::now();
  if (settings.grouping == Grouping::asymmetric) {
    settings.layer_groups = plan_groups(file, settings, executor, calibration);
    report.num_kv_heads = resulting_kv_heads(settings, file.sizes.num_q_heads, file.sizes.num_kv_heads);
  }
  OutputFile output = model_output(file.gguf, options.type,
                                   convert_layers(file, options, settings, executor, calibration, report));
  output.integers.insert(output.integers.begin(),
                         {"llama.attention.head_count_kv", static_cast<std::uint32_t>(report.num_kv_heads)});
  report.bytes_before = std::ssize(file.bytes.bytes());
  common::ProgressLine line;
  report.bytes_after = write_model(output, target, [&](double done) {
    stop_if_interrupted();
    line.show("writing", done);
  });
  line.clear();
  target.commit();
  report.conversion_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (options.groups) write_groups(file, *options.groups, settings, executor, calibration, report);
  if (options.perplexity) {
    const ModelFile converted(options.out);
    report.after = Loaded(converted, executor, options.context).measure(measured);
  }
  if (options.json)
    std::cout << report.json().dump() << "\n";
  else
    std::cout << report.text();
  return 0;
}

}  // namespace

int run(const Options& options) {
  generate::catch_interrupt();
  try {
    return convert_file(options);
  } catch (const Interrupted&) {
    return generate::interrupt_exit_code;
  }
}

}  // namespace convert
