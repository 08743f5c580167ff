// SPDX-License-Identifier: Apache-2.0
// How large a KV cache is, and how large multi-head or multi-query attention would make it.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "cache_size.hpp"
#include "capacity.hpp"
#include "command_line.hpp"
#include "devices.hpp"
#include "failure.hpp"
#include "model_file.hpp"
#include "models.hpp"
#include "output_file.hpp"
#include "plot.hpp"
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
  std::optional<Index> memory, device_memory, weights;
  std::optional<std::string> weights_dtype;
  std::filesystem::path plot;
  Budget budget;
};

void add_options(CLI::App& app, Options& o) {
  app.add_option("--model", o.model,
                 "a published model from --list, or a file: GGUF, config.json, or a folder with that; - is "
                 "standard input")
      ->type_name("NAME|FILE");
  app.add_flag("--list", o.list, "all published models, with their sources; so is no model at all");
  app.add_flag("--json", o.json, "print JSON");
  app.add_option("--dtype", o.dtype,
                 "of the cache: f64, f32, f16, bf16, fp8, int8 or int4 (their scales are not counted)")
      ->capture_default_str();
  app.add_option("--context", o.context, "tokens of the sequence (default: the model's longest)");
  const auto add_shape = [&](const char* name, std::optional<Index>& value, const char* help) {
    app.add_option(name, value, help)->group("Any other model");
  };
  add_shape("--layers", o.layers, "layers that have a cache");
  add_shape("--heads", o.heads, "query heads");
  add_shape("--kv-heads", o.kv_heads, "KV heads");
  add_shape("--head-dim", o.head_dim, "elements of a key");
  add_shape("--value-dim", o.value_dim, "elements of a value (default: --head-dim)");
  add_shape("--latent-dim", o.latent_dim,
            "MLA: elements kept a token and layer, in place of keys and values");
  add_shape("--window", o.window, "tokens that a local layer keeps");
  add_shape("--local-layers", o.local_layers,
            "how many layers are local (default with --window: all); of a file that does not say it too");

  const auto budget = [&](CLI::Option* option) { return option->group("What fits in memory"); };
  // 1 GB is 10^9 bytes, 1 GiB 2^30.
  auto* memory = budget(app.add_option("--memory", o.memory, "bytes there are, or 24GB, 80GiB: how much fits")
                            ->transform(CLI::AsSizeValue(true)));
  budget(app.add_option("--device-memory", o.device_memory,
                        "bytes of one device: how many of them hold the weights and --users of --context")
             ->transform(CLI::AsSizeValue(true))
             ->excludes(memory));
  auto* weights =
      budget(app.add_option("--weights", o.weights, "bytes of the model's weights (default: a file's own)")
                 ->transform(CLI::AsSizeValue(true)));
  budget(app.add_option("--weights-dtype", o.weights_dtype,
                        "count the weights as f32, bf16, fp8, int4, or a type of GGUF such as q4_k")
             ->excludes(weights));
  budget(app.add_option("--users", o.budget.users,
                        "sequences at once: how long may each be (without it: how many of --context fit)"));
  budget(
      app.add_option("--placement", o.budget.placement,
                     "contiguous, paged, or hybrid: windows drop tokens (default: hybrid where layers have "
                     "windows)")
          ->check(CLI::IsMember({"contiguous", "paged", "hybrid"})));
  budget(app.add_option("--page-tokens", o.budget.page_tokens, "of a page, a multiple of 64")
             ->capture_default_str());
  budget(
      app.add_option("--shared-tokens", o.budget.shared_tokens, "first tokens that all users share, in pages")
          ->capture_default_str());
  budget(
      app.add_option("--max-span", o.budget.max_span, "tokens of one pass, hybrid")->capture_default_str());
  budget(app.add_option("--plot", o.plot, "draw users against context; - is standard output")
             ->type_name("SVG")
             ->needs(memory));
}

bool describes_a_model(const Options& o) {
  const auto sizes = {o.layers, o.heads, o.kv_heads, o.head_dim, o.value_dim, o.latent_dim, o.window};
  return std::ranges::any_of(sizes, [](const auto& size) { return size.has_value(); });
}

void check_one_of(const Options& o) {
  GQA_CHECK(int{describes_a_model(o)} + int{!o.model.empty()} + int{o.list} <= 1, std::invalid_argument,
            "--model, --list and the sizes of another model exclude one another");
  GQA_CHECK(!o.local_layers || !o.list, std::invalid_argument,
            "--list and --local-layers exclude one another");
  GQA_CHECK(!o.local_layers || o.window || !o.model.empty(), std::invalid_argument,
            "--local-layers needs --window");
  const Budget none;
  GQA_CHECK(o.memory || o.device_memory ||
                (!o.weights && !o.weights_dtype && !o.budget.users && o.budget.placement.empty() &&
                 o.budget.page_tokens == none.page_tokens && o.budget.shared_tokens == 0 &&
                 o.budget.max_span == none.max_span),
            std::invalid_argument, "what fits in memory needs --memory or --device-memory");
  GQA_CHECK(o.plot != "-" || !o.json, std::invalid_argument,
            "--json and --plot - both print to standard output");
}

Index required(const char* name, const std::optional<Index>& value) {
  GQA_CHECK(value, std::invalid_argument, name << " is missing (or name a --model)");
  return *value;
}

