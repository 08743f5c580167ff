// SPDX-License-Identifier: Apache-2.0
// What each method makes of a text, against attention over sets of positions by the definitions, in double.
#include "experiment.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "loaded_model.hpp"
#include "log_sum_exp.hpp"
#include "real_model.hpp"
#include "session.hpp"
#include "tiny_session.hpp"

namespace read_less {
namespace {

using Vector = std::vector<double>;

generate::test::GgufWriter long_model() {
  auto writer = generate::test::tiny_model();
  writer.integer("llama.context_length", 400);
  return writer;
}

struct TinyText {
  generate::test::TinyModel tiny{long_model()};
  std::vector<TokenId> tokens = generate::test::some_tokens(398, 5);
  Settings settings{.prompt = 330, .tokens = 67, .keep = {}, .sinks = 3, .window = 16, .pool = 3};
};

/// Keeps of each layer and KV head what a method says, by position, and attends to it.
class Naive {
 public:
  Naive(Method method, Index keep, const Settings& settings, const generate::Hyperparameters& sizes)
      : method_(method), keep_(keep), settings_(settings), sizes_(sizes) {}

  void attend(Index layer, const auto& q, const auto& k, const auto& v, const auto& out, Index position) {
    for (Index g = 0; g < sizes_.num_kv_heads; ++g) {
      auto& all = heads_[{layer, g}];
      all.push_back({.position = position,
                     .k = {k.at(0, 0, g), k.at(0, 0, g) + sizes_.head_dim},
                     .v = {v.at(0, 0, g), v.at(0, 0, g) + sizes_.value_dim},
                     .mass = 0});
      const Index group = sizes_.num_q_heads / sizes_.num_kv_heads;
      std::vector<Vector> queries;
      for (Index h = g * group; h < (g + 1) * group; ++h)
        queries.push_back({q.at(0, 0, h), q.at(0, 0, h) + sizes_.head_dim});
      const std::set<Index> pages = chosen_pages(all, queries);
      for (Index i = 0; i < group; ++i) {
        double sum = 0;
        Vector weights, result(static_cast<std::size_t>(sizes_.value_dim));
        for (const Entry& entry : all) {
          const bool seen = pages.empty() || pages.count(entry.position / 64) > 0;
          weights.push_back(seen ? std::exp(score(queries[static_cast<std::size_t>(i)], entry.k)) : 0);
          sum += weights.back();
        }
        for (std::size_t j = 0; j < all.size(); ++j) {
          const double p = weights[j] / sum;
          for (std::size_t d = 0; d < result.size(); ++d) result[d] += p * all[j].v[d];
          const bool counts = method_ == Method::h2o || position >= settings_.prompt - settings_.window;
          if (counts) all[j].mass += p;
        }
        std::copy(result.begin(), result.end(), out.at(0, 0, g * group + i));
      }

      if (method_ != Method::pages && position >= settings_.prompt - 1 && std::ssize(all) >= keep_)
        evict(all);
    }
  }

 private:
  struct Entry {
    Index position;
    Vector k, v;
    double mass;
  };

  double score(const Vector& q, const Vector& k) const {
    double sum = 0;
    for (std::size_t d = 0; d < q.size(); ++d) sum += q[d] * k[d];
    return sum * sizes_.attention_scale;
  }

