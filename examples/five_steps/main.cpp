// SPDX-License-Identifier: Apache-2.0
// Local and group-wise attention combined, step by step, in one layer of a real model, and shown to be what
// the model computes in one go. Without a model: on random tensors.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "command_line.hpp"
#include "failure.hpp"
#include "five_steps.hpp"
#include "generation.hpp"
#include "gguf.hpp"
#include "mapped_file.hpp"
#include "model.hpp"
#include "prompt.hpp"
#include "session.hpp"
#include "tokenizer.hpp"
#include "utf8.hpp"

namespace five_steps {
namespace {

struct Options {
  std::filesystem::path model;
  std::string prompt;
  Index layer = 0;
  Index window = 16;
  bool json = false;
};

std::optional<Options> parse_options(int argc, const char* const* argv) {
  Options options;
  CLI::App app("Combines local and group-wise attention in one layer of a model, step by step.",
               "five_steps");
  auto* model =
      app.add_option("--model", options.model, "model to load; none: random queries, keys and values")
          ->type_name("GGUF");
  auto* prompt =
      app.add_option("--prompt", options.prompt, "the text to attend over; - reads standard input");
  auto* layer = app.add_option("--layer", options.layer, "layer of the model, from 0")->capture_default_str();
  app.add_option("--window", options.window, "keys that are local, the query's own included")
      ->check(CLI::Range(Index{1}, gqa::max_position))
      ->capture_default_str();
  app.add_flag("--json", options.json, "print one JSON object");
  model->needs(prompt);
  prompt->needs(model);
  layer->needs(model);
  if (!common::parse(app, argc, argv)) return std::nullopt;
  return options;
}

/// What the first four steps found.
struct Findings {
  gqa::HeadGrouping groups;
  double local_scores, local_weight;  ///< shares of those of all keys
  double difference;                  ///< the largest, to one softmax over all keys
};

/// The five steps over a layer's inputs; `attention_of_layer` holds what the layer computed in one go, and
/// then what the steps gave.
Findings five_steps(const Inputs& in, Index window, std::span<float> attention_of_layer) {
  const gqa::HeadGrouping groups = define_groups(in);
  const Attended global = attend_globally(in, groups, window);
  const Attended local = attend_locally(in, groups, window);
  const Attended combined = combine(global, local);

  double local_weight = 0;
  for (std::size_t row = 0; row < combined.lse.size(); ++row)
    local_weight += std::exp(static_cast<double>(local.lse[row]) - static_cast<double>(combined.lse[row]));
  local_weight /= static_cast<double>(in.rows());
  const double n = static_cast<double>(in.q.tokens), w = std::min(n, static_cast<double>(window));
  const double pairs = n * (n + 1) / 2, local_pairs = w * (w + 1) / 2 + (n - w) * w;

  const double difference = max_difference(combined.out, attention_of_layer);
  // Both are averages of values after a handful of roundings; 64 leave room for the exponentials' arguments.
  float largest = 0;
  for (Index t = 0; t < in.v.tokens; ++t)
    for (Index g = 0; g < in.v.heads; ++g)
      for (Index d = 0; d < in.v.dim; ++d) largest = std::max(largest, std::abs(in.v.at(0, t, g)[d]));
  GQA_CHECK(difference <= 64 * 0x1p-24 * static_cast<double>(largest), std::logic_error,
            "the steps do not give what one softmax does");
  apply_to_layer(combined, attention_of_layer);
  return {groups, local_pairs / pairs, local_weight, difference};
}

/// The query heads of each KV head.
std::vector<std::vector<Index>> members(const gqa::HeadGrouping& groups) {
  std::vector<std::vector<Index>> heads(static_cast<std::size_t>(groups.num_kv_heads()));
  for (Index h = 0; h < groups.num_q_heads(); ++h)
    heads[static_cast<std::size_t>(groups.kv_head(h))].push_back(h);
  return heads;
}

void print_text(const Findings& found, Index window) {
  std::printf("1 groups    %td query heads read %td KV heads:", found.groups.num_q_heads(),
              found.groups.num_kv_heads());
  for (const auto& heads : members(found.groups)) {
    for (std::size_t i = 0; i < heads.size(); ++i) std::printf("%s%td", i == 0 ? " {" : " ", heads[i]);
    std::printf("}");
  }
  std::printf("\n2 global    keys before the window of %td: %.1f %% of the scores, %.1f %% of the weight\n",
              window, 100 * (1 - found.local_scores), 100 * (1 - found.local_weight));
  std::printf("3 local     keys in the window: %.1f %% of the scores, %.1f %% of the weight\n",
              100 * found.local_scores, 100 * found.local_weight);
  std::printf("4 combined  largest difference to one softmax over all keys: %.1e\n", found.difference);
}

nlohmann::ordered_json json_of(const Findings& found, Index window) {
  return {{"groups", members(found.groups)},
          {"window", window},
          {"local_scores", found.local_scores},
          {"local_weight", found.local_weight},
          {"largest_difference", found.difference}};
}

void run_random(const Options& options) {
  const Index tokens = 300, q_heads = 8, kv_heads = 2, dim = 64;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto values = [&](Index count) {
    std::vector<float> x(static_cast<std::size_t>(count));
    for (float& each : x) each = normal(random);
    return x;
  };
  const auto q = values(tokens * q_heads * dim), k = values(tokens * kv_heads * dim),
             v = values(tokens * kv_heads * dim);
  const Inputs in{
      {q.data(), tokens, q_heads, dim}, {k.data(), tokens, kv_heads, dim}, {v.data(), tokens, kv_heads, dim}};
  Attended layer = one_shot(in);
  const Findings found = five_steps(in, options.window, layer.out);
  if (options.json) {
    nlohmann::ordered_json object{{"model", nullptr}, {"tokens", tokens}};
    object.update(json_of(found, options.window));
    std::cout << object.dump() << "\n";
    return;
  }
  std::printf("random queries, keys and values, %td tokens\n", tokens);
  print_text(found, options.window);
  std::printf("5 applied   to %td x %td outputs; give --model to see it in one\n", tokens, q_heads * dim);
}

void run_model(const Options& options) {
  const generate::MappedFile bytes(options.model);
  const generate::Gguf file(bytes.bytes(), generate::check_metadata);
  const generate::Hyperparameters sizes = generate::read_hyperparameters(file);
  const generate::Tokenizer tokenizer(file);
  const auto tokens = tokenizer.encode(generate::read_prompt(options.prompt));
  generate::check_prompt(tokens, sizes.context_length);
  GQA_CHECK(options.layer >= 0 && options.layer < sizes.num_layers, std::invalid_argument,
            "--layer is " << options.layer << ", the model has the layers 0 to " << sizes.num_layers - 1);
  GQA_CHECK(std::ssize(tokens) <= sizes.window(options.layer), std::invalid_argument,
            "the prompt has " << tokens.size() << " tokens, the layer's own window "
                              << sizes.window(options.layer));

  Eigen::ThreadPool pool(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  const gqa::PoolExecutor executor(pool);
  const generate::Model model(file, executor);

  const auto scores_of = [&](const generate::AttentionHook& hook) {
    const auto session = generate::make_session(model, generate::CacheType::f32, executor, hook);
    session->append(tokens);
    const auto logits = session->logits();
    return std::vector<float>(logits.begin(), logits.end());
  };
  const auto in_one_go = scores_of({});
  std::optional<Findings> found;
  const auto in_steps =
      scores_of([&](Index layer, const auto& q, const auto& k, const auto& v, const auto& out) {
        if (layer != options.layer) return;
        found = five_steps({q, k, v}, options.window,
                           {out.data, static_cast<std::size_t>(out.tokens * out.heads * out.dim)});
      });
  const auto likeliest = [](const std::vector<float>& x) { return std::ranges::max_element(x) - x.begin(); };
  const auto token = static_cast<generate::TokenId>(likeliest(in_steps));
  GQA_CHECK(token == likeliest(in_one_go), std::logic_error, "the next token is another");
  const std::string spelled = generate::valid_utf8(tokenizer.bytes(token));
  if (options.json) {
    nlohmann::ordered_json object{{"model", sizes.name}, {"layer", options.layer}, {"tokens", tokens.size()}};
    object.update(json_of(*found, options.window));
    object.update(
        {{"next_token", spelled}, {"largest_difference_of_scores", max_difference(in_steps, in_one_go)}});
    std::cout << object.dump() << "\n";
    return;
  }
  std::printf("%s, layer %td of %td, %td tokens\n", sizes.name.c_str(), options.layer, sizes.num_layers,
              std::ssize(tokens));
  print_text(*found, options.window);
  std::printf("5 applied   the next token is \"%s\" both ways; largest difference of its scores: %.1e\n",
              spelled.c_str(), max_difference(in_steps, in_one_go));
}

}  // namespace
}  // namespace five_steps

/// 0: done; 2: the arguments, the prompt or the file are wrong; 1: anything else.
int main(int argc, char** argv) {
  return common::exit_code_of("five_steps", [&](std::string& model) {
    const auto options = five_steps::parse_options(argc, argv);
    if (!options) return 0;
    model = options->model.string();
    if (options->model.empty())
      five_steps::run_random(*options);
    else
      five_steps::run_model(*options);
    GQA_CHECK(std::fflush(stdout) == 0, std::runtime_error, "cannot write to standard output");
    return 0;
  });
}
