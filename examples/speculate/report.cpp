// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <iomanip>
#include <sstream>

namespace speculate {
namespace {

std::string speed(const generate::Generation& run) {
  std::ostringstream out;
  out << run.output_ids.size() << " tokens";
  if (run.output_ids.size() > 1)
    out << std::fixed << std::setprecision(2) << " in " << run.generation_seconds << " s"
        << std::setprecision(1) << ", " << run.generation_rate() << " tokens/s";
  return out.str();
}

}  // namespace

double Report::speedup() const {
  if (!plain || plain->generation_rate() <= 0) return 0;
  return result.generation.generation_rate() / plain->generation_rate();
}

std::string Report::text() const {
  const generate::Generation& run = result.generation;
  std::ostringstream out;
  out << std::fixed << std::setprecision(2);
  out << "prompt      " << run.prompt_tokens << " tokens in " << run.prompt_seconds << " s\n";
  out << "generation  " << speed(run) << " (stopped by: " << run.stop << ")\n";
  out << "drafts      " << result.steps << " steps, " << result.tokens_per_step() << " tokens a step; "
      << result.accepted << " of " << result.drafted << " drafted tokens accepted (" << std::setprecision(0)
      << 100 * result.accepted_share() << " %), " << result.branch_steps
      << (result.branch_steps == 1 ? " step" : " steps") << " went on along another branch\n";
  out << "            n-grams of " << options.lookup.ngram << ", " << options.lookup.draft << " drafted, "
      << options.lookup.branches << (options.lookup.branches == 1 ? " branch" : " branches") << "; cache "
      << generate::type_name(options.cache_type()) << ", " << options.num_threads
      << (options.num_threads == 1 ? " thread\n" : " threads\n");
  if (plain && options.compare)
    out << "plain       " << speed(*plain) << "; with drafts " << std::setprecision(2) << speedup()
        << " times as fast\n";
  if (plain) out << "verified    the same " << run.output_ids.size() << " tokens as plain decoding\n";
  return out.str();
}

nlohmann::ordered_json Report::json() const {
  const generate::Generation& run = result.generation;
  nlohmann::ordered_json object{
      {"output_ids", run.output_ids},
      {"text", run.text},
      {"threads", options.num_threads},
      {"cache_dtype", generate::type_name(options.cache_type())},
      {"ngram", options.lookup.ngram},
      {"draft", options.lookup.draft},
      {"branches", options.lookup.branches},
      {"prompt_tokens", run.prompt_tokens},
      {"prompt_seconds", run.prompt_seconds},
      {"generated_tokens", run.output_ids.size()},
      {"generation_seconds", run.generation_seconds},
      {"generation_tokens_per_second", run.generation_rate()},
      {"stop", run.stop},
      {"steps", result.steps},
      {"tokens_per_step", result.tokens_per_step()},
      {"drafted_tokens", result.drafted},
      {"accepted_tokens", result.accepted},
      {"accepted_share", result.accepted_share()},
      {"branch_steps", result.branch_steps},
  };
  if (plain) {
    object["identical"] = true;
    if (options.compare)
      object["plain"] = {{"generation_seconds", plain->generation_seconds},
                         {"generation_tokens_per_second", plain->generation_rate()},
                         {"speedup", speedup()}};
  }
  return object;
}

}  // namespace speculate
