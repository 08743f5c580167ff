// SPDX-License-Identifier: Apache-2.0
// How large a KV cache is, and how large multi-head or multi-query attention would make it.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cache_size.hpp"
#include "capacity.hpp"
#include "models.hpp"
#include "report.hpp"

namespace cache_size {
namespace {

struct Options {
  std::string model;
  bool list = false;
  bool json = false;
  std::string dtype = "bf16";
  std::optional<Index> context, layers, heads, kv_heads, head_dim, value_dim, latent_dim, window,
      local_layers;
  std::optional<Index> memory;
  Budget budget;
};

void add_options(CLI::App& app, Options& o) {
  app.add_option("--model", o.model, "A published model, from --list")->type_name("NAME");
  app.add_flag("--list", o.list, "All published models, with their sources; so is no model at all");
  app.add_flag("--json", o.json, "Print JSON");
  app.add_option("--dtype", o.dtype, "f64, f32, f16, bf16, fp8, int8 or int4 (their scales are not counted)")
      ->capture_default_str();
  app.add_option("--context", o.context, "Tokens of the sequence (default: the model's longest)");
  const auto add_shape = [&](const char* name, std::optional<Index>& value, const char* help) {
    app.add_option(name, value, help)->group("Any other model");
  };
  add_shape("--layers", o.layers, "Layers that have a cache");
  add_shape("--heads", o.heads, "Query heads");
  add_shape("--kv-heads", o.kv_heads, "KV heads");
  add_shape("--head-dim", o.head_dim, "Elements of a key");
  add_shape("--value-dim", o.value_dim, "Elements of a value (default: --head-dim)");
  add_shape("--latent-dim", o.latent_dim,
            "MLA: elements kept a token and layer, in place of keys and values");
  add_shape("--window", o.window, "Tokens that a local layer keeps");
  add_shape("--local-layers", o.local_layers, "How many layers are local (default with --window: all)");

  const auto budget = [&](CLI::Option* option) { option->group("What fits in memory"); };
  // 1 GB is 10^9 bytes, 1 GiB 2^30.
  budget(app.add_option("--memory", o.memory, "Bytes there are, or 24GB, 80GiB: how much fits")
             ->transform(CLI::AsSizeValue(true)));
  budget(app.add_option("--weights", o.budget.weights, "Of those, for the model's weights")
             ->transform(CLI::AsSizeValue(true)));
  budget(app.add_option("--users", o.budget.users,
                        "Sequences at once: how long may each be (without it: how many of --context fit)"));
  budget(
      app.add_option("--placement", o.budget.placement, "contiguous, paged, or hybrid: windows drop tokens")
          ->check(CLI::IsMember({"contiguous", "paged", "hybrid"}))
          ->capture_default_str());
  budget(app.add_option("--page-tokens", o.budget.page_tokens, "Of a page, a multiple of 64")
             ->capture_default_str());
  budget(
      app.add_option("--shared-tokens", o.budget.shared_tokens, "First tokens that all users share, in pages")
          ->capture_default_str());
  budget(
      app.add_option("--max-span", o.budget.max_span, "Tokens of one pass, hybrid")->capture_default_str());
}

bool describes_a_model(const Options& o) {
  const auto sizes = {o.layers,    o.heads,      o.kv_heads, o.head_dim,
                      o.value_dim, o.latent_dim, o.window,   o.local_layers};
  return std::ranges::any_of(sizes, [](const auto& size) { return size.has_value(); });
}

void check_one_of(const Options& o) {
  GQA_CHECK(int{describes_a_model(o)} + int{!o.model.empty()} + int{o.list} <= 1, std::invalid_argument,
            "--model, --list and the sizes of another model exclude one another");
  GQA_CHECK(!o.local_layers || o.window, std::invalid_argument, "--local-layers needs --window");
  const Budget none;
  GQA_CHECK(o.memory || (o.budget.weights == 0 && !o.budget.users && o.budget.placement == none.placement &&
                         o.budget.page_tokens == none.page_tokens && o.budget.shared_tokens == 0 &&
                         o.budget.max_span == none.max_span),
            std::invalid_argument, "what fits in memory needs --memory");
}

Index required(const char* name, const std::optional<Index>& value) {
  GQA_CHECK(value, std::invalid_argument, name << " is missing (or name a --model)");
  return *value;
}

Case published(const Model& model, const Options& o) {
  return {std::string(model.name), model.source, model.shape, o.context.value_or(model.context), o.dtype};
}

Case described(const Options& o) {
  Shape shape{.layers = required("--layers", o.layers),
              .q_heads = required("--heads", o.heads),
              .kv_heads = required("--kv-heads", o.kv_heads),
              .head_dim = required("--head-dim", o.head_dim)};
  shape.value_dim = o.value_dim.value_or(shape.head_dim);
  shape.latent_dim = o.latent_dim.value_or(0);
  shape.local_layers = o.window ? o.local_layers.value_or(shape.layers) : 0;
  shape.window = o.window.value_or(0);
  if (o.window) check_at_least("window", shape.window, 1);
  if (o.latent_dim) check_at_least("latent-dim", shape.latent_dim, 1);
  return {"this model", "", shape, required("--context", o.context), o.dtype};
}

void run(const Options& o) {
  check_one_of(o);
  std::vector<Case> cases;
  if (o.list)
    for (const Model& model : models) cases.push_back(published(model, o));
  else
    cases.push_back(o.model.empty() ? described(o) : published(find_model(o.model), o));
  for (const Case& c : cases) {
    check(c.shape);
    check_at_least("context", c.context, 1);
  }
  if (o.memory) {
    GQA_CHECK(!o.list, std::invalid_argument, "--memory needs a --model or the sizes of one");
    Budget budget = o.budget;
    budget.memory = *o.memory;
    const Case& c = cases.front();
    if (o.json)
      std::cout << capacity_json(c, budget).dump(2) << "\n";
    else
      std::cout << capacity_text(c, budget);
  } else if (o.json) {
    auto list = nlohmann::ordered_json::array();
    for (const Case& c : cases) list.push_back(json_of(c));
    std::cout << (o.list ? list : list.front()).dump(2) << "\n";
  } else if (o.list) {
    std::cout << list_text(cases);
  } else {
    std::cout << text_of(cases.front());
  }
}

}  // namespace
}  // namespace cache_size

int main(int argc, char** argv) {
  cache_size::Options options;
  CLI::App app{
      "The size of a KV cache, and what multi-head (MHA) or multi-query attention (MQA) would make of it."};
  cache_size::add_options(app, options);
  try {
    app.parse(argc, argv);
    // Whatever form is asked for, without a model it is that of all of them.
    if (app.count("--model") == 0 && !describes_a_model(options) && !options.context) options.list = true;
    cache_size::run(options);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cache_size: %s\n", error.what());
    return 2;
  }
  if (std::cout.flush()) return 0;
  std::fprintf(stderr, "cache_size: cannot write\n");
  return 1;
}