  /// Of the decoded tokens: none for all.
  std::set<Index> chosen_pages(const std::vector<Entry>& all, const std::vector<Vector>& queries) const {
    if (method_ != Method::pages || std::ssize(all) <= settings_.prompt) return {};
    const Index total = (settings_.num_tokens() + 63) / 64;  // a bound is as large as a token, where D = Dv
    const Index count = keep_ == settings_.num_tokens() ? total : (keep_ - total) / 64;
    std::map<Index, double> bounds;
    for (const Vector& q : queries) {
      std::map<Index, Vector> low, high;
      for (const Entry& entry : all) {
        const Index page = entry.position / 64;
        if (low[page].empty()) low[page] = high[page] = entry.k;
        for (std::size_t d = 0; d < q.size(); ++d) {
          low[page][d] = std::min(low[page][d], entry.k[d]);
          high[page][d] = std::max(high[page][d], entry.k[d]);
        }
      }
      for (const auto& [page, least] : low) {
        double bound = 0;
        for (std::size_t d = 0; d < q.size(); ++d) bound += std::max(q[d] * least[d], q[d] * high[page][d]);
        bounds[page] = bounds.count(page) > 0 ? std::max(bounds[page], bound) : bound;
      }
    }
    std::vector<std::pair<double, Index>> order;
    for (const auto& [page, bound] : bounds) order.push_back({-bound, page});
    std::ranges::sort(order);
    const Index last = std::ssize(all) - 1;
    std::set<Index> chosen{0, last / 64, (last - 63) / 64};
    for (const auto& [worth, page] : order)
      if (std::ssize(chosen) < count) chosen.insert(page);
    return chosen;
  }

  void evict(std::vector<Entry>& all) const {
    const Index count = keep_ - settings_.window, n = std::ssize(all);
    // The last `recent` stay; of the others the best.
    const Index recent = method_ == Method::recent   ? count - settings_.sinks
                         : method_ == Method::snapkv ? settings_.window
                                                     : count / 2;
    std::vector<std::pair<double, Index>> order;
    for (Index j = 0; j < n - recent; ++j) {
      double worth = -all[static_cast<std::size_t>(j)].mass;
      if (method_ == Method::recent) worth = static_cast<double>(j);
      if (method_ == Method::snapkv)
        for (Index i = std::max<Index>(j - settings_.pool / 2, 0);
             i <= std::min(j + settings_.pool / 2, n - recent - 1); ++i)
          worth = std::min(worth, -all[static_cast<std::size_t>(i)].mass);
      order.push_back({worth, j});
    }
    std::ranges::sort(order);
    std::set<Index> kept;
    for (Index i = 0; i < count - recent; ++i) kept.insert(order[static_cast<std::size_t>(i)].second);
    std::vector<Entry> next;
    for (Index j = 0; j < n; ++j)
      if (j >= n - recent || kept.count(j) > 0) next.push_back(all[static_cast<std::size_t>(j)]);
    if (method_ == Method::snapkv)
      for (Entry& entry : next) entry.mass = 0;
    all = std::move(next);
  }

