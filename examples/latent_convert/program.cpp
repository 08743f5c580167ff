// SPDX-License-Identifier: Apache-2.0
#include "program.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>

#include "attention.hpp"
#include "calibrate.hpp"
#include "checkpoint.hpp"
#include "converted_session.hpp"
#include "generation.hpp"
#include "gqa/core/error.hpp"
#include "interrupt.hpp"
#include "loaded_model.hpp"
#include "progress.hpp"
#include "results.hpp"

namespace latent_convert {
namespace {

namespace fs = std::filesystem;
using generate::TokenId;

/// Thrown where Ctrl-C asked for a stop.
struct Interrupted {};

void stop_if_interrupted() {
  if (generate::interrupted()) throw Interrupted();
}

std::vector<TokenId> tokens_of(const fs::path& path, const generate::ModelFile& file, Index most) {
  const generate::MappedFile text(path);
  auto tokens =
      file.tokenizer.encode({reinterpret_cast<const char*>(text.bytes().data()), text.bytes().size()});
  if (most > 0 && std::ssize(tokens) > most) tokens.resize(static_cast<std::size_t>(most));
  return tokens;
}

/// Milliseconds of attention in a token behind so many others, the median of a few.
double decode_time(generate::Session& session, std::span<const TokenId> tokens, Index context) {
  session.clear();
  for (Index fed = 0; fed < context;) {
    const auto next = static_cast<std::size_t>(fed % std::ssize(tokens));
    const auto count =
        std::min({tokens.size() - next, std::size_t{256}, static_cast<std::size_t>(context - fed)});
    session.append(tokens.subspan(next, count));
    fed += static_cast<Index>(count);
    stop_if_interrupted();
  }
  std::vector<double> times;
  for (int i = 0; i < 9; ++i) {
    const double before = session.attention_seconds();
    session.append(tokens.first(1));
    times.push_back(1e3 * (session.attention_seconds() - before));
    session.truncate(context);
  }
  std::ranges::nth_element(times, times.begin() + 4);
  return times[4];
}

int measure_forms(const Options& options) {
  const generate::ModelFile file(options.model);
  const std::string_view architecture = file.gguf.text("general.architecture");
  GQA_CHECK(architecture == "llama", gqa::format_error,
            "the architecture " << architecture << " is not supported (llama is)");
  const auto calibrated = tokens_of(options.calibration, file, options.max_tokens),
             measured = tokens_of(options.perplexity, file, options.max_tokens);
  const Index least = options.noise > 0 ? 1 : file.sizes.model_dim;
  GQA_CHECK(std::ssize(calibrated) >= least, std::invalid_argument,
            "--calibration: the text has " << calibrated.size() << " tokens, expected at least " << least
                                           << " (or some --noise)");
  GQA_CHECK(measured.size() >= 2, std::invalid_argument,
            "--perplexity: the text has " << measured.size() << " tokens, expected at least 2");
  GQA_CHECK(
      options.decode < file.sizes.context_length, std::invalid_argument,
      "--decode is " << options.decode << ", expected less than the model's " << file.sizes.context_length);
  if (options.out) fs::create_directories(*options.out);
  const Index context = std::min(options.context, file.sizes.context_length);
  const std::vector<Form> forms =
      options.forms.empty()
          ? default_forms(file.sizes.num_kv_heads, file.sizes.head_dim, file.sizes.value_dim)
          : options.forms;

  common::ProgressLine line;
  const generate::LoadedModel loaded(file, options.num_threads, generate::WeightType::f32,
                                     [&](double done) { line.show("loading weights", done); });
  auto calibration = convert::calibrate(
      loaded.model, loaded.executor, calibrated, context,
      [&](double done) { line.show("calibrating", done); }, generate::interrupted);
  stop_if_interrupted();
  if (options.noise > 0)
    for (auto& layer : calibration) layer.add_noise(options.noise);

  Results results{.model = file.sizes.name, .num_layers = file.sizes.num_layers};
  results.calibration_tokens = std::ssize(calibrated);
  results.context = context;
  results.decode_context = options.decode;
  const auto source = make_attention(file, Form(), calibration, loaded.executor);
  const auto seen =
      std::span(calibrated).first(std::min(calibrated.size(), static_cast<std::size_t>(context)));
  for (std::size_t i = 0; i < forms.size(); ++i) {
    const auto show = [&](double done) {
      line.show(forms[i].text().c_str(), (static_cast<double>(i) + done) / static_cast<double>(forms.size()));
    };
    show(0);
    const auto attention = make_attention(file, forms[i], calibration, loaded.executor);
    Measured result{.form = forms[i], .elements = attention->elements_per_token()};
    const auto errors = output_errors(loaded.model, loaded.executor, *source, *attention, seen);
    for (const double error : errors) result.output_error += error / static_cast<double>(errors.size());
    ConvertedSession session(loaded.model, loaded.executor, *attention);
    const auto likelihood = generate::measure(session, measured, context, show, generate::interrupted);
    stop_if_interrupted();
    result.perplexity = std::exp(likelihood.mean_negative_log);
    results.measured_tokens = likelihood.num_tokens;
    if (options.decode > 0) result.decode_ms = decode_time(session, measured, options.decode);
    results.forms.push_back(std::move(result));
  }
  line.clear();
  if (options.out) {
    uptrain::write_file(*options.out / "results.json", results.json().dump(1) + "\n");
    uptrain::write_file(*options.out / "perplexity.svg", results.svg());
  }
  if (options.json)
    std::cout << results.json().dump() << "\n";
  else
    std::cout << results.text();
  return 0;
}

}  // namespace

int run(const Options& options) {
  generate::catch_interrupt();
  try {
    return measure_forms(options);
  } catch (const Interrupted&) {
    return generate::interrupt_exit_code;
  }
}

}  // namespace latent_convert
