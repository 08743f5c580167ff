// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <thread>

#include "command_line.hpp"
#include "gqa/core/error.hpp"

namespace uptrain {
namespace {

/// Small enough that all of it takes seconds.
Settings quick_settings() {
  Settings settings;
  settings.shape = {.layers = 2, .width = 64, .hidden = 128, .context = 32};
  settings.steps = 300;
  settings.measured = 64;
  settings.calibrated = 8;
  settings.seeds = 2;
  settings.rate = 4e-3;
  settings.uptraining_rate = 2e-3;
  return settings;
}

std::vector<Method> methods_of(const std::vector<std::string>& names) {
  std::vector<Method> methods;
  for (const Method method : all_methods)  // in our order, each once
    if (std::ranges::find(names, name_of(method)) != names.end()) methods.push_back(method);
  return methods;
}

}  // namespace

std::optional<Options> parse_options(int argc, const char* const* argv) {
  Options options;
  Settings given;
  bool quick = false;
  std::vector<std::string> names;
  for (const Method method : all_methods) names.emplace_back(name_of(method));
  const std::vector<std::string> all = names;
  options.threads = std::max<Index>(1, std::thread::hardware_concurrency());

  CLI::App app(
      "Trains small transformers from scratch, converts them from multi-head to grouped-query attention by "
      "every method, and trains those on for a few per cent of the steps.",
      "uptrain");
  app.add_option("--text", options.text,
                 "the text to learn, at best some millions of bytes; - is standard input; none: the Bible, "
                 "as Debian's bible-kjv prints it")
      ->type_name("FILE");
  app.add_option("--out", options.out,
                 "folder for results.json, plots (SVG) and checkpoints: a run that was stopped goes on")
      ->type_name("FOLDER");
  app.add_flag("--quick", quick, "a smaller model and fewer steps: seconds, not minutes");
  const auto number = [&](const char* name, Index& value, const char* help, Index least, Index most) {
    return app.add_option(name, value, help)->check(CLI::Range(least, most));
  };
  const auto* steps =
      number("--steps", given.steps, "of training from scratch [1600; quick: 300]", 50, 1 << 24);
  const auto* seeds =
      number("--seeds", given.seeds, "how many times all of it is done [3; quick: 2]", 1, 100);
  const auto* layers = number("--layers", given.shape.layers, "of the model [5; quick: 2]", 1, 1000);
  const auto* width =
      number("--width", given.shape.width, "of the model, a multiple of 16 [128; quick: 64]", 16, 1 << 14);
  const auto* context =
      number("--context", given.shape.context, "symbols of a sequence [64; quick: 32]", 1, 1 << 16);
  const auto* batch = number("--batch", given.batch, "sequences a step [8]", 1, 1 << 16);
  const auto* rate =
      app.add_option("--rate", given.rate, "highest learning rate of training [0.002; quick: 0.004]")
          ->check(CLI::Range(0.0, 1e6));
  const auto* uptraining_rate =
      app.add_option("--uptraining-rate", given.uptraining_rate, "of uptraining [0.001; quick: 0.002]")
          ->check(CLI::Range(0.0, 1e6));
  app.add_option("--methods", names,
                 "some of: random,first,medoid,mean,weighted,aligned-mean,clustered,low-rank")
      ->delimiter(',')
      ->check(CLI::IsMember(all))
      ->type_name("LIST");
  number("--threads", options.threads, "trainings beside each other", 1, 1024)->capture_default_str();
  app.add_option("--checkpoint-seconds", options.checkpoint_seconds, "time between checkpoints of a training")
      ->check(CLI::Range(0.0, 1e9))
      ->capture_default_str();
  app.add_flag("--json", options.json, "print one JSON object");
  if (!common::parse(app, argc, argv)) return std::nullopt;

  Settings& settings = options.settings;
  if (quick) settings = quick_settings();
  const auto take = [](const CLI::Option* option, auto& to, const auto& from) {
    if (option->count() > 0) to = from;
  };
  take(steps, settings.steps, given.steps);
  take(seeds, settings.seeds, given.seeds);
  take(layers, settings.shape.layers, given.shape.layers);
  take(width, settings.shape.width, given.shape.width);
  if (width->count() > 0) settings.shape.hidden = 3 * given.shape.width;
  take(context, settings.shape.context, given.shape.context);
  take(batch, settings.batch, given.batch);
  take(rate, settings.rate, given.rate);
  take(uptraining_rate, settings.uptraining_rate, given.uptraining_rate);
  for (const auto& [name, value] :
       {std::pair{"--rate", settings.rate}, std::pair{"--uptraining-rate", settings.uptraining_rate},
        std::pair{"--checkpoint-seconds", options.checkpoint_seconds}})
    GQA_CHECK(!std::isnan(value), std::invalid_argument, name << " is nan");
  GQA_CHECK(settings.shape.width % 16 == 0, std::invalid_argument,
            "--width is " << settings.shape.width << ", expected a multiple of 16: 8 heads of even size");
  settings.methods = methods_of(names);
  return options;
}

}  // namespace uptrain