  Method method_;
  Index keep_;
  const Settings& settings_;
  const generate::Hyperparameters& sizes_;
  std::map<std::pair<Index, Index>, std::vector<Entry>> heads_;
};

double naive_loss(TinyText& text, Method method, Index keep) {
  Naive naive(method, keep, text.settings, text.tiny.model.sizes);
  generate::Forward forward(text.tiny.model, text.tiny.executor);
  double sum = 0;
  for (Index t = 0; t < text.settings.num_tokens(); ++t) {
    const auto at = static_cast<std::size_t>(t);
    const Index position[] = {t};
    forward.run({&text.tokens[at], 1}, position,
                [&](Index layer, const auto& q, const auto& k, const auto& v, const auto& out) {
                  naive.attend(layer, q, k, v, out, t);
                });
    if (t < text.settings.prompt) continue;
    const auto& scores = forward.last_logits(1);
    sum += generate::log_sum_exp(scores.row(0)) - static_cast<double>(scores(0, text.tokens[at + 1]));
  }
  return sum / static_cast<double>(text.settings.tokens);
}

/// A float's rounding through two layers moves a mean of 67 logarithms of about ln 272 by less than 2e-6; the
/// methods are at least ten times as far from each other.
TEST(ReadLess, IsAttentionOverWhatTheMethodSays) {
  TinyText text;
  std::set<double> different;
  for (const Index keep : {100, 265}) {
    text.settings.keep = {keep};
    text.settings.methods = {Method::h2o, Method::snapkv, Method::recent};
    if (keep == 265) text.settings.methods = {Method::pages};
    const Results results = measure(text.tiny.model, text.tiny.executor, text.tokens, text.settings);
    different.insert(results.full_mean_negative_log);
    for (const Outcome& run : results.runs) {
      EXPECT_NEAR(run.mean_negative_log, naive_loss(text, run.method, run.keep), 2e-6) << name_of(run.method);
      different.insert(run.mean_negative_log);
    }
  }
  EXPECT_EQ(different.size(), 5U);
  for (auto a = different.begin(), b = std::next(a); b != different.end(); ++a, ++b) EXPECT_GT(*b - *a, 2e-5);
}

TEST(ReadLess, AllKeptIsWhatItWasToTheBit) {
  TinyText text;
  text.settings.keep = {text.settings.num_tokens()};
  const Results results = measure(text.tiny.model, text.tiny.executor, text.tokens, text.settings);
  for (const Outcome& run : results.runs)
    EXPECT_EQ(run.mean_negative_log, results.full_mean_negative_log) << name_of(run.method);

  // And that is the model's own, of a text read at once.
  const auto session = generate::make_session(text.tiny.model, generate::CacheType::f32, text.tiny.executor);
  session->append(std::span(text.tokens).first(static_cast<std::size_t>(text.settings.num_tokens())));
  const auto& scores = session->all_logits();
  double sum = 0;
  for (Index t = text.settings.prompt; t < text.settings.num_tokens(); ++t)
    sum += generate::log_sum_exp(scores.row(t)) -
           static_cast<double>(scores(t, text.tokens[static_cast<std::size_t>(t + 1)]));
  EXPECT_EQ(results.full_mean_negative_log, sum / static_cast<double>(text.settings.tokens));
}

TEST(ReadLess, StaysWithinItsBytes) {
  TinyText text;
  text.settings.keep = {265, 330};
  const Results results = measure(text.tiny.model, text.tiny.executor, text.tokens, text.settings);
  EXPECT_EQ(results.token_bytes, 2 * 2 * 32 * 4);
  EXPECT_EQ(results.full_bytes_held, text.settings.num_tokens() * results.token_bytes);
  EXPECT_EQ(results.full_bytes_read, (330 + 68 / 2.0) * static_cast<double>(results.token_bytes));
  for (const Outcome& run : results.runs) {
    const Index budget = run.keep * results.token_bytes;
    EXPECT_LE(run.bytes_read, static_cast<double>(budget)) << name_of(run.method);
    // What is dropped at once, and for pages what the last one is not full of, and what is no whole one.
    EXPECT_GE(run.bytes_read, static_cast<double>(budget - 128 * results.token_bytes)) << name_of(run.method);
    if (run.method == Method::pages)
      EXPECT_EQ(run.bytes_held, (text.settings.num_tokens() + 7) * results.token_bytes);
    else
      EXPECT_LE(run.bytes_held, budget) << name_of(run.method);
  }
}

TEST(ReadLess, TakesAPromptThatFitsAlready) {
  TinyText text;
  text.settings.keep = {340};
  const Results results = measure(text.tiny.model, text.tiny.executor, text.tokens, text.settings);
  for (const Outcome& run : results.runs)
    EXPECT_NEAR(run.mean_negative_log, naive_loss(text, run.method, run.keep), 2e-6) << name_of(run.method);
}

TEST(ReadLess, KeepsARealModelsPerplexity) {
  GENERATE_SKIP_WITHOUT_MODEL();
  GENERATE_SKIP_UNDER_SANITIZERS();
  const generate::ModelFile file(*generate::test::real_model());
  const generate::LoadedModel loaded(file, 2, {});
  const generate::MappedFile text(READ_LESS_TEXT);
  const auto tokens =
      file.tokenizer.encode({reinterpret_cast<const char*>(text.bytes().data()), text.bytes().size()});
  const Settings settings{
      .prompt = 400, .tokens = 16, .keep = {288, 416}, .methods = {Method::pages, Method::snapkv}};
  const Results results = measure(loaded.model, loaded.executor, tokens, settings);
  EXPECT_EQ(results.runs[2].mean_negative_log, results.full_mean_negative_log);
  EXPECT_EQ(results.runs[3].mean_negative_log, results.full_mean_negative_log);
  for (const Outcome& run : results.runs)
    EXPECT_NEAR(run.mean_negative_log, results.full_mean_negative_log, 1);
}

}  // namespace
}  // namespace read_less
