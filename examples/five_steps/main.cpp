// SPDX-License-Identifier: Apache-2.0
// Local and group-wise attention combined, step by step, in one layer of a real model, and shown to be what
// the model computes in one go. Without a model: on random tensors.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

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
};

std::optional<Options> parse_options(int argc, const char* const* argv) {
  Options options;
  CLI::App app("Combines local and group-wise attention in one layer of a model, step by step.",
               "five_steps");
  auto* model = app.add_option("--model", options.model, "GGUF file; none: random queries, keys and values");
  auto* prompt =
      app.add_option("--prompt", options.prompt, "the text to attend over; - reads standard input");
  auto* layer = app.add_option("--layer", options.layer, "layer of the model, from 0")->capture_default_str();
  app.add_option("--window", options.window, "keys that are local, the query's own included")
      ->check(CLI::Range(Index{1}, gqa::max_position))
      ->capture_default_str();
  model->needs(prompt);
  prompt->needs(model);
  layer->needs(model);
  if (!generate::parse(app, argc, argv)) return std::nullopt;
  return options;
}

/// The five steps over a layer's inputs, each said as it is done; `attention_of_layer` holds what the layer
/// computed in one go, and then what the steps gave.
void five_steps(const Inputs& in, Index window, std::span<float> attention_of_layer) {
  const gqa::HeadGrouping groups = define_groups(in);
  std::printf("1 groups    %td query heads read %td KV heads:", groups.num_q_heads(), groups.num_kv_heads());
  for (Index g = 0; g < groups.num_kv_heads(); ++g) {
    for (Index h = 0, first = 1; h < groups.num_q_heads(); ++h)
      if (groups.kv_head(h) == g) std::printf("%s%td", std::exchange(first, 0) ? " {" : " ", h);
    std::printf("}");
  }
  const Attended global = attend_globally(in, groups, window);
  const Attended local = attend_locally(in, groups, window);
  const Attended combined = combine(global, local);

  double local_weight = 0;
  for (std::size_t row = 0; row < combined.lse.size(); ++row)
    local_weight += std::exp(static_cast<double>(local.lse[row]) - static_cast<double>(combined.lse[row]));
  local_weight /= static_cast<double>(in.rows());
  const double n = static_cast<double>(in.q.tokens), w = std::min(n, static_cast<double>(window));
  const double pairs = n * (n + 1) / 2, local_pairs = w * (w + 1) / 2 + (n - w) * w;
  std::printf("\n2 global    keys before the window of %td: %.1f %% of the scores, %.1f %% of the weight\n",
              window, 100 * (1 - local_pairs / pairs), 100 * (1 - local_weight));
  std::printf("3 local     keys in the window: %.1f %% of the scores, %.1f %% of the weight\n",
              100 * local_pairs / pairs, 100 * local_weight);

  const double difference = max_difference(combined.out, attention_of_layer);
  std::printf("4 combined  largest difference to one softmax over all keys: %.1e\n", difference);
  // Both are averages of values after a handful of roundings; 64 leave room for the exponentials' arguments.
  float largest = 0;
  for (Index t = 0; t < in.v.tokens; ++t)
    for (Index g = 0; g < in.v.heads; ++g)
      for (Index d = 0; d < in.v.dim; ++d) largest = std::max(largest, std::abs(in.v.at(0, t, g)[d]));
  GQA_CHECK(difference <= 64 * 0x1p-24 * static_cast<double>(largest), std::logic_error,
            "the steps do not give what one softmax does");
  apply_to_layer(combined, attention_of_layer);
}

void run_random(Index window) {
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
  std::printf("random queries, keys and values, %td tokens\n", tokens);
  Attended layer = one_shot(in);
  five_steps(in, window, layer.out);
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
  std::printf("%s, layer %td of %td, %td tokens\n", sizes.name.c_str(), options.layer, sizes.num_layers,
              std::ssize(tokens));

  const auto scores_of = [&](const generate::AttentionHook& hook) {
    const auto session = generate::make_session(model, generate::CacheType::f32, executor, hook);
    session->append(tokens);
    const auto logits = session->logits();
    return std::vector<float>(logits.begin(), logits.end());
  };
  const auto in_one_go = scores_of({});
  const auto in_steps =
      scores_of([&](Index layer, const auto& q, const auto& k, const auto& v, const auto& out) {
        if (layer != options.layer) return;
        five_steps({q, k, v}, options.window,
                   {out.data, static_cast<std::size_t>(out.tokens * out.heads * out.dim)});
      });
  const auto likeliest = [](const std::vector<float>& x) { return std::ranges::max_element(x) - x.begin(); };
  const auto token = static_cast<generate::TokenId>(likeliest(in_steps));
  GQA_CHECK(token == likeliest(in_one_go), std::logic_error, "the next token is another");
  std::printf("5 applied   the next token is \"%s\" both ways; largest difference of its scores: %.1e\n",
              generate::valid_utf8(tokenizer.bytes(token)).c_str(), max_difference(in_steps, in_one_go));
}

}  // namespace
}  // namespace five_steps

/// 0: done; 2: the arguments, the prompt or the file are wrong; 1: anything else.
int main(int argc, char** argv) {
  std::string model;
  try {
    const auto options = five_steps::parse_options(argc, argv);
    if (!options) return 0;
    model = options->model.string() + ": ";
    if (options->model.empty())
      five_steps::run_random(options->window);
    else
      five_steps::run_model(*options);
    if (std::fflush(stdout) != 0) return generate::fail("five_steps", 1, "cannot write to standard output");
    return 0;
  } catch (const gqa::format_error& error) {
    return generate::fail("five_steps", 2, model + error.what());
  } catch (const std::invalid_argument& error) {
    return generate::fail("five_steps", 2, error.what());
  } catch (const std::system_error& error) {
    return generate::fail("five_steps", 2, error.what());
  } catch (const std::exception& error) {
    return generate::fail("five_steps", 1, error.what());
  }
}
