// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <iomanip>
#include <sstream>

#include "rates.hpp"

namespace choose_groups {
namespace {

std::string fixed(double value, int decimals) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(decimals) << value;
  return text.str();
}

/// In MB or GB of 10^6 and 10^9 bytes.
std::string scaled(Index bytes) {
  const auto value = static_cast<double>(bytes);
  return bytes < 1'000'000'000 ? fixed(value * 1e-6, 2) + " MB" : fixed(value * 1e-9, 2) + " GB";
}

std::string milliseconds(double seconds) { return fixed(seconds * 1e3, seconds < 0.1 ? 3 : 1); }

std::string loss_text(const Choice& c) { return c.loss ? fixed(*c.loss, 3) + (c.guessed ? "?" : "") : "-"; }

}  // namespace

std::string text_of(const Report& r) {
  std::ostringstream text;
  text << r.use.layers << " layers, " << r.use.heads << " query heads of " << r.use.head_dim << " dims, "
       << r.use.batch << " x " << r.use.context << " tokens in " << r.use.dtype << ", " << r.rates.num_threads
       << (r.rates.num_threads == 1 ? " thread" : " threads") << "\n\n"
       << "KV heads      cache   decode, ms   prefill, ms      loss\n";
  for (const Choice& c : r.choices)
    text << std::setw(8) << c.kv_heads << std::setw(11) << scaled(c.bytes) << std::setw(13)
         << milliseconds(c.decode) << std::setw(14) << milliseconds(c.prefill) << std::setw(10)
         << loss_text(c) << (c.on_front ? "  *" : "") << (r.limited && !c.fits ? "  beyond the limits" : "")
         << "\n";
  text << "\n* the Pareto set: no other is as good in memory, time and loss.\n";
  if (const Choice* best = r.limited ? best_of(r.choices) : nullptr)
    text << "The least loss within the limits: " << best->kv_heads
         << (best->kv_heads == 1 ? " KV head.\n" : " KV heads.\n");
  else if (r.limited)
    text << "None of them keeps within the limits.\n";
  text << "Times are predicted, of attention alone: a token of every sequence, and all tokens of every "
          "sequence.\nLoss: "
       << r.quality.source << ".\n";
  if (std::ranges::any_of(r.choices, &Choice::guessed))
    text << "?: beyond the figures, continued from the last two.\n";
  return text.str();
}

nlohmann::ordered_json json_of(const Report& r) {
  auto list = nlohmann::ordered_json::array();
  for (const Choice& c : r.choices) {
    nlohmann::ordered_json one = {
        {"kv_heads", c.kv_heads},       {"cache_bytes", c.bytes}, {"decode_seconds", c.decode},
        {"prefill_seconds", c.prefill}, {"loss", nullptr},        {"pareto", c.on_front},
        {"within_limits", c.fits}};
    if (c.loss) one["loss"] = *c.loss;
    if (c.guessed) one["loss_is_extrapolated"] = true;
    list.push_back(std::move(one));
  }
  nlohmann::ordered_json object = {
      {"layers", r.use.layers},
      {"heads", r.use.heads},
      {"head_dim", r.use.head_dim},
      {"value_dim", r.use.value_dim == gqa::Dynamic ? r.use.head_dim : r.use.value_dim},
      {"context", r.use.context},
      {"batch", r.use.batch},
      {"dtype", r.use.dtype},
      {"choices", list},
      {"quality", r.quality.source},
      {"rates", json_of(r.rates, r.use.dtype)}};
  if (r.limited) {
    const Choice* best = best_of(r.choices);
    object["best"] =
        best == nullptr ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(best->kv_heads);
  }
  return object;
}

}  // namespace choose_groups
