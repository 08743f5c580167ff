// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "gqa/core/error.hpp"
#include "mapped_file.hpp"
#include "model_options.hpp"

namespace convert {
namespace {

using gqa::convert::HeadDistance;

constexpr Method methods[] = {Method::mean,     Method::first,        Method::medoid,  Method::random,
                              Method::weighted, Method::aligned_mean, Method::low_rank};
constexpr Grouping groupings[] = {Grouping::contiguous, Grouping::strided, Grouping::random,
                                  Grouping::clustered, Grouping::asymmetric};
constexpr HeadDistance distances[] = {HeadDistance::plain, HeadDistance::aligned,
                                      HeadDistance::aligned_cosine, HeadDistance::cka};
constexpr std::array types = {std::pair("F32", generate::TensorType::f32),
                              std::pair("F16", generate::TensorType::f16),
                              std::pair("Q8_0", generate::TensorType::q8_0)};

template <class Values>
std::vector<std::string> names(const Values& values) {
  std::vector<std::string> all;
  for (const auto& value : values) {
    if constexpr (requires { name_of(value); })
      all.emplace_back(name_of(value));
    else
      all.emplace_back(value.first);
  }
  return all;
}

/// The value of that name, which CLI11 has checked.
template <class Values>
auto find(const Values& values, const std::string& name) {
  const auto all = names(values);
  return values[static_cast<std::size_t>(std::ranges::find(all, name) - all.begin())];
}

}  // namespace

std::optional<Options> parse_options(int argc, const char* const* argv) {
  Options options;
  Settings& settings = options.settings;
  options.num_threads = std::max<Index>(1, std::thread::hardware_concurrency());
  std::string method = "mean", grouping = "contiguous", distance, type;
  constexpr auto largest = std::numeric_limits<std::int32_t>::max();

  CLI::App app("Gives a Llama-architecture model in a GGUF file fewer KV heads, or more that are copies.",
               "convert");
  app.add_option("--model", options.model, "model to convert; - is standard input")
      ->type_name("GGUF")
      ->required();
  app.add_option("--out", options.out, "file to write, replaced when it is complete")
      ->type_name("GGUF")
      ->required();
  auto* kv_heads = app.add_option("--kv-heads", settings.num_kv_heads,
                                  "KV heads of each layer: a divisor of those there are, or for copies a "
                                  "multiple; of low_rank, those whose cache the rank is to fit")
                       ->check(CLI::Range(1, 1 << 20));
  auto* map = app.add_option("--map", settings.map,
                             "in place of --kv-heads and --grouping the group of each KV head: 0,0,1")
                  ->delimiter(',')
                  ->check(CLI::Range(0, 1 << 20))
                  ->excludes(kv_heads);
  auto* budget =
      app.add_option(
             "--budget", settings.budget,
             "in place of --kv-heads the KV heads of all layers together: each gets those that help it "
             "most (--grouping asymmetric)")
          ->check(CLI::Range(1, largest))
          ->excludes(kv_heads)
          ->excludes(map);
  auto* method_option = app.add_option("--method", method, "how the KV heads of a group become one")
                            ->check(CLI::IsMember(names(methods)))
                            ->capture_default_str();
  auto* grouping_option =
      app.add_option(
             "--grouping", grouping,
             "which KV heads become one; asymmetric: any number, which need not divide those there are")
          ->check(CLI::IsMember(names(groupings)))
          ->capture_default_str()
          ->excludes(map);
  auto* distance_option =
      app.add_option("--distance", distance,
                     "of heads, for --grouping clustered and asymmetric (default: aligned "
                     "for aligned_mean, else plain)")
          ->check(CLI::IsMember(names(distances)));
  auto* seed = app.add_option("--seed", settings.seed, "of what is random or clustered")
                   ->check(CLI::Range(std::numeric_limits<Index>::max()))
                   ->capture_default_str();
  auto* factors =
      app.add_option("--factors", options.factors, "learned factors of the heads, as JSON: for weighted")
          ->type_name("FILE");
  auto* keep_norms = app.add_flag("--keep-norms", settings.keep_norms,
                                  "scale each new head to the mean norm of those it was made of");
  auto* calibration =
      app.add_option("--calibration", options.calibration,
                     "text whose activations say what matters in place of the weights; - is standard input")
          ->type_name("FILE");
  app.add_option("--noise", options.noise,
                 "share of the activations' mean square that is added to what the calibration saw")
      ->check(CLI::Range(0.0, 1e6))
      ->needs(calibration)
      ->capture_default_str();
  app.add_option("--type", type,
                 "of all matrices (default: those that the conversion leaves alone keep theirs, others are "
                 "F16)")
      ->check(CLI::IsMember(names(types)));
  auto* groups_option =
      app.add_option(
             "--groups", options.groups,
             "folder for a picture of each layer's heads, how alike they are and what joins, and groups.txt")
          ->type_name("FOLDER");
  app.add_option("--perplexity", options.perplexity,
                 "text to measure the model on, before and after; - is standard input")
      ->type_name("FILE");
  app.add_option("--context", options.context, "tokens of a text that see each other")
      ->check(CLI::Range(2, largest))
      ->capture_default_str();
  app.add_option("--tokens", options.max_tokens, "most tokens read of each text; 0: all")
      ->check(CLI::Range(0, largest))
      ->capture_default_str();
  app.add_option("--threads", options.num_threads, "threads to compute with")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_flag("--json", options.json, "print one JSON object");
  if (!common::parse(app, argc, argv)) return std::nullopt;

  GQA_CHECK(!kv_heads->empty() || !map->empty() || !budget->empty(), std::invalid_argument,
            "--kv-heads, --map or --budget is required");
  GQA_CHECK(!std::isnan(options.noise), std::invalid_argument, "--noise is nan");  // Range lets it pass
  settings.method = find(methods, method);
  settings.grouping = map->empty() ? find(groupings, grouping) : Grouping::map;
  if (!map->empty()) settings.num_kv_heads = *std::ranges::max_element(settings.map) + 1;
  if (!distance.empty()) options.distance = find(distances, distance);
  if (!type.empty()) options.type = find(types, type).second;

  // What says nothing is a mistake.
  const auto only = [](const CLI::Option* option, bool used, const char* of) {
    GQA_CHECK(option->empty() || used, std::invalid_argument,
              option->get_name() << " says nothing without " << of);
  };
  const bool low_rank = settings.method == Method::low_rank;
  const bool clustered = settings.grouping == Grouping::clustered;
  const bool asymmetric = settings.grouping == Grouping::asymmetric;
  only(distance_option, clustered || asymmetric, "--grouping clustered or asymmetric");
  only(budget, asymmetric, "--grouping asymmetric");
  only(seed,
       clustered || asymmetric || settings.method == Method::random || settings.grouping == Grouping::random,
       "--method random or --grouping random, clustered or asymmetric");
  only(factors, settings.method == Method::weighted, "--method weighted");
  GQA_CHECK(settings.method != Method::weighted || options.factors, std::invalid_argument,
            "--method weighted needs --factors");
  for (const CLI::Option* option : {map, grouping_option, keep_norms, groups_option})
    only(option, !low_rank, "a method that joins heads, which low_rank does not");
  for (const CLI::Option* option : {method_option, grouping_option, keep_norms, calibration, groups_option})
    if (!option->empty() && !options.joining) options.joining = option->get_name();

  std::vector<const char*> from_input;
  if (generate::is_standard_input(options.model)) from_input.push_back("--model");
  if (options.factors && generate::is_standard_input(*options.factors)) from_input.push_back("--factors");
  if (options.calibration && generate::is_standard_input(*options.calibration))
    from_input.push_back("--calibration");
  if (options.perplexity && generate::is_standard_input(*options.perplexity))
    from_input.push_back("--perplexity");
  GQA_CHECK(from_input.size() < 2, std::invalid_argument,
            from_input[0] << " and " << from_input[1] << " both read standard input");
  return options;
}

}  // namespace convert