Case published(const Model& model, const Options& o) {
  GQA_CHECK(!o.local_layers, std::invalid_argument,
            "--local-layers is for a file that does not say it, and " << model.name << " is published");
  Case c{std::string(model.name), model.source, model.shape, model.context, o.dtype};
  if (model.parameters > 0) c.weights.parameters = model.parameters;
  c.weights.how =
      model.parameters > 0 ? "as its files have" : "not known of this model, none counted: --weights says it";
  return c;
}

/// A name that looks like a file's is one, unless it is published.
bool names_a_file(const std::string& name) {
  return name == "-" || name.find('/') != std::string::npos || name.ends_with(".gguf") ||
         name.ends_with(".json") || std::filesystem::exists(name);
}

Case named(const Options& o) {
  const bool published_one = is_published(o.model) || !names_a_file(o.model);
  Case c = published_one ? published(find_model(o.model), o) : read_model(o.model, o.local_layers);
  if (!published_one) c.source = o.model == "-" ? "standard input" : o.model;
  c.dtype = o.dtype;
  GQA_CHECK(!o.context || *o.context <= c.context, std::invalid_argument,
            "context is " << *o.context << ", expected at most the model's " << c.context);
  c.context = o.context.value_or(c.context);
  return c;
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
  return {
      "this model", "",
      shape,        required("--context", o.context),
      o.dtype,      {.bytes = {}, .parameters = {}, .how = "none counted: --weights says what they take"}};
}

/// What the options and the model say of memory. Throws std::invalid_argument where a file's weights are not
/// known and not given.
Budget budget_of(const Options& o, const Case& c) {
  Budget budget = o.budget;
  budget.memory = o.memory ? *o.memory : *o.device_memory;
  const std::optional<Index> known = o.weights ? o.weights : weight_bytes(c.weights, o.weights_dtype);
  const bool from_file = !o.model.empty() && !is_published(o.model);
  GQA_CHECK(known || (!from_file && !o.weights_dtype), std::invalid_argument,
            "what the weights take is not known (" << c.weights.how << "): give --weights");
  budget.weights = known.value_or(0);
  std::ostringstream text;
  if (o.weights)
    text << scaled(*o.weights) << ", as given";
  else if (!known)
    text << c.weights.how;
  else if (c.weights.bytes && !o.weights_dtype)
    text << scaled(*known) << ", " << c.weights.how;
  else
    text << scaled(*known) << ", " << grouped(*c.weights.parameters) << " parameters in "
         << o.weights_dtype.value_or(c.weights.dtype) << " ("
         << (c.weights.bytes ? "counted in the file" : c.weights.how) << ")";
  budget.weights_text = text.str();
  return budget;
}

/// Writes a picture where it is asked for; standard output then has nothing else.
bool write_plot(const std::filesystem::path& path, const std::string& svg) {
  if (path == "-") {
    std::cout << svg;
    return true;
  }
  common::write_text(path, svg);
  return false;
}

void print_capacity(const Options& o, const Case& c) {
  const Budget budget = budget_of(o, c);
  const bool devices = o.device_memory.has_value();
  // What is printed is made before anything is written, so that an error is all there is of a mistake.
  const std::string text = o.json
                               ? (devices ? devices_json(c, budget) : capacity_json(c, budget)).dump(2) + "\n"
                           : devices ? devices_text(c, budget)
                                     : capacity_text(c, budget);
  if (!o.plot.empty() && write_plot(o.plot, plot_of(c, budget))) return;
  std::cout << text;
}

int run(int argc, const char* const* argv, std::string& file) {
  Options o;
  CLI::App app{
      "Says what a KV cache takes and how much fits, beside multi-head (MHA) and multi-query attention "
      "(MQA).",
      "cache_size"};
  add_options(app, o);
  if (!common::parse(app, argc, argv)) return 0;
  file = o.model == "-" ? "standard input" : o.model;
  // Whatever form is asked for, without a model it is that of all of them.
  if (app.count("--model") == 0 && !describes_a_model(o) && !o.context && !o.local_layers) o.list = true;
  check_one_of(o);
  GQA_CHECK(!o.list || !(o.memory || o.device_memory), std::invalid_argument,
            "--memory and --device-memory need a --model or the sizes of one");
  std::vector<Case> cases;
  if (o.list)
    for (const Model& model : models) {
      cases.push_back(published(model, o));
      cases.back().context = o.context.value_or(model.context);
    }
  else
    cases.push_back(o.model.empty() ? described(o) : named(o));
  for (const Case& c : cases) {
    check(c.shape);
    check_at_least("context", c.context, 1);
  }
  if (o.memory || o.device_memory) {
    print_capacity(o, cases.front());
  } else if (o.json) {
    auto list = nlohmann::ordered_json::array();
    for (const Case& c : cases) list.push_back(json_of(c));
    std::cout << (o.list ? list : list.front())
                     .dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
              << "\n";
  } else if (o.list) {
    std::cout << list_text(cases);
  } else {
    std::cout << text_of(cases.front());
  }
  return 0;
}

}  // namespace
}  // namespace cache_size

/// 0: done; 2: the arguments or the file are wrong; 1: anything else.
int main(int argc, char** argv) {
  return common::exit_code_of("cache_size", [&](std::string& file) {
    try {
      return cache_size::run(argc, argv, file);
    } catch (const std::length_error& error) {  // sizes whose product is no number are the arguments' fault
      throw std::invalid_argument(error.what());
    }
  });
}
