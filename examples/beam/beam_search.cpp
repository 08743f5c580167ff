// SPDX-License-Identifier: Apache-2.0
#include "beam_search.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <tuple>

#include "generation.hpp"
#include "log_sum_exp.hpp"

namespace beam {
namespace {

/// A beam, continued by a token.
struct Candidate {
  double log_probability;
  Index parent;
  TokenId token;

  bool operator<(const Candidate& other) const {  // the best first
    return std::tuple(-log_probability, parent, token) <
           std::tuple(-other.log_probability, other.parent, other.token);
  }
};

double score_of(double log_probability, Index tokens, double length_penalty) {
  return log_probability / std::pow(static_cast<double>(tokens), length_penalty);
}

/// The best `count` continuations of all beams; a row of scores each.
std::vector<Candidate> best_of(const generate::Matrix& logits, std::span<const Hypothesis> live,
                               Index count) {
  std::vector<Candidate> candidates;
  candidates.reserve(static_cast<std::size_t>(logits.size()));
  for (Index b = 0; b < logits.rows(); ++b) {
    const double before = live[static_cast<std::size_t>(b)].log_probability;
    const double all = generate::log_sum_exp(logits.row(b));
    for (TokenId id = 0; id < logits.cols(); ++id)
      candidates.push_back({before + (static_cast<double>(logits(b, id)) - all), b, id});
  }
  std::erase_if(candidates, [](const Candidate& c) { return std::isnan(c.log_probability); });
  GQA_CHECK(!candidates.empty(), std::runtime_error, "the model's scores are not numbers");
  const auto end = candidates.begin() + std::min(count, std::ssize(candidates));
  std::partial_sort(candidates.begin(), end, candidates.end());
  candidates.erase(end, candidates.end());
  return candidates;
}

/// Sequences of a cache, freed with this.
template <class Cache>
struct Beams {
  Cache& cache;
  std::vector<gqa::SequenceId> ids = {};

  ~Beams() {
    for (const gqa::SequenceId id : ids)
      if (cache.contains(id)) cache.free(id);
  }
};

}  // namespace

Index pages_needed(Index prompt_tokens, Index context_length, const Settings& settings) {
  constexpr Index page = 64;
  const Index most = std::min(context_length, prompt_tokens + settings.max_tokens - 1);
  const Index common = prompt_tokens / page;
  return common + 1 + gqa::checked_mul(settings.beams, gqa::ceil_div(most, page) - common, "pages");
}

template <gqa::Scalar T>
Result search(generate::Batch<T>& batch, const generate::Tokenizer& tokenizer, Index context_length,
              std::span<const TokenId> prompt, const Settings& settings, const generate::Progress& progress,
              const std::function<bool()>& stop) {
  generate::check_prompt(prompt, context_length);
  GQA_CHECK(settings.beams >= 1 && settings.max_tokens >= 1, std::invalid_argument,
            settings.beams << " beams and at most " << settings.max_tokens
                           << " tokens, expected at least 1 of each");
  GQA_CHECK(settings.length_penalty >= 0, std::invalid_argument,
            "the length penalty is " << settings.length_penalty << ", expected at least 0");
  auto& cache = batch.cache();
  const gqa::PageStatistics before = cache.statistics();
  Result result;
  Beams<gqa::PagedCache<T>> beams{cache};
  const auto score = [&](const Hypothesis& h) {
    return score_of(h.log_probability, std::ssize(h.ids), settings.length_penalty);
  };
  const auto finish = [&](Hypothesis h, std::string_view why) {
    h.stop = why;
    h.score = score(h);
    result.best.insert(std::ranges::upper_bound(result.best, h.score, std::greater(), &Hypothesis::score), h);
    if (std::ssize(result.best) > settings.beams) result.best.pop_back();
  };
  // Whether an unfinished one could still get among the best: its logarithm only falls, and counts least
  // where the text is as long as it may get.
  const auto hopeless = [&](const Hypothesis& likeliest) {
    return std::ssize(result.best) == settings.beams &&
           score_of(likeliest.log_probability, settings.max_tokens, settings.length_penalty) <=
               result.best.back().score;
  };

  Index ends = 0;  // tokens that end a text
  for (TokenId id = 0; id < tokenizer.vocabulary_size(); ++id) ends += tokenizer.ends_text(id);

  beams.ids.reserve(static_cast<std::size_t>(settings.beams));
  beams.ids.push_back(cache.create());
  batch.step(std::vector<generate::Piece>{{beams.ids[0], prompt}});
  while (std::ssize(beams.ids) < settings.beams) beams.ids.push_back(cache.fork(beams.ids[0]));

  std::vector<Hypothesis> live(1);  // live[b] is what sequence b has, but for the token chosen last
  while (true) {
    std::vector<Index> rows;
    for (Index b = 0; b < std::ssize(live); ++b) rows.push_back(b);
    const Index fed = cache.size(beams.ids[0]), length = result.steps + 1;
    std::vector<Hypothesis> next;
    std::vector<Index> parents;
    const Index wanted = settings.beams + std::ssize(live) * ends;  // so that as many as beams do not end
    for (const Candidate& c : best_of(batch.logits(rows), live, wanted)) {
      if (std::ssize(next) == settings.beams) break;
      Hypothesis h = live[static_cast<std::size_t>(c.parent)];
      h.ids.push_back(c.token);
      h.log_probability = c.log_probability;
      if (tokenizer.ends_text(c.token)) {
        finish(std::move(h), "end");
      } else {
        parents.push_back(c.parent);
        next.push_back(std::move(h));
      }
    }
    live = std::move(next);
    ++result.steps;
    if (progress) progress(static_cast<double>(length) / static_cast<double>(settings.max_tokens));
    result.interrupted = stop && stop();
    if (live.empty() || hopeless(live[0])) break;
    if (length == settings.max_tokens || fed == context_length || result.interrupted) {
      for (const Hypothesis& h : live)
        finish(h, length == settings.max_tokens ? "max-tokens"
                  : fed == context_length       ? "context"
                                                : "interrupt");
      break;
    }
    for (Index b = 0; b < std::ssize(parents); ++b)
      if (parents[static_cast<std::size_t>(b)] != b)
        result.taken_over += gqa::ceil_div(fed, cache.page_tokens());
    // Sequences that no beam is in go on as the first one, whose pages they share.
    parents.resize(beams.ids.size(), 0);
    cache.reorder(beams.ids, parents);
    std::vector<generate::Piece> pieces;
    for (std::size_t b = 0; b < live.size(); ++b)
      pieces.push_back({beams.ids[b], std::span(live[b].ids).last(1)});
    batch.step(pieces);
    result.most_used = std::max(result.most_used, cache.statistics().used);
  }
  result.copied = cache.statistics().copied - before.copied;
  return result;
}

template Result search(generate::Batch<float>&, const generate::Tokenizer&, Index, std::span<const TokenId>,
                       const Settings&, const generate::Progress&, const std::function<bool()>&);
template Result search(generate::Batch<gqa::half>&, const generate::Tokenizer&, Index,
                       std::span<const TokenId>, const Settings&, const generate::Progress&,
                       const std::function<bool()>&);
template Result search(generate::Batch<gqa::bfloat16>&, const generate::Tokenizer&, Index,
                       std::span<const TokenId>, const Settings&, const generate::Progress&,
                       const std::function<bool()>&);

}  // namespace beam
