// SPDX-License-Identifier: Apache-2.0
#include "serve_report.hpp"

#include <algorithm>
#include <iomanip>
#include <sstream>

namespace serve_batch {
namespace {

struct Sums {
  Index prompt_tokens = 0, found = 0, swaps = 0;

  explicit Sums(const Service& service) {
    for (const Service::Request& r : service.requests) {
      prompt_tokens += r.prompt_tokens;
      found += r.found;
    }
    for (const Service::Sequence& s : service.sequences) swaps += s.swaps;
  }
};

double megabytes(Index bytes) { return static_cast<double>(bytes) / 1e6; }

}  // namespace

std::string Report::text() const {
  const Sums sums(service);
  std::ostringstream out;
  out << std::fixed << std::setprecision(2);
  out << "requests    " << service.requests.size() << " of " << service.samples
      << (service.samples == 1 ? " text" : " texts") << ", " << service.chosen_tokens() << " tokens in "
      << service.seconds << " s, " << std::setprecision(1) << service.rate() << " tokens/s\n";
  out << "passes      " << service.passes << " of the model, up to " << service.most_at_once
      << " sequences in one, "
      << static_cast<double>(service.fed_tokens) / static_cast<double>(std::max<Index>(1, service.passes))
      << " tokens on average\n";
  out << "prompts     " << sums.prompt_tokens << " tokens, " << sums.found << " of them found in the cache\n";
  out << "pages       " << service.pages.pages << " of " << megabytes(page_bytes) << " MB; at most "
      << service.most_used << " used, " << service.most_shared << " shared; " << service.pages.copied
      << " copied on writing, " << service.pages.evicted << " evicted\n";
  out << "preemption  " << sums.swaps << " times, " << megabytes(service.swapped_bytes)
      << " MB written to memory\n";
  if (same_alone)
    out << "alone       " << (*same_alone ? "the same texts" : "OTHER TEXTS") << ", one after the other at "
        << alone_rate() << " tokens/s\n";
  return out.str();
}

nlohmann::ordered_json Report::json() const {
  const Sums sums(service);
  auto requests = nlohmann::ordered_json::array();
  for (std::size_t r = 0; r < service.requests.size(); ++r) {
    const Service::Request& request = service.requests[r];
    auto texts = nlohmann::ordered_json::array();
    for (Index j = 0; j < service.samples; ++j) {
      const Index i = static_cast<Index>(r) * service.samples + j;
      const Service::Sequence& s = service.sequences[static_cast<std::size_t>(i)];
      texts.push_back({{"seed", settings.seed_of(i)},
                       {"output_ids", s.continuation.ids()},
                       {"text", s.continuation.text()},
                       {"stop", s.continuation.stop()},
                       {"swaps", s.swaps}});
    }
    requests.push_back({{"arrival", request.arrival},
                        {"prompt_tokens", request.prompt_tokens},
                        {"found_tokens", request.found},
                        {"first_token_seconds", request.first_seconds},
                        {"seconds", request.seconds},
                        {"texts", texts}});
  }
  nlohmann::ordered_json object{{"requests", requests},
                                {"passes", service.passes},
                                {"most_sequences", service.most_at_once},
                                {"fed_tokens", service.fed_tokens},
                                {"generated_tokens", service.chosen_tokens()},
                                {"seconds", service.seconds},
                                {"tokens_per_second", service.rate()},
                                {"prompt_tokens", sums.prompt_tokens},
                                {"found_tokens", sums.found},
                                {"pages",
                                 {{"pages", service.pages.pages},
                                  {"bytes", page_bytes},
                                  {"most_used", service.most_used},
                                  {"most_shared", service.most_shared},
                                  {"used", service.pages.used},
                                  {"kept", service.pages.kept},
                                  {"copied", service.pages.copied},
                                  {"evicted", service.pages.evicted}}},
                                {"swaps", sums.swaps},
                                {"swapped_bytes", service.swapped_bytes}};
  if (same_alone) {
    object["same_alone"] = *same_alone;
    object["alone_tokens_per_second"] = alone_rate();
  }
  return object;
}

}  // namespace serve_batch
