// SPDX-License-Identifier: Apache-2.0
// How many KV heads a model's attention should have: memory, time and quality against G, and the Pareto set
// of them (Cost-Optimal Grouped-Query Attention, arXiv 2503.09579).
#include <iostream>
#include <stdexcept>

#include "command_line.hpp"
#include "failure.hpp"
#include "rates.hpp"
#include "report.hpp"

namespace choose_groups {
namespace {

struct Options {
  Use use;
  int threads = 1;
  bool json = false;
  double same_loss = 0;
  std::optional<Index> value_dim, most_bytes;
  std::optional<double> most_decode_ms, most_loss;
  std::string quality, rates;
};

void add_options(CLI::App& app, Options& o) {
  const CLI::Range sizes(Index{1}, Index{1} << 40);
  app.add_option("--heads", o.use.heads, "query heads")->required()->check(sizes);
  app.add_option("--head-dim", o.use.head_dim, "elements of a query and a key")->required()->check(sizes);
  app.add_option("--value-dim", o.value_dim, "elements of a value (default: --head-dim)")->check(sizes);
  app.add_option("--layers", o.use.layers, "layers")->check(sizes)->capture_default_str();
  app.add_option("--context", o.use.context, "tokens of a sequence")->required()->check(sizes);
  app.add_option("--batch", o.use.batch, "sequences at once")->check(sizes)->capture_default_str();
  app.add_option("--dtype", o.use.dtype, "element type of keys and values")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}))
      ->capture_default_str();
  app.add_option("--threads", o.threads, "threads to compute with")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--quality", o.quality, "loss by number of KV heads, {\"8\": 2.31, \"4\": 2.33}")
      ->type_name("JSON");
  app.add_option("--same-loss", o.same_loss, "losses that differ by no more than this are the same")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  const auto limit = [](CLI::Option* option) { option->group("Limits"); };
  limit(app.add_option("--max-memory", o.most_bytes, "bytes of all caches, or 8GB, 8GiB")
            ->transform(CLI::AsSizeValue(true)));
  limit(app.add_option("--max-decode", o.most_decode_ms, "milliseconds of a token of every sequence")
            ->check(CLI::PositiveNumber));
  limit(app.add_option("--max-loss", o.most_loss, "loss, or what is lost, as in the table"));
  app.add_option("--rates", o.rates, "the machine as an earlier --json has it, in place of measuring it")
      ->type_name("JSON");
  app.add_flag("--json", o.json, "print one JSON object");
}

void run(Options& o) {
  if (o.value_dim) o.use.value_dim = *o.value_dim;
  Report report{.use = o.use};
  report.quality = o.quality.empty() ? stand_in() : read_quality(o.quality);
  // Sizes that cannot be are refused before a second goes by.
  gqa::CostRates any{.read = {{{1, 1}, {2, 1}, {3, 1}}}, .multiply = 1, .score = 1};
  set_losses(report.choices = choices_of(o.use, any), o.use, report.quality);
  report.rates =
      o.rates.empty() ? measured_rates(o.use.dtype, o.threads) : read_rates(o.rates, o.use.dtype, o.threads);
  report.choices = choices_of(o.use, report.rates);
  set_losses(report.choices, o.use, report.quality);
  mark_front(report.choices, o.same_loss);
  Limits limits;
  if (o.most_bytes) limits.bytes = *o.most_bytes;
  if (o.most_decode_ms) limits.decode = *o.most_decode_ms * 1e-3;
  if (o.most_loss) limits.loss = *o.most_loss;
  report.limited = o.most_bytes || o.most_decode_ms || o.most_loss;
  mark_fits(report.choices, limits);
  std::cout << (o.json ? json_of(report).dump(2) + "\n" : text_of(report));
}

}  // namespace
}  // namespace choose_groups

int main(int argc, char** argv) {
  return common::exit_code_of("choose_groups", [&] {
    choose_groups::Options options;
    CLI::App app(
        "Shows memory, time and loss of attention against its number of KV heads, and the Pareto set of a "
        "model and a use on this machine.",
        "choose_groups");
    choose_groups::add_options(app, options);
    if (!common::parse(app, argc, argv)) return 0;
    try {
      choose_groups::run(options);
    } catch (const std::length_error& error) {  // sizes whose product overflows
      throw std::invalid_argument(error.what());
    }
    return 0;
  });
}
